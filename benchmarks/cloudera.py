"""Beat the experiment of Cloudera Fast Forward's report: six cells, its settings, and those of a search.

Quick, Draw! with 20 drawings a class. In each cell `metabench search` tunes a learner, and MAML is trained
with the published settings on as many tasks. Every network is tested three ways on the same meta-test
classes: as the report did, with as many queries as shots; with 15; and inductively, normalised by the support
set. Results are kept in `benchmarks/cloudera/`, a search without its weights in each archive; once unpacked,
`metabench leaderboard`, `across` and `report` read them. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from published import CELLS_OF_CLOUDERA
from reproduce import configure

from metabench import data, stats
from metabench.core import MetabenchError
from metabench.data.tasks import frozen
from metabench.search import space as spaces
from metabench.storage import files
from metabench.training import evaluate, loop
from metabench.training import run as runs

HERE = Path(__file__).parent
SPACE = HERE.parent / "search_spaces" / "quickdraw_5w1s.yaml"
KEPT = HERE / "cloudera"

TASKS = {(5, 1): 9900, (10, 1): 5400, (5, 5): 4500, (10, 5): 2700, (5, 10): 2700, (10, 10): 1800}
"""Ways and shots to meta-train tasks of a full run: about five minutes of one core for MAML."""

ALGORITHMS = ("maml", "protonet", "fomaml", "r2d2", "alpha_maml", "maml_pp")
PUBLISHED = "published"
ROWS = (PUBLISHED, *ALGORITHMS)

MATCHED, TOGETHER, INDUCTIVE = (
    "as many queries as shots",
    "15 queries a class",
    "15 queries, normalised by the support set",
)
TESTS = (MATCHED, TOGETHER, INDUCTIVE)
TESTED = "tested.json"
"""Of a run: the accuracies of each way of testing."""

BUDGET: dict[str, Any] = {"trials": 6, "validation_tasks": 100, "confirm_top": 2, "confirm_tasks": 300}
BUDGET |= {"seeds": 3, "test_tasks": 600, "default_runs": False}


class Cell(NamedTuple):
    """One of the six, and what Cloudera published for it."""

    way: int
    shot: int
    percent: float

    @property
    def name(self) -> str:
        """Return how its files are called."""
        return f"{self.way}w{self.shot}s"


def cells() -> list[Cell]:
    """List the cells of 20 drawings a class, the cheapest first."""
    published = {
        (one.task["way"], one.task["shot"]): one.published
        for one in CELLS_OF_CLOUDERA
        if one.task["options"]["examples_per_class"] == 20
    }
    return [Cell(way, shot, published[way, shot] or np.nan) for way, shot in TASKS]


def search(cell: Cell, algorithm: str, out: Path) -> Path:
    """Run a search, or what is left of it; return its folder."""
    name = f"{cell.name}-{algorithm}"
    space = spaces.override(spaces.load(SPACE), tasks=TASKS[cell.way, cell.shot], **BUDGET)
    described = space.model_dump(mode="json")
    described["task"] |= {"way": cell.way, "shot": cell.shot}
    files.write_text(out / f"{name}.yaml", yaml.safe_dump(described, sort_keys=False))
    words = ["search", str(out / f"{name}.yaml"), "--out", str(out), "--name", name, "--quiet"]
    words += ["--algorithms", algorithm]
    done = subprocess.run([sys.executable, "-m", "metabench", *words], stdout=subprocess.DEVNULL)
    if done.returncode:  # it has said why
        raise SystemExit(done.returncode)
    return out / name


def train_published(cell: Cell, out: Path) -> Path:
    """Train MAML as Cloudera did, on as many tasks as a search has; return the folder of its runs."""
    (published,) = (one for one in CELLS_OF_CLOUDERA if one.name == f"quickdraw20-{cell.name}-maml")
    for seed in range(BUDGET["seeds"]):
        config = configure(published, TASKS[cell.way, cell.shot], seed)
        splits, folder = data.load(config.task), out / f"{cell.name}-{PUBLISHED}" / f"seed{seed}"
        runs.train_run(config, splits, folder)
        if not (folder / files.TEST).exists():
            runs.test_run(folder, splits, BUDGET["test_tasks"], is_diagnosed=False)
    return out / f"{cell.name}-{PUBLISHED}"


def test(folder: Path) -> None:
    """Score a run in the ways that its own test is not, and keep what each task got."""
    config = runs.read_config(folder)
    splits = data.load(config.task)
    model = runs.open_run(folder, splits).model
    network = config.network.model_copy(update={"batch_norm": "support_stats"})
    inductive = model._replace(net=loop.build(config.model_copy(update={"network": network}), splits).net)
    matched = config.task.model_copy(update={"test_query": config.task.shot})
    tested_alike = files.read_json(folder / files.TEST)
    record = {TOGETHER: {key: tested_alike[key] for key in ("accuracy", "tasks_hash")}}
    for way, tested, task in ((MATCHED, model, matched), (INDUCTIVE, inductive, config.task)):
        tasks = frozen.frozen(splits, "meta_test", task, BUDGET["test_tasks"], "test")
        scored = evaluate.evaluate(tested, splits.meta_test.images, tasks)
        record[way] = {"accuracy": scored.score.tolist(), "tasks_hash": tasks.hash}
    files.write_json(folder / TESTED, record)


def tested_runs(folder: Path) -> list[Path]:
    """List the full runs of a search, or of the published settings."""
    inside = folder / files.FINAL if (folder / files.FINAL).exists() else folder
    return sorted(path.parent for path in inside.glob(f"*/{files.CONFIG}"))


def keep(folder: Path, path: Path) -> None:
    """Archive what a search or a folder of runs says, all but weights and events."""
    part = path.with_suffix(".part")
    with tarfile.open(part, "w:xz") as archive:
        for one in sorted(folder.rglob("*.json*")):
            archive.add(one, str(one.relative_to(folder.parent)))
    part.replace(path)


def fill(cell: Cell, algorithm: str, out: Path) -> None:
    """Search or train, test and keep one column of a cell."""
    path = KEPT / f"{cell.name}-{algorithm}.tar.xz"
    if path.exists():
        return
    folder = train_published(cell, out) if algorithm == PUBLISHED else search(cell, algorithm, out)
    for run in tested_runs(folder):
        if not (run / TESTED).exists():
            test(run)
    KEPT.mkdir(exist_ok=True)
    keep(folder, path)
    print(f"{datetime.datetime.now():%H:%M} {path.name}", flush=True)


def unpack(cell: Cell, row: str, folder: Path) -> list[Path]:
    """Unpack what is kept of a row, if anything is, and return its folders: a search, or runs."""
    path = KEPT / f"{cell.name}-{row}.tar.xz"
    if not path.exists():
        return []
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    inside = folder / f"{cell.name}-{row}"
    return sorted(inside.iterdir()) if row == PUBLISHED else [inside]


def read(cell: Cell, row: str) -> list[dict[str, Any]]:
    """Read what the seeds' tests said, where they are kept."""
    with tempfile.TemporaryDirectory() as name:
        folders = unpack(cell, row, Path(name))
        return [files.read_json(one) for folder in folders for one in sorted(folder.rglob(TESTED))]


def report(cell: Cell, out: Path) -> None:
    """Write the report of all that is kept of a cell into a folder."""
    with tempfile.TemporaryDirectory() as name:
        folders = [folder for row in ROWS for folder in unpack(cell, row, Path(name))]
        if folders:
            words = ["report", *map(str, folders), "--out", str(out / f"{cell.name}.html")]
            subprocess.run([sys.executable, "-m", "metabench", *words], check=True)


def accuracies(tested: Sequence[Mapping[str, Any]], way: str) -> np.ndarray:
    """Return the accuracies, [seeds, T], of one way of testing."""
    return np.array([one[way]["accuracy"] for one in tested])


def shown(mean: float, low: float, high: float, sign: str = "") -> str:
    """Write a figure with its interval in points."""
    return f"{100 * mean:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def table(way: str) -> str:
    """Return the table of one way of testing: published, trained alike, and tuned with paired differences.

    Cells and learners of which nothing is kept are left out.
    """
    kept = {(cell, row): read(cell, row) for cell in cells() for row in ROWS}
    learners = [name for name in ALGORITHMS if any(kept[cell, name] for cell in cells())]
    lines = [
        "| cell | tasks | published | its settings here " + "".join(f"| {name} " for name in learners) + "|"
    ]
    lines.append("|---" * (4 + len(learners)) + "|")
    for cell in cells():
        base = kept[cell, PUBLISHED]
        line = [f"{cell.way}-way {cell.shot}-shot", f"{TASKS[cell.way, cell.shot]:,}"]
        line.append(f"{cell.percent:.2f}" if way == MATCHED else "")
        line.append(shown(*stats.seeds_and_tasks(accuracies(base, way))[:3]) if base else "")
        for name in learners:
            line.append(against(kept[cell, name], base, way))
        if any(kept[cell, row] for row in ROWS):
            lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def beside_maml() -> str:
    """Return the table of how far others are above tuned MAML, paired, in each way of testing."""
    lines = [f"| cell | learner | {' | '.join(TESTS)} |", "|---" * (2 + len(TESTS)) + "|"]
    for cell in cells():
        maml = read(cell, ALGORITHMS[0])
        for name in ALGORITHMS[1:]:
            if maml and (tested := read(cell, name)):
                apart = " | ".join(difference(tested, maml, way) for way in TESTS)
                lines.append(f"| {cell.way}-way {cell.shot}-shot | {name} | {apart} |")
    return "\n".join(lines)


def against(tested: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], way: str) -> str:
    """Write the accuracy of a row, and how far it is above another, paired, where both are there."""
    if not tested:
        return ""
    text = shown(*stats.seeds_and_tasks(accuracies(tested, way))[:3])
    return f"{text}: {difference(tested, base, way)}" if base else text


def difference(tested: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], way: str) -> str:
    """Write how far a row is above another, paired over the same tasks."""
    if len({one[way]["tasks_hash"] for one in (*tested, *base)}) > 1:
        raise MetabenchError(f"{way}: two rows of a cell have other tasks")
    return shown(*stats.paired(accuracies(tested, way), accuracies(base, way))[:3], sign="+")


def main() -> int:
    """Fill the cells that were asked for, and print the tables of all that is kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [cell.name for cell in cells()]
    parser.add_argument(
        "--cells", nargs="*", choices=names, default=names, help="none: print the tables alone"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="what is trained in them")
    parser.add_argument("--reports", type=Path, help="folder to write a report of each cell into")
    parser.add_argument("--out", type=Path, default=Path("runs/cloudera"), help="folder of the searches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        for cell, row in itertools.product(cells(), options.rows):
            if cell.name in options.cells:
                fill(cell, row, options.out)
    except MetabenchError as error:
        parser.error(str(error))
    for cell in cells() if options.reports else ():
        report(cell, options.reports)
    for way in TESTS:
        print(f"\nTested with {way}:\n\n{table(way)}")
    print(f"\nAbove tuned MAML:\n\n{beside_maml()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
