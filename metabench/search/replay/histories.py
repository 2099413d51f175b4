"""What a replay tells: who was decided on when, who led, and what it had cost by then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Event(NamedTuple):
    """A report and what was decided on it."""

    time: float  # on the clock, in seconds since the start
    trial: str
    curve: str
    tasks_seen: int
    score: float | None
    decision: str


class Incumbent(NamedTuple):
    """Who leads from some moment on, and what had been spent on its algorithm by then."""

    curve: str
    time: float
    tasks: int
    seconds: float  # of all workers, trials still running included


@dataclass
class Played:
    """What became of one algorithm in a replay."""

    events: list[Event] = field(default_factory=list)
    incumbents: list[Incumbent] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)  # that played its trials, by number
    endings: list[str] = field(default_factory=list)  # of its trials, by number
    tasks: int = 0
    seconds: float = 0.0
    distance: float = 0.0  # mean from a proposal to the setting that played it


class Replay(NamedTuple):
    """One simulated search."""

    seed: int
    played: Mapping[str, Played]
    time: float  # when the last worker had finished
