"""Who hears a scheduler's signals while Ray runs in this process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from metabench.core import signals
from metabench.search.ray import cluster

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.usefixtures("workers_without_torch"),
]


class Lost:
    """What has a signal come where Python prints what a handler raises, and goes on."""

    def __del__(self) -> None:
        """Ask this process to stop."""
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Listen to signals as a command does."""
    before = {name: signal.getsignal(signal.Signals[name]) for name in signals.SIGNALS}
    monkeypatch.setattr(signals, "_is_listening", False)
    monkeypatch.setattr(signals, "_received", None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    signals.listen()
    yield
    for name, handler in before.items():
        signal.signal(signal.Signals[name], handler)


def test_sigterm_is_ours_once_ray_has_started(ray_folder: None, listening: None) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    with cluster.joined(None, 1):
        assert signal.getsignal(signal.SIGTERM) is ours


@pytest.mark.parametrize("is_lost", [False, True])
def test_sigterm_while_ray_starts_asks_for_the_same_command_again(
    ray_folder: None,
    listening: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_lost: bool,
) -> None:
    real = ray.init

    def init(*args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does when it starts
        if is_lost:
            Lost()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*args, **kwargs)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(signals.Interrupted), cluster.joined(None, 1):
        pytest.fail("the search went on")
    assert signals.received() == "SIGTERM"
    assert capsys.readouterr().err == ""
