"""Who hears a scheduler's signals while Ray runs in this process."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import ray

from metabench.core import signals
from metabench.search.ray import cluster

# Ray leaves sockets and pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_sigterm_is_ours_once_ray_has_started(ray_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr(signals, "_is_listening", False)
    try:
        signals.listen()
        ours = signal.getsignal(signal.SIGTERM)
        with cluster.joined(None, 1):
            assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_sigterm_while_ray_starts_asks_for_the_same_command_again(
    ray_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*args: Any, **kwargs: Any) -> None:
        raise SystemExit(signal.SIGTERM)  # as the handler does that Ray installs when it starts

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(signals.Interrupted), cluster.joined(None, 1):
        pass
