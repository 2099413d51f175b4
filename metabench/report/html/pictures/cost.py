"""Cost against accuracy, and who is on the Pareto front: nobody cheaper is as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.leaderboard.rows import BASELINE, DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Results

COSTS = {"tasks_seen": "meta-train tasks", "seconds": "seconds"}
"""Keys of a row to what they count."""

HOLLOW: Mapping[str, Any] = {"markerfacecolor": style.PAPER, "markeredgewidth": 1.8}


class Point(NamedTuple):
    """A row of the leaderboard with its cost."""

    row: Mapping[str, Any]
    cost: float
    figure: float


def draw(results: Results) -> Drawn:
    """Draw the tested rows over tasks and over seconds, each with its front."""
    metric = results.metric
    title = f"Cost against {metric}"
    rows = [
        row
        for row in results.board["rows"]
        if row.get(metric) is not None and row["variant"] != BASELINE and row["tasks_seen"]
    ]
    if not rows:
        return [Omitted(title, "nothing that was trained has been tested yet")]
    figure = style.new(4.6)
    axes = figure.subplots(1, len(COSTS), sharey=True)
    fronts = {}
    for axis, (key, unit) in zip(axes, COSTS.items(), strict=True):
        points = [Point(row, float(row[key]), row[metric]) for row in rows if row[key]]
        fronts[key] = front(points, metrics.SIGN[metric])
        _draw_panel(axis, results, points, fronts[key])
        axis.set_xlabel(f"{unit} spent")
    axes[0].set_ylabel(style.axis_label(metric, "meta-test"))
    style.legend(figure, *_key(results, rows))
    better = "up and to the left" if metric == "accuracy" else "down and to the left"
    caption = (
        f"Better is {better}. The grey line joins the Pareto front: for less than each of its rows had, "
        "nobody was better. A tuned row has paid for its whole search, a published setting or a run for "
        "itself alone; bars are 95 % intervals."
    )
    cheapest = ", ".join(f"{results.label(p.row)} {p.row['variant']}" for p in fronts["tasks_seen"])
    said = [
        f"{results.label(row)} {row['variant']} {metrics.show(metric, row[metric])} for "
        f"{style.brief(row['tasks_seen'])} tasks, {style.brief(row['seconds'])} s"
        for row in rows[:10]
    ]
    on_front = f"On the front by tasks, cheapest first: {cheapest}"
    alt = f"Points of cost and {metric}. {on_front}. {'; '.join(said)}."
    return [Picture("cost", title, caption, alt, figure)]


def front(points: Sequence[Point], sign: int) -> list[Point]:
    """Return those of which nobody at most as costly is better, cheapest first.

    Args:
        sign: of a figure where higher is to be better.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.figure)):
        if not kept or sign * point.figure > sign * kept[-1].figure:
            kept.append(point)
    return kept


def _draw_panel(axis: Axes, results: Results, points: Sequence[Point], best: Sequence[Point]) -> None:
    looks = style.lines(results.labels)
    y = [style.value(results.metric, point.figure) for point in best]
    line: Mapping[str, Any] = {"color": style.FAINT, "linewidth": 5, "alpha": 0.45, "zorder": 1}
    axis.step([point.cost for point in best], y, where="post", **line)
    for point in points:
        look = looks[results.label(point.row)]
        bounds = [point.row[key] for key in ("ci_low", "ci_high")]
        if None not in bounds:
            ends = [style.value(results.metric, bound) for bound in bounds]
            axis.plot([point.cost] * 2, ends, color=look.color, linewidth=1.2, alpha=0.7)
        face = style.PAPER if point.row["variant"] == DEFAULT else look.color
        marker: Mapping[str, Any] = {
            **HOLLOW,
            "markerfacecolor": face,
            "marker": look.marker,
            "markersize": 8,
        }
        axis.plot(point.cost, style.value(results.metric, point.figure), color=look.color, **marker)
    low, high = (end(point.cost for point in points) for end in (min, max))
    if high > 3 * low:
        style.log_axis(axis, low, high, margin=0.08)
        style.ticks(axis, style.log_ticks(low, high))
    else:
        style.brief_numbers(axis)
        axis.locator_params(axis="x", nbins=5)


def _key(results: Results, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Line2D], list[str]]:
    present = {results.label(row) for row in rows}
    looks = {label: look for label, look in style.lines(results.labels).items() if label in present}
    handles = [style.key(linestyle="", marker=look.marker, color=look.color) for look in looks.values()]
    labels = [style.short(label) for label in looks]
    if any(row["variant"] == DEFAULT for row in rows):
        handles.append(style.key(linestyle="", marker="o", **HOLLOW))
        labels.append("hollow: published setting")
    return handles, labels
