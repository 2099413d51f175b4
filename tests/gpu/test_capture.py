"""What a captured function is given lies as it did before; what cannot be captured still runs."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from metabench.capture import capture, like, once


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
    mine = like(leaf)
    mine.copy_(once(leaf))
    expanded = mine.expand(leaf.shape)
    assert torch.equal(expanded, leaf)
    assert all(
        one == other or size == 1
        for one, other, size in zip(expanded.stride(), leaf.stride(), leaf.shape, strict=True)
    )


def test_what_cannot_be_captured_is_replayed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    # Where there is no GPU, nothing can be; where there is one, what waits for it cannot.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.rand(3, device=device)

    def waits(x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())

    with caplog.at_level(logging.WARNING):
        found = capture(waits, (x,))
    assert found is waits
    assert re.search("slower: no CUDA graph of them can be captured: .+", caplog.text)
