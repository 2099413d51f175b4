"""Load own images from a folder in a process of its own and print what memory that took, as JSON.

`python -m tests.data.reading.large array|folder PATH [key=value ...]`. It loads, checks, fingerprints
(loading does), freezes tasks and draws some.

Of the resident memory of a process (VmRSS), RssAnon is what it has made, and what the system cannot take
back; RssFile are pages of mapped files, which all processes share and which the system drops whenever it
needs room. The peak of the first must not grow with the data: a thread looks at it every few milliseconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from metabench import data
from metabench.core import seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen as episodes
from metabench.data.tasks import sampling

EVERY = 0.002
"""Seconds between looks: at 2 GB/s, which no route here comes near, 4 MB may be missed."""


def resident(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


class Peak(threading.Thread):
    """The most anonymous memory that this process held while it was watched."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.is_done = 0, False

    def run(self) -> None:
        """Look until told to stop."""
        while not self.is_done:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(EVERY)


def main(dataset: str, path: str, *pairs: str) -> dict[str, Any]:
    """Load and draw; return memory in bytes and what was drawn."""
    options: dict[str, Any] = {"path": path}
    for key, value in (pair.split("=") for pair in pairs):
        options[key] = int(value)
    torch.rand(2, generator=seeds.generator("warm")).topk(1)
    before = resident("RssAnon")
    peak = Peak()
    peak.start()
    begun = time.perf_counter()
    task = TaskConfig(dataset=dataset, options=options, way=5, shot=1, query=5, test_query=5)
    splits = data.load(task)
    data.check(task, splits)
    frozen = episodes.frozen(splits, "meta_test", task, 10, "test")
    part = splits.meta_train
    moved = part.images.to("cpu")
    assert moved.data_ptr() == part.images.data_ptr(), "to the CPU is no copy"
    shape = sampling.Shape(5, 1, 5)
    drawn = sampling.sample(seeds.generator("large"), sampling.pool(part, task), shape, 1)
    task_batch = episodes.gather(moved, drawn, shape)
    peak.is_done = True
    peak.join()
    n_bytes = sum(one.images.numel() for one in (splits.meta_train, splits.meta_validation, splits.meta_test))
    return {
        "table": n_bytes,
        "fingerprint": splits.fingerprint,
        "frozen": frozen.hash,
        "mean": float(task_batch.query.x.mean()),
        "seconds": time.perf_counter() - begun,
        "before": before,
        "anonymous": peak.most,
        "highest": resident("VmHWM"),
        "mapped": resident("RssFile"),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
