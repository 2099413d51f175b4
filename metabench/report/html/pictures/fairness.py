"""Accuracy against the gap between two groups: what fairness costs, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metabench import stats
from metabench.core import metrics
from metabench.leaderboard.fairness import AT_THRESHOLDS
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Picture
from metabench.report.html.pictures.leaderboard import HOLLOW, Point, Row, front
from metabench.report.html.reading import Results

TITLE = "Accuracy against the parity gap"

CHANCE = 0.5
"""The accuracy of guessing one of two labels."""


def draw_parity(results: Results) -> Drawn:
    """Draw the tested rows over their gaps, with the front, where groups are known."""
    points = [
        Point(row, row["dp_gap"], row["accuracy"])
        for row in results.board["rows"]
        if row.get("dp_gap") is not None and row.get("accuracy") is not None
    ]
    if not points:
        return []
    fair = front(points, results.metric.sign)
    volume = stats.hypervolume([(point.cost, point.figure) for point in points], CHANCE)
    caption = (
        "Better is up and to the left. The grey line joins the Pareto front: with as small a gap as each of "
        "its rows has, nobody was more accurate. Bars are 95 % intervals in both directions, over the places "
        "that tasks are draws of where these are known. Hollow rows guess by a threshold for each group, and "
        "have to be told the group of whom they predict. All rows together dominate "
        f"{volume:.1%} of what lies between guessing and no error without a gap (their hypervolume)."
    )
    said = "; ".join(
        f"{_label(results, point.row)} {metrics.show(results.metric, point.figure)} with a gap of "
        f"{100 * point.cost:.1f} points"
        for point in points[:12]
    )
    best = ", ".join(_label(results, point.row) for point in fair)
    alt = f"Points of gap and accuracy. On the front, fairest first: {best}. {said}."
    return [Picture("parity", TITLE, caption, alt, partial(_parity, results, points, fair))]


def _label(results: Results, row: Row) -> str:
    """Name what learns, also where it guesses by thresholds; two rows of one name have their variant."""
    return results.name(row).removesuffix(" baseline").removesuffix(" tuned").removesuffix(" run")


def _parity(results: Results, points: Sequence[Point], fair: Sequence[Point], width: float) -> Figure:
    figure = style.new(4.6, width)
    axis = figure.subplots()
    names = [_label(results, point.row) for point in points]
    looks = style.lines([name for name in names if AT_THRESHOLDS not in name])
    line: Mapping[str, Any] = {"color": style.FAINT, "linewidth": 5, "alpha": 0.45, "zorder": 1}
    axis.step([100 * one.cost for one in fair], [100 * one.figure for one in fair], where="post", **line)
    handles = {}
    for name, point in zip(names, points, strict=True):
        look = looks.get(name, style.Line(style.SOFT, "o", ""))
        _draw_point(axis, point, look, name in looks)
        if name in looks:
            handles[style.short(name)] = style.key(linestyle="", marker=look.marker, color=look.color)
    if len(looks) < len(points):
        handles["a threshold for each group"] = style.key(
            linestyle="", marker="o", color=style.SOFT, **HOLLOW
        )
    style.title(axis, "", "parity gap, points", style.axis_label(results.metric, "meta-test"))
    axis.set_xlim(left=0)
    style.within(results.metric, axis)
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def _draw_point(axis: Axes, point: Point, look: style.Line, is_plain: bool) -> None:
    row, x, y = point.row, 100 * point.cost, 100 * point.figure
    thin: Mapping[str, Any] = {"color": look.color, "linewidth": 1.2, "alpha": 0.6}
    for key, is_across in ((("dp", "dp_class"), True), (("ci", "class"), False)):
        ends = next((bounds for name in reversed(key) if (bounds := _ends(row, name))), None)
        if ends:
            axis.plot(*((ends, [y, y]) if is_across else ([x, x], ends)), **thin)
    marker: dict[str, Any] = {"marker": look.marker, "markersize": 8, **({} if is_plain else HOLLOW)}
    axis.plot(x, y, color=look.color, clip_on=False, linestyle="", **marker)


def _ends(row: Row, name: str) -> list[float] | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else [100 * low, 100 * high]
