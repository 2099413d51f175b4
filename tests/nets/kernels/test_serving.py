"""Whether there are kernels is found out wherever it is asked, and told where there are none."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("triton", reason="no Triton for this platform")

from metabench.nets.kernels import operators
from metabench.nets.kernels.gpu import rows

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    operators._has_kernels.cache_clear()
    yield
    operators._has_kernels.cache_clear()


def test_kernels_are_tried_inside_of_transforms_as_outside() -> None:
    found = []

    def loss(x: Tensor) -> Tensor:
        found.append(operators._has_kernels(DEVICE))
        return x.square().sum()

    first, second = (make_fx(vmap(grad(loss)))(torch.rand(2, 3, device=DEVICE)) for _ in range(2))
    assert found == [True, True]
    assert first.code == second.code  # the trial, which is done once, is not recorded


@pytest.mark.parametrize("how", ["fails", "computes nothing"])
def test_where_kernels_do_not_work_it_is_told_once_and_torchs_layers_serve(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(*_: object, **__: object) -> None:
        if how == "fails":
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(rows, "launch", launch)
    with caplog.at_level(logging.WARNING):
        assert not operators._has_kernels(DEVICE)
        assert not operators._has_kernels(DEVICE)
    (line,) = caplog.messages
    assert line.startswith(f"kernels for {DEVICE} cannot be used, so that torch's own layers are")
    assert ("C compiler" in line) == (how == "fails")


def test_other_devices_have_no_kernels() -> None:
    assert operators.serves(torch.device("cpu"))
    assert operators.serves(torch.device("meta"))
    assert not operators.serves(torch.device("mps"))
