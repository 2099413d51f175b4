"""What `search.py` has both sides run and note: trials that only report, and the driver's times and memory.

Imports neither metabench nor torch, which plain Ray Tune does not need.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAITS = "waits"
"""Folder of what the workers note, one file a process, one line a trial."""


class Notes:
    """When the driver heard of the first report and of each ending, and what it had used by then."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.memory: list[int] = []

    def reported(self) -> None:
        """Note a report."""
        self.first = self.first or time.time()

    def ended(self) -> None:
        """Note an ending."""
        self.ends.append(time.time())
        self.cpu.append(time.process_time())
        self.memory.append(resident())

    def dump(self, begun: float) -> dict[str, Any]:
        """Return what was noted, in seconds since the command was started and bytes."""
        assert self.first is not None, "no trial has reported"
        ends = [end - begun for end in self.ends]
        times = {"first_report": self.first - begun, "ends": ends, "whole": time.time() - begun}
        return {**times, "cpu": self.cpu, "memory": self.memory}


def resident() -> int:
    """Return the bytes of memory that this process holds and that are no file's."""
    with open("/proc/self/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) * 1024


def play(n_reports: int, seconds: float, folder: Path, tell: Callable[[dict[str, Any]], None]) -> None:
    """Report at 1, 3, 9, ... tasks seen, after some seconds of work each, and note when.

    A line has the start, then each report and the answer to it; the last report has no answer, since the
    trial is stopped within it. The score is the time, so whoever arrives is the best so far.
    """
    times = [time.time()]
    for index in range(n_reports):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:  # keeps a core busy, as training does
            pass
        times.append(time.time())
        if index == n_reports - 1:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(times) + "\n")
        tell(make_report(3**index, times[-1]))
        times.append(time.time())


def make_report(tasks_seen: int, score: float) -> dict[str, Any]:
    """Return a report as `metabench.training.loop` makes it."""
    return {
        "tasks_seen": tasks_seen,
        "finite": True,
        "val_score": score,
        "val_accuracy": score,
        "val_ci": 0.01,
        "val_loss": 1.0,
        "val_scores": [],
        "train_accuracy": score,
        "train_loss": 1.0,
        "seconds": 1.0,
        "peak_memory": 1,
        "logs": {},
    }


def waits(folder: Path) -> dict[str, Any]:
    """Read what the workers noted.

    Returns:
        seconds that each report but a trial's last waited for its answer, seconds from each trial's last
        report to the start of the next one in the same process, how many processes ran trials, and the
        seconds from the first start to the last report.
    """
    decisions, between = [], []
    processes = [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((folder / WAITS).glob("*.jsonl"))
    ]
    for trials in processes:
        between += [after[0] - before[-1] for before, after in itertools.pairwise(trials)]
        decisions += [
            end - begin for one in trials for begin, end in zip(one[1:-1:2], one[2::2], strict=True)
        ]
    every = [moment for trials in processes for one in trials for moment in one]
    span = max(every) - min(every)
    return {"decisions": decisions, "between": between, "processes": len(processes), "span": span}
