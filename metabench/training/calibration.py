"""How sure a learner is of pictures of tasks that it never saw, kept with a run so that its probabilities,
and sets of classes, can be relied on where the data are not.

What is kept is what it says of each query, so that what holds of an ensemble follows from its members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metabench import stats
from metabench.core import Splits, Task, Tree
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen
from metabench.storage import files, tensors
from metabench.storage.files import Damaged
from metabench.training import diagnostics, evaluate
from metabench.training.vectorise import Model

TASKS = 200
"""Tasks of meta-validation's classes that no rung has judged by."""

QUERIES = 75
"""Of a task at most: how sure a learner is differs more between tasks than within one."""

EVERY = 5
"""Each so many tasks one is for the temperature; the threshold is of the others, so that it is exact."""

LEVEL = 0.9
"""Coverage that the board speaks of."""

LEAST = -6e4  # a logarithm that float16 can hold

PADDING = -1  # label of a query that a task does not have


class Outputs(NamedTuple):
    """What one run says of the queries, on tasks that all runs of its data and kind of task share."""

    log_p: Tensor  # float16 [T, n, N], NaN where adapting diverged; -inf of classes that a task lacks
    y: Tensor  # int16 [T, n], -1 beyond a task's queries
    tasks_hash: str


class Calibration(NamedTuple):
    """What follows from that for runs whose probabilities are averaged."""

    temperatures: tuple[float, ...]  # by which each run's logits are divided
    scores: stats.Floats  # [K, n], 1 - probability of the right class; NaN beyond a task's queries


def write(folder: Path, model: Model, splits: Splits, task: TaskConfig, device: torch.device | str) -> None:
    """Predict tasks of meta-validation as a user's pictures are, and keep what comes out."""
    tasks = frozen.frozen(splits, "meta_validation", _plain(task), TASKS, "calibration")
    images = splits.meta_validation.images.to(device)
    text = {"tasks_hash": tasks.hash, "weights": _digest(folder)}
    log_p, y, _ = outputs(evaluate.by_itself(model), images, tasks)
    tensors.save(folder / files.CALIBRATION, {"log_p": log_p, "y": y}, text)


def _plain(task: TaskConfig) -> TaskConfig:
    """Return the kind of task that a user has, whose support set has no unlabelled pictures."""
    n_queries = min(task.test_query, max(1, QUERIES // task.ways[1]))
    return task.evaluated.model_copy(update={"unlabelled": 0, "distractors": 0, "test_query": n_queries})


def outputs(model: Model, images: Tensor, tasks: frozen.FrozenTasks) -> Outputs:
    """Predict the queries of frozen tasks."""
    most = max(group.shape.n_labels for group in tasks.groups)
    n_queries = max(group.shape.way * group.shape.query for group in tasks.groups)

    def look(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        # Relative to the likeliest class float16 is exact enough, whatever the logits' own level is.
        log_p = algorithm.predict(net, learner, task.query.x).log_softmax(-1).clamp(min=LEAST)
        rest = n_queries - len(log_p)
        padded = F.pad(log_p, (0, most - log_p.shape[-1], 0, rest), value=-torch.inf)
        return {"log_p": padded, "y": F.pad(task.query.y, (0, rest), value=PADDING)}

    looked = evaluate.over(look, model, images, tasks)
    log_p, y = torch.from_numpy(looked["log_p"]).half(), torch.from_numpy(looked["y"]).short()
    return Outputs(log_p, y, tasks.hash)


def read(folder: Path) -> Outputs | None:
    """Read what was kept; None where there is nothing, or where it is of other weights."""
    path = folder / files.CALIBRATION
    if files.is_missing(path):
        return None
    flat, text = tensors.load(path)
    log_p, y = flat.get("log_p"), flat.get("y")
    is_right = (
        log_p is not None
        and y is not None
        and (log_p.dtype, y.dtype, log_p.ndim) == (torch.float16, torch.int16, 3)
        and log_p.shape[:2] == y.shape
        and log_p.numel() > 0
        and bool(((y >= PADDING) & (y < log_p.shape[2])).all() & (y >= 0).any(1).all())
    )
    if log_p is None or y is None or not is_right:
        raise Damaged(path, "holds something else than what a run says of queries")
    return Outputs(log_p, y, text.get("tasks_hash", "")) if text.get("weights") == _digest(folder) else None


def _digest(folder: Path) -> str:
    """Tell weights from others."""
    return hashlib.sha256((folder / files.WEIGHTS).read_bytes()).hexdigest()


def of(folders: Sequence[Path]) -> Calibration | None:
    """Derive what holds of runs together; None where one of them has kept nothing."""
    members = [outputs for folder in folders if (outputs := read(folder)) is not None]
    if len(members) < len(folders) or len({one.tasks_hash for one in members}) > 1:
        return None
    return combine(members)


def combine(members: Sequence[Outputs]) -> Calibration:
    """Derive what holds of the mean of runs' probabilities, each divided by a temperature of its own."""
    y = members[0].y.long().numpy()
    temperatures = [_temperature(one.log_p.double().numpy()[::EVERY], y[::EVERY]) for one in members]
    is_other = np.arange(len(y)) % EVERY > 0
    others = torch.from_numpy(is_other)
    shares = sum(
        (one.log_p[others].double() / t).softmax(-1) for one, t in zip(members, temperatures, strict=True)
    ) / len(members)
    kept = y[is_other]
    right = np.take_along_axis(torch.as_tensor(shares).numpy(), kept.clip(0)[:, :, None], 2)[:, :, 0]
    scores = np.where(np.isfinite(right), 1 - right, np.inf)  # of no number, the worst
    return Calibration(tuple(temperatures), np.where(kept == PADDING, np.nan, scores))


def _temperature(log_p: stats.Floats, y: np.ndarray) -> float:
    is_query = (y != PADDING) & ~np.isnan(log_p).any(2)
    return stats.temperature(log_p[is_query], y[is_query]) if is_query.any() else 1.0


def least(calibration: Calibration, coverage: float) -> float:
    """Return the probability that a class in a set has at least."""
    return 1 - stats.threshold(calibration.scores, coverage)


def judge(calibration: Calibration) -> Callable[[Tensor, Tensor], Tree]:
    """Return what says of the logits of a task how right one run's probabilities and sets are."""
    (temperature,), least_share = calibration.temperatures, least(calibration, LEVEL)

    def judged(logits: Tensor, y: Tensor) -> Tree:
        scaled = logits.double() / temperature
        is_in = (scaled.softmax(-1) >= least_share).double()
        sizes = {"coverage": is_in.gather(-1, y[:, None]).mean(), "set_size": is_in.sum(-1).mean()}
        return sizes | diagnostics.binned(scaled, y)

    return judged


def judgement(calibration: Calibration, judged: Mapping[str, stats.Floats]) -> dict[str, Any]:
    """Sum up what was said of tasks, for the result of a test."""
    return {
        "temperature": calibration.temperatures[0],
        "calibration_error": diagnostics.calibration_error(judged),
        "level": LEVEL,
        **{key: judged[key].tolist() for key in ("coverage", "set_size")},
    }
