"""A profile of some meta-steps, with ranges named as the steps of the algorithm are.

Read it in Perfetto, or in TensorBoard with its profiler plugin. Ranges tell where time is spent in forward
computation; what is in the outer gradient and in no inner step is the backward pass and the queries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from metabench.storage import files

SKIPPED, TAKEN = 3, 3
"""Meta-steps that are left out, as they warm up, and that are profiled then."""

TRACE, SUMMARY = "meta-steps.pt.trace.json", "summary.txt"

ROWS = 30
"""Operations in the summary, those that take longest first."""

_active: profile | None = None


def stepped() -> None:
    """Tell that a meta-step is done."""
    if _active is not None:
        _active.step()


@contextlib.contextmanager
def to(folder: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Profile the first meta-steps that are taken within, after some to warm up, into a folder.

    Args:
        say: hears what has been written, or that there were too few steps.
    """
    global _active
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    written: list[Path] = []

    def ready(taken: Any) -> None:
        if taken.step_num < SKIPPED + TAKEN:
            return  # it ended in the midst of them
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        path = folder / TRACE
        folder.mkdir(parents=True, exist_ok=True)
        taken.export_chrome_trace(str(path))
        table = taken.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60)
        files.write_text(folder / SUMMARY, table)
        written.append(path)

    plan = schedule(wait=SKIPPED - 1, warmup=1, active=TAKEN, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=ready, acc_events=True) as taken:
        _active = taken
        try:
            yield
        finally:
            _active = None
    if written:
        say(f"profile of {TAKEN} meta-steps: {written[0]}; open it at ui.perfetto.dev")
    else:
        say(f"no profile: it takes {SKIPPED + TAKEN} meta-steps")
