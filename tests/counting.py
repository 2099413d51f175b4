"""What a computation comes down to, by torch's own profiler: operations, convolutions, and memory taken."""

from __future__ import annotations

from collections.abc import Callable
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
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
        function()
    events = [event for event in taken.events() if event.name.startswith("aten::")]
    leaves = [e for e in events if not any(child.name.startswith("aten::") for child in e.cpu_children)]
    allocated = sum(e.self_cpu_memory_usage for e in taken.events() if e.self_cpu_memory_usage > 0)
    return Counted(len(leaves), sum(e.name in CONVOLUTIONS for e in events), allocated / 1e6)
