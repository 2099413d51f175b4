"""What a computation comes down to, by torch's own profiler: operations, convolutions, and memory taken."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::convolution_backward")


class Counted(NamedTuple):
    """What was counted."""

    operations: int  # that call no others, views among them
    convolutions: int
    megabytes: float  # that were allocated, freed or not


def count(function: Callable[[], Any]) -> Counted:
    """Run a function and count what it does."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as taken:
        function()
    events = [event for event in taken.events() if event.name.startswith("aten::")]
    leaves = [e for e in events if not any(child.name.startswith("aten::") for child in e.cpu_children)]
    allocated = sum(e.self_cpu_memory_usage for e in taken.events() if e.self_cpu_memory_usage > 0)
    return Counted(len(leaves), sum(e.name in CONVOLUTIONS for e in events), allocated / 1e6)


def held_at_most(function: Callable[[], Any]) -> int:
    """Return the most bytes that are allocated at once on the CPU in a second call, beyond those before."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as taken:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        taken.export_chrome_trace(str(path))
        events = [one for one in json.loads(path.read_text())["traceEvents"] if one["name"] == "[memory]"]
    held = [one["args"]["Total Allocated"] for one in sorted(events, key=lambda one: one["ts"])]
    return max(held) - held[0]
