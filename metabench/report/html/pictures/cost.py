"""Cost against accuracy, and who is on the Pareto front: nobody cheaper is as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.core.metrics import SIGN
from metabench.leaderboard.rows import BASELINE, DEFAULT
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found

TITLE = "Cost against accuracy"

COSTS = {"tasks_seen": "meta-train tasks", "seconds": "seconds"}
"""Keys of a row to what they count."""


class Point(NamedTuple):
    """A row of the leaderboard with its cost."""

    row: Mapping[str, Any]
    cost: float
    figure: float


def draw(found: Found) -> Drawn:
    """Draw the tested rows over tasks and over seconds, each with its front."""
    title = TITLE if found.metric == "accuracy" else "Cost against error"
    rows = [
        row
        for row in found.board["rows"]
        if row.get(found.metric) is not None and row["variant"] != BASELINE and row["tasks_seen"]
    ]
    if not rows:
        return [Left(title, "nothing that was trained has been tested yet")]
    figure = style.new(4.6)
    axes = figure.subplots(1, len(COSTS), sharey=True)
    fronts = {}
    for axis, (key, unit) in zip(axes, COSTS.items(), strict=True):
        points = [Point(row, float(row[key]), row[found.metric]) for row in rows if row[key]]
        fronts[key] = front(points, SIGN[found.metric])
        _draw_panel(axis, found, points, fronts[key])
        axis.set_xlabel(f"{unit} spent")
    axes[0].set_ylabel(style.axis_label(found.metric, "meta-test"))
    _draw_key(figure, found, rows)
    better = "up and to the left" if found.metric == "accuracy" else "down and to the left"
    caption = (
        f"Better is {better}. The grey line joins the Pareto front: for less than each of its rows had, "
        "nobody was better. A tuned row has paid for its whole search, a published setting or a run for "
        "itself alone; bars are 95 % intervals."
    )
    told = ", ".join(f"{found.label(p.row)} {p.row['variant']}" for p in fronts["tasks_seen"])
    said = [_words(found, row) for row in rows[:10]]
    on_front = f"On the front by tasks, cheapest first: {told}"
    alt = f"Points of cost and {found.metric}. {on_front}. {'; '.join(said)}."
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


def _draw_panel(axis: Axes, found: Found, points: Sequence[Point], best: Sequence[Point]) -> None:
    looks = style.lines(found.labels)
    x = [point.cost for point in best]
    y = [style.value(found.metric, point.figure) for point in best]
    axis.step(x, y, where="post", color=style.FAINT, linewidth=5, alpha=0.45, zorder=1)
    for point in points:
        look = looks[found.label(point.row)]
        bounds = [point.row[key] for key in ("ci_low", "ci_high")]
        if None not in bounds:
            ends = [style.value(found.metric, bound) for bound in bounds]
            axis.plot([point.cost] * 2, ends, color=look.color, linewidth=1.2, alpha=0.7)
        axis.plot(
            point.cost,
            style.value(found.metric, point.figure),
            marker=look.marker,
            markersize=8,
            markeredgewidth=1.8,
            markerfacecolor=style.PAPER if point.row["variant"] == DEFAULT else look.color,
            color=look.color,
        )
    costs = [point.cost for point in points]
    if max(costs) > 3 * min(costs):
        axis.set_xscale("log")
        low, high = min(costs), max(costs)
        axis.set_xlim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
        ticks = style.log_ticks(low, high)
        axis.set_xticks(ticks, [style.brief(tick) for tick in ticks])
        axis.set_xticks([], minor=True)
    else:
        axis.xaxis.set_major_formatter(lambda number, _: style.brief(number))
        axis.locator_params(axis="x", nbins=5)


def _draw_key(figure: Any, found: Found, rows: Sequence[Mapping[str, Any]]) -> None:
    looks = style.lines(found.labels)
    labels = [label for label in found.labels if any(found.label(row) == label for row in rows)]
    handles = [
        Line2D([], [], linestyle="", marker=looks[label].marker, color=looks[label].color) for label in labels
    ]
    if any(row["variant"] == DEFAULT for row in rows):
        hollow = {"marker": "o", "markerfacecolor": style.PAPER, "markeredgewidth": 1.8}
        handles.append(Line2D([], [], linestyle="", color=style.INK, **hollow))  # type: ignore[arg-type]
        labels.append("hollow: published setting")
    style.legend(figure, handles, [style.short(label) for label in labels])


def _words(found: Found, row: Mapping[str, Any]) -> str:
    spent = f"{style.brief(row['tasks_seen'])} tasks, {style.brief(row['seconds'])} s"
    return f"{found.label(row)} {row['variant']} {metrics.show(found.metric, row[found.metric])} for {spent}"
