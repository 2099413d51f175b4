"""What a captured function is given lies as it did before; what cannot be captured still runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from metabench.training.graphs import trace
from metabench.training.graphs.cuda import drop_expanded, empty_like_strided


@pytest.mark.parametrize(
    "leaf",
    [
        torch.arange(24.0).view(2, 3, 4),
        torch.arange(24.0).view(2, 3, 4).movedim(2, 0),
        torch.arange(3).expand(5, 3),
        torch.arange(6).view(2, 1, 3).expand(2, 4, 3),
        torch.tensor(2.0).expand(3, 3),
        torch.tensor(2.0),
        torch.ones(1, 3).expand(1, 3),
        torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    ],
    ids=lambda leaf: f"{tuple(leaf.shape)} by {leaf.stride()}",
)
def test_memory_for_a_tensor_takes_it_in_and_lies_alike(leaf: torch.Tensor) -> None:
    mine = empty_like_strided(leaf)
    mine.copy_(drop_expanded(leaf))
    expanded = mine.expand(leaf.shape)
    assert torch.equal(expanded, leaf)
    assert all(
        one == other or size == 1
        for one, other, size in zip(expanded.stride(), leaf.stride(), leaf.shape, strict=True)
    )


BREAKS_OFF = """
import sys, torch
from metabench.training.graphs import cuda, trace

def waits(x):
    return x * float(x.sum())

x = torch.rand(3, device=sys.argv[1])
if sys.argv[1] == "cuda":
    assert cuda.capture(waits, (x,), cuda.GraphPool(x.device)) is None
    traces = trace.TraceCache(capture_after=0)
    for _ in range(3):  # what comes after is captured as ever
        assert torch.equal(traces.run("double", lambda x: 2 * x, x), 2 * x)
    (entry,) = traces.recorded.values()
    assert isinstance(entry.graph, cuda.Captured)
else:
    class GraphPool:
        handle = stream = None
        leave = lambda self: print("left")
    assert cuda.capture(waits, (x,), GraphPool()) is None
"""


def test_what_cannot_be_captured_is_told() -> None:
    # Where there is no GPU, nothing can be; where there is one, what waits for it cannot. In a process of its
    # own, since a capture that broke off stays with its process.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = subprocess.run(
        [sys.executable, "-c", BREAKS_OFF, device], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert re.search("slower: no CUDA graph of them can be captured: .+", run.stderr)


def test_the_latest_graphs_are_kept_and_the_others_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "capture", lambda operations, *_: operations)
    monkeypatch.setattr(trace, "GraphPool", lambda device: device)
    traces, x = trace.TraceCache(capture_after=0), torch.rand(3)
    for number in range(trace.MOST_GRAPHS + 2):
        traces.run(number, lambda x: 2 * x, x)
        *_, entry = traces.recorded.values()
        assert entry is not None
        assert torch.equal(traces._replay(entry, (x,), torch.device("cuda", 0)), 2 * x)
    graphs = [entry.graph for entry in traces.recorded.values() if entry is not None]
    assert [graph is None for graph in graphs] == [True] * 2 + [False] * trace.MOST_GRAPHS


def test_a_tape_replays_what_it_could_not_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "capture", lambda *_: None)
    monkeypatch.setattr(trace, "GraphPool", lambda device: device)
    traces = trace.TraceCache()
    x = torch.rand(3)
    assert traces.captured(lambda x: 2 * x, (x,), torch.device("cuda", 0)) is None
    assert traces.pool is None  # the next capture finds another
