"""Load a data set in several real processes at once, and print what each found, as JSON.

`python -m tests.data.reading.crowd N LOG DIE_AFTER DATASET [key=value ...]`. Each image that is decoded
leaves the number of the process in LOG. The first process to decode its DIE_AFTER-th image kills itself;
0: none does.
Processes are forked after the slow imports, and set off together.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from metabench import data
from metabench.core.config import TaskConfig
from metabench.data.reading import images
from metabench.data.sets import omniglot


def logged(function: Callable[..., Any], log: Path, die_after: int) -> Callable[..., Any]:
    """Return a function that leaves a line in a log each time, and may be the end of its process."""

    def call(*arguments: Any) -> Any:
        with log.open("a") as file:  # a short line at the end of a file is written whole
            file.write(f"{os.getpid()}\n")
        if die_after and log.read_text().split().count(str(os.getpid())) >= die_after:
            try:
                log.with_suffix(".killed").touch(exist_ok=False)
            except FileExistsError:
                return function(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return call


def load(start: Any, queue: Any, dataset: str, options: dict[str, Any]) -> None:
    """Load when all are ready, and hand over the fingerprint."""
    start.wait()
    splits = data.load(TaskConfig(dataset=dataset, options=options))
    queue.put(splits.fingerprint)


def main(n: str, log: str, die_after: str, dataset: str, *pairs: str) -> dict[str, Any]:
    """Return the fingerprints and how each process ended."""
    torch.set_num_threads(1)
    images.fitted = logged(images.fitted, Path(log), int(die_after))
    omniglot._image = logged(omniglot._image, Path(log), int(die_after))
    options = yaml.safe_load("\n".join(pair.replace("=", ": ", 1) for pair in pairs)) or {}
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(int(n)), context.Queue()
    running = [context.Process(target=load, args=(start, queue, dataset, options)) for _ in range(int(n))]
    for process in running:
        process.start()
    for process in running:
        process.join()
    codes = [process.exitcode for process in running]
    return {"codes": codes, "fingerprints": [queue.get() for code in codes if code == 0]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
