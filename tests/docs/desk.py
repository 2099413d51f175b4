"""A folder in which the documents' commands run in seconds: small spaces, small data, a finished search.

`SMALLER`, `TIMED` and `STAND_INS` say all that is different from what a reader types.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from metabench import data
from metabench.core.config import TaskConfig
from metabench.search import space as spaces
from metabench.search.stages import automatic, plan
from metabench.storage import files
from tests.docs.snippets import ROOT
from tests.report import played

SMALLER: dict[str, list[str]] = {
    "train": [
        *("--tasks", "8", "--reports", "2", "--validation-tasks", "4", "--width", "4"),
        *("--query", "2", "--test-query", "3"),
    ],
    "test": ["--tasks", "4"],
    "label": ["--tasks", "2", "--rounds", "1", "--pool", "3", "--query", "2"],
    "simulate": ["--repeats", "1"],
    "datasets tasks": ["--tasks", "4", "--way", "5"],
}
"""Options that are added to a command, so that it is over soon."""

TIMED = ["--algorithms", "protonet,r2d2"]
"""Added to a search within a time, which measures how fast each learner is before it starts."""

STAND_INS = {
    "RUN": "runs/demo/final/maml-tuned-seed0",
    "omniglot": "glyphs",
    "20": "5",
}
"""Words of a command to what takes their place, for commands that need large data or a run."""

BUDGET: dict[str, Any] = {
    "tasks": 16,
    "trials": 2,
    "grace": 8,
    "reduction_factor": 2,
    "scheduler": "asha",
    "pause": False,  # as searches are played
    "validation_tasks": 4,
    "confirm_top": 1,
    "confirm_tasks": 4,
    "seeds": 1,
    "test_tasks": 8,
}

EXTENDED = {"--trials": "3", "--tasks": "32", "--seeds": "2", "--time": "3m"}
"""Options of a real search to what follows them here: a little more than `BUDGET`, or a little time."""

ALPHABET = "images_background/Sanskrit"
"""What the tutorial takes from Omniglot."""

LETTERS = "data/omniglot/images_background.zip"


def shrink(space: dict[str, Any]) -> dict[str, Any]:
    """Return a search space with a small network and budget, on built-in data where its own may be absent."""
    task = {**space["task"], "query": 2, "test_query": 3}
    if task["dataset"] == "communities":
        task = {**task, "dataset": "zafar", "options": {"tasks": 40, "people": 30}}
    elif task["dataset"] == "navigation":
        task = {**task, "shot": 2, "options": {"environments": 50, "horizon": 4}}
    elif task["dataset"] not in ("glyphs", "sinusoid", "folder"):
        task = {**task, "dataset": "glyphs", "split": None, "options": {}}
    network = {**space.get("network", {}), "width": 4}
    kept = {key: value for key, value in space["budget"].items() if key not in ("rungs", "borderline_tasks")}
    stages = [len(one.get("grow") or ()) for one in (network, *space.get("networks", {}).values())]
    budget = {**kept, **BUDGET, "trials": max(BUDGET["trials"], *stages)}
    return {**space, "task": task, "network": network, "budget": budget}


def small_spaces(folder: Path) -> None:
    """Write the search spaces of the repository, shrunk."""
    folder.mkdir()
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        (folder / path.name).write_text(yaml.safe_dump(shrink(yaml.safe_load(path.read_text()))))


def finished_search(folder: Path, space: Path) -> None:
    """Play a search of a space on its own data: its proposals and final runs are real, its curves made up."""
    loaded = spaces.load(space)
    splits = data.load(loaded.task)
    played.finish(played.play(folder, loaded, splits), loaded, splits)


def letters(place: Path) -> None:
    """Write a small part of Omniglot's archive: one alphabet, real where there is data, else of glyphs."""
    place.parent.mkdir(parents=True)
    root = os.environ.get("METABENCH_DATA")
    source = Path(root or "") / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(place, "w") as out:
        if root and source.exists():
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    if name.startswith(f"{ALPHABET}/") and name.endswith(".png"):
                        out.writestr(name, archive.read(name))
            return
        images = data.load(TaskConfig(dataset="glyphs")).meta_train.images[:42, :20, 0].numpy()
        for row, drawings in enumerate(images):
            for column, pixels in enumerate(drawings):
                with out.open(f"{ALPHABET}/character{row:02}/{column:02}.png", "w") as file:
                    Image.fromarray(pixels).save(file, format="PNG")


def my_images(desk: Path, kept: Path) -> None:
    """Put the folder of images there that a page takes for granted."""
    with zipfile.ZipFile(kept / LETTERS) as archive:
        archive.extractall(desk)
    (desk / ALPHABET).rename(desk / "my_images")


def my_space(desk: Path, texts: list[str]) -> None:
    """Write the search space that a page tells people to write, shrunk."""
    for text in texts:
        space = shrink(yaml.safe_load(text.replace("/path/to", str(desk))))
        (desk / "mine.yaml").write_text(yaml.safe_dump(space))


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Let a plan measure for a moment."""
    patch.setattr(plan, "SECONDS", 0.05)
    patch.setattr(automatic, "LEAST", 0.05)
    patch.setattr(automatic, "MOST", 0.05)


def new_classes(desk: Path, kept: Path) -> None:
    """Put three classes, and pictures of them, where a user would have classes of his own."""
    with zipfile.ZipFile(kept / LETTERS) as archive:
        drawings: dict[str, list[str]] = {}
        for name in sorted(archive.namelist()):
            drawings.setdefault(name.rpartition("/")[0], []).append(name)
        for folder, (first, second, *_) in list(drawings.items())[:3]:
            letter = Path(folder).name
            for path, name in ((f"new_classes/{letter}/1.png", first), (f"photos/{letter}.png", second)):
                (desk / path).parent.mkdir(parents=True, exist_ok=True)
                (desk / path).write_bytes(archive.read(name))


def lay(desk: Path, kept: Path) -> None:
    """Lay out a new folder with copies of what was prepared once."""
    new_classes(desk, kept)
    shutil.copytree(kept / "search_spaces", desk / "search_spaces")
    shutil.copytree(kept / "runs", desk / "runs")
    (desk / "benchmarks").symlink_to(ROOT / "benchmarks")


def stand_in(kept: Path) -> Any:
    """Return what takes the place of the search itself, after all checks: it leaves the finished one."""

    def search(space: Any, out: Path, name: str, **options: Any) -> Path:
        folder = out / name
        if not (folder / files.SEARCH).exists():
            shutil.copytree(kept / "runs" / "demo", folder)
        return folder

    return search
