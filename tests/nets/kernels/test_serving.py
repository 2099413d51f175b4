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

from metabench.nets import layers
from metabench.nets.kernels import operators
from metabench.nets.kernels.gpu import rows

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

FAILURE = operators.failure


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(layers, "_plain", set())
    monkeypatch.setattr(operators, "failure", operators._trial)  # on a CPU as well
    layers._has_usable.cache_clear()
    yield
    layers._has_usable.cache_clear()


def test_kernels_are_tried_inside_of_transforms_as_outside() -> None:
    served = []

    def loss(x: Tensor) -> Tensor:
        served.append(layers.has_kernels(DEVICE))
        return x.square().sum()

    first, second = (make_fx(vmap(grad(loss)))(torch.rand(2, 3, device=DEVICE)) for _ in range(2))
    assert served == [True, True]
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
        assert not layers.has_kernels(DEVICE)
        assert not layers.has_kernels(DEVICE)
    (line,) = caplog.messages
    assert line.startswith(f"kernels for {DEVICE} are not used, but torch's own layers, which took 1.7 times")
    assert ("C compiler" in line) == (how == "fails")


def test_other_devices_have_no_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(operators, "failure", FAILURE)
    assert layers.has_kernels(torch.device("cpu"))
    assert layers.has_kernels(torch.device("meta"))
    assert not caplog.messages
    assert not layers.has_kernels(torch.device("mps"))
    assert caplog.messages[0].endswith("there are none")
