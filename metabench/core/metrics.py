"""How an accuracy or an error is named, which way it is better, and how people see it."""

from __future__ import annotations

from collections.abc import Mapping

BETTER: Mapping[str, str] = {"accuracy": "higher", "error": "lower"}
"""Metrics to the direction in which they are better."""

SIGN: Mapping[str, int] = {"accuracy": 1, "error": -1}
"""Metrics to their sign where higher is to be better."""


def show(metric: str, value: float | None, digits: int = 1) -> str:
    """Show an accuracy in percent, and an error as a plain number of three significant digits.

    Args:
        digits: of percents behind the point.
    """
    if value is None:
        return ""
    return f"{value:.{digits}%}" if metric == "accuracy" else plain(value)


def tell(metric: str, value: float, digits: int = 1) -> str:
    """Show a figure as `show` does, and name it where it is no percentage."""
    return ("" if metric == "accuracy" else f"{metric} ") + show(metric, value, digits)


def gap(metric: str, value: float) -> str:
    """Show a difference without its sign: of accuracies in points of percent, of errors as a number."""
    return f"{100 * abs(value):.1f} points" if metric == "accuracy" else plain(abs(value))


def plain(value: float, sign: str = "") -> str:
    """Show a number with three significant digits; with sign "+", also where it is positive."""
    return f"{value:{sign}#.3g}".removesuffix(".")
