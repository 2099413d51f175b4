"""How what tasks are judged by is named, which way it is better, and how people see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Metric(NamedTuple):
    """What tasks are judged by; in a text or a key its name stands for it."""

    name: str
    sign: int  # of it where higher is to be better
    unit: str  # "%" of a share, "" of a plain number
    has_chance: bool  # whether guessing one of N classes is right in 1 / N

    def __str__(self) -> str:
        return self.name

    @property
    def scale(self) -> Literal["share", "positive"] | None:
        """Return between which ends its figures lie, as intervals have to know; None: there are none."""
        if self.unit == "%":
            return "share"
        return "positive" if self.sign < 0 else None  # an error is at least 0, a return may be any number


ACCURACY = Metric("accuracy", 1, "%", True)
ERROR = Metric("error", -1, "", False)
RETURN = Metric("return", 1, "", False)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in (ACCURACY, ERROR, RETURN)}

PLAIN = tuple(metric for metric in METRICS.values() if metric.unit != "%")
"""Those that are plain numbers."""

NAMES = {"accuracy": "Accuracy", "error": "Mean squared error", "return": "Return"}
"""What a metric is called in a sentence."""

EXAMPLES = {"return": ("trajectory", "trajectories")}
NEW = {"error": "of a new function", "return": "a step in a new environment"}
ASKED = {"error": "points", "return": "trajectories"}
"""What a task has for support, of what, and for queries, where these are no classes."""


def better(metric: Metric) -> str:
    """Say which way a metric is better."""
    return f"{'higher' if metric.sign > 0 else 'lower'} is better"


def recorded(config: Mapping[str, Any]) -> Metric:
    """Return what the record of a search or of a run says that its tasks are judged by.

    A record without a word on it is older than the word: there regression, and nothing else, has one way.
    """
    if "metric" in config:
        return METRICS[config["metric"]["name"]]
    return ERROR if config["run" if "run" in config else "space"]["task"]["way"] == 1 else ACCURACY


def show(metric: Metric, value: float | None, digits: int = 1) -> str:
    """Show an accuracy in percent, and all else as a plain number of three significant digits.

    Args:
        digits: of percents behind the point.
    """
    if value is None:
        return ""
    return f"{value:.{digits}%}" if metric.unit == "%" else plain(value)


def tell(metric: Metric, value: float, digits: int = 1) -> str:
    """Show a figure as `show` does, and name it where it is no percentage."""
    return ("" if metric.unit == "%" else f"{metric} ") + show(metric, value, digits)


def gap(metric: Metric, value: float) -> str:
    """Show a difference without its sign: of accuracies in points of percent, of others as a number."""
    return f"{100 * abs(value):.1f} points" if metric.unit == "%" else plain(abs(value))


def points(metric: Metric, value: float) -> float:
    """Return a difference in points of accuracy, or in units of the error or the return."""
    return 100 * value if metric.unit == "%" else value


def plain(value: float, sign: str = "") -> str:
    """Show a number with three significant digits; with sign "+", also where it is positive."""
    return f"{value:{sign}#.3g}".removesuffix(".")
