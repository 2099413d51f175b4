"""Runs of a few tasks to predict with, each trained once a session, and pictures to give them."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabench import PROTOCOL, algorithms
from metabench.core import Pictures, Splits, metrics
from metabench.core.config import BudgetConfig, NetworkConfig, SearchSpace
from metabench.storage import files
from metabench.training import calibration, diagnostics
from metabench.training import run as runs
from tests.support import small

PICTURES = Pictures()
CALIBRATED = calibration.TASKS
DOUBTED = ("protonet", "maml")
"""Learners whose calibration is looked at; of the others it would take more than their training."""

STEPS = {"inner_steps": 2, "eval_steps": 3}


@contextmanager
def quickly(calibrated: int = CALIBRATED) -> Iterator[None]:
    """Let a diagnosis follow few tasks; a calibration takes as many whatever package's tests come first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "TASKS", 2)
        patch.setattr(diagnostics, "FOLLOWED", 1)
        patch.setattr(calibration, "TASKS", calibrated)
        yield


def splits(pictures: Pictures | None = PICTURES) -> Splits:
    """Return the small data set, of which pictures become inputs."""
    return small.splits()._replace(pictures=pictures)


def config(name: str, seed: int = 0, tasks: int = 8, **network: Any) -> Any:
    """Describe a run of two meta-steps, with its published settings but fewer inner steps."""
    described = small.config(name, tasks, (tasks,))
    fields = algorithms.get(name).hparams.__dataclass_fields__
    return described.model_copy(
        update={
            "hyperparameters": {key: n for key, n in STEPS.items() if key in fields},
            "network": NetworkConfig(**{"width": 4, **network}),
            "seed": seed,
            "validation_tasks": 2,
        }
    )


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp())


def run(name: str = "protonet", seed: int = 0, **network: Any) -> Path:
    """Train a run once and return its folder, which tests leave as it is."""
    folder = _folder() / "-".join([name, str(seed), *(f"{key}={network[key]}" for key in sorted(network))])
    if not (folder / files.CALIBRATION).exists():
        with quickly(CALIBRATED if name in DOUBTED else 10):
            runs.train_run(config(name, seed, **network), splits(), folder)
    return folder


def search(folder: Path, confirmed: dict[str, float | None], seeds: int = 1) -> Path:
    """Write a search whose final runs are real, and whose confirmation is made up."""
    chosen = {
        name: {"trial": name, "hyperparameters": {}, "confirm_accuracy": figure}
        for name, figure in confirmed.items()
    }
    budget = BudgetConfig(tasks=8, trials=1, grace=8, seeds=seeds)
    space = SearchSpace(
        task=small.TASK, budget=budget, algorithms={name: {} for name in confirmed or ["maml"]}
    )
    record = {"protocol": PROTOCOL, "seed": 0, "data_fingerprint": "0" * 64, "space": space.model_dump()}
    record["metric"] = metrics.ACCURACY._asdict()
    files.write_json(folder / files.SEARCH, record)
    files.write_json(folder / files.CHOSEN, chosen)
    for name in confirmed:
        for seed in range(seeds):
            for variant in ("tuned", "default"):
                shutil.copytree(run(name, seed), folder / files.FINAL / f"{name}-{variant}-seed{seed}")
    return folder


def draw(n: int = 6, seed: int = 0, channels: int = 1, size: int = 16) -> np.ndarray:
    """Draw noise, uint8 [n, H, W, C], whose classes, each other picture, differ in their mean image."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).uniform(0, 255, (2, size, size, channels))
    noise = rng.uniform(0, 255, (n, size, size, channels))
    return (0.6 * means[np.arange(n) % 2] + 0.4 * noise).astype(np.uint8)


def classes_on_disk(folder: Path, n_classes: int = 3, shots: int = 2, size: int = 16) -> Path:
    """Write a folder of classes of grey pictures."""
    for number in range(n_classes):
        (folder / f"class{number}").mkdir(parents=True)
        for shot, picture in enumerate(draw(shots, seed=number, size=size)):
            Image.fromarray(picture[:, :, 0]).save(folder / f"class{number}" / f"{shot}.png")
    return folder


def unfinished() -> None:
    """Make the run here one that has not seen all its tasks."""
    (report,) = files.read_lines(Path("run") / files.REPORTS)
    files.write_lines(Path("run") / files.REPORTS, [{**report, "tasks_seen": 4}])


def regression() -> None:
    """Make the run here one of regression."""
    shutil.rmtree("run")
    with quickly():
        config = small.regression(tasks=8).model_copy(update={"rungs": [8]})
        runs.train_run(config, small.sinusoids(), Path("run"))


def no_pictures() -> None:
    """Let the run here not say how a picture becomes an input."""
    record = files.read_json(Path("run/inputs.json"))
    files.write_json(Path("run/inputs.json"), {**record, "pictures": None})
