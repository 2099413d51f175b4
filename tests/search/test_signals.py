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


def test_sigterm_while_ray_starts_is_ours(ray_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.setattr(signals, "_is_listening", False)
    started = ray.init
    seen: list[Any] = []

    def init(*args: Any, **kwargs: Any) -> Any:
        found = started(*args, **kwargs)
        seen.append(signal.getsignal(signal.SIGTERM))
        return found

    monkeypatch.setattr(ray, "init", init)
    try:
        signals.listen()
        ours = signal.getsignal(signal.SIGTERM)
        with cluster.joined(None, 1):
            assert seen == [ours] == [signal.getsignal(signal.SIGTERM)]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
