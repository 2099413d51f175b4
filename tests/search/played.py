"""A trial that plays a part instead of training; it imports little, since every crash costs a new process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from metabench.storage import files


def make_report(
    tasks_seen: int, accuracy: float | None, seconds: float = 1.0, scores: Sequence[float] = ()
) -> dict[str, Any]:
    """Return a report as a trial would send it; no accuracy stands for a trial that diverged."""
    return {
        "tasks_seen": tasks_seen,
        "finite": accuracy is not None,
        "val_score": accuracy,
        "val_accuracy": accuracy,
        "val_ci": None if accuracy is None else 0.01,
        "val_loss": None if accuracy is None else 1.0,
        "val_scores": list(scores),
        "train_accuracy": accuracy,
        "train_loss": None if accuracy is None else 1.0,
        "seconds": seconds,
        "peak_memory": 1,
        "logs": {},
    }


def make_error_report(tasks_seen: int, error: float | None) -> dict[str, Any]:
    """Return a report of regression as a trial would send it; no error stands for a trial that diverged."""
    score = None if error is None else -error
    unknown = {"val_accuracy": None, "train_accuracy": None}
    return {**make_report(tasks_seen, score), **unknown, "val_loss": error, "train_loss": error}


def played_trial(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Raise, crash once, diverge or report ever worse accuracies, by name; leave a line for each attempt."""
    name = config["trial"]
    work = Path(place) / "played" / name
    attempts = len(files.read_lines(work))
    files.append_line(work, {"attempt": attempts})
    number = int(name[-3:])
    if name == "maml-001":
        raise ValueError(f"{name} is broken")
    if name == "maml_pp-002" and attempts == 0:
        os._exit(1)  # as when a node dies
    for rung in (100, 900) if space["budget"]["scheduler"] == "top_k" else (100, 300, 900):
        accuracy = None if number == 3 else 0.9 - number / 20
        tune.report({"tasks_seen": rung, "report": json.dumps(make_report(rung, accuracy))})


def broken_place(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Tell that something is out of order on the only node, as a trial does that finds the disk full."""
    node = ray.get_runtime_context().get_node_id()
    # The key is the scheduler's PROBLEM, which would import all that it needs.
    tune.report({"tasks_seen": 0, "problem": "no space left", "node": node})


def doubtful_trial(config: dict[str, Any], place: str, space: dict[str, Any], reevaluation: Any) -> None:
    """Report accuracies that differ by noise, and once more with more tasks where the driver asks for it."""
    number = int(config["trial"][-3:])
    reports = Path(place) / "trials" / config["trial"] / files.REPORTS
    for rung in (100, 300, 900):
        scores = [0.5 + ((number + task) % 3 - 1) / 10 - number / 1000 for task in range(4)]
        report = make_report(rung, sum(scores) / 4, scores=scores)
        files.append_line(reports, report)
        tune.report({"tasks_seen": rung, "report": json.dumps(report)})
        if reevaluation.ask(config["trial"], rung):
            scores += [0.5 + number / 100] * 4
            report |= {"val_scores": scores, "borderline_score": sum(scores) / 8}
            files.write_lines(reports, [*files.read_lines(reports)[:-1], report])
            tune.report({"tasks_seen": rung, "report": json.dumps(report)})


def smooth_trial(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Report accuracies with their best inner rate at 0.3."""
    best = 0.9 - (config["hyperparameters"]["inner_lr"] - 0.3) ** 2
    for rung in (100, 300, 900):
        line = make_report(rung, round(best - 10 / rung, 6), seconds=rung / 100)
        tune.report({"tasks_seen": rung, "report": json.dumps(line)})


def packed_trial(config: dict[str, Any], place: str, space: dict[str, Any]) -> None:
    """Leave word of the GPU and wait until four trials have, so that they are known to be there at once."""
    word = Path(place) / "packed" / f"{config['trial']}.json"
    files.write_json(word, {"gpus": ray.get_gpu_ids(), "visible": os.environ["CUDA_VISIBLE_DEVICES"]})
    deadline = time.monotonic() + 120
    while len(list(word.parent.glob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    tune.report({"tasks_seen": 900, "report": json.dumps(make_report(900, 0.5))})
