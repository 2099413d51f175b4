"""The leaderboard as pictures: each row's figure with its interval, and what it cost.

On the Pareto front are those whom nobody cheaper beats.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.core.metrics import Metric
from metabench.leaderboard.rows import BASELINE, DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Results

MOST = 60
"""Rows that are drawn."""

COSTS = {"tasks": "meta-train tasks spent", "seconds": "seconds spent"}
"""What a setting takes, to find it and to train it once, to what it counts."""

SPEED = {"picture": "milliseconds a query, on one thread"}

HOLLOW: Mapping[str, Any] = {"markerfacecolor": style.PAPER, "markeredgewidth": 1.8}

ALONE: Mapping[str, Any] = {"marker": "|", "markersize": 11, "markeredgewidth": 2.2, "linestyle": ""}
"""How the figure of queries one at a time is drawn."""

Row = Mapping[str, Any]


class Point(NamedTuple):
    """A row of the leaderboard with its cost."""

    row: Row
    cost: float
    figure: float


def draw_ranking(results: Results) -> Drawn:
    """Draw a point and an interval a row, best on top."""
    metric = results.metric
    rows = [row for row in results.board["rows"] if _figure(row, metric) is not None]
    if not rows:
        return [Omitted("Leaderboard", "nothing has been validated yet")]
    shown = rows[:MOST]
    words = [_words(row, metric) for row in shown]
    more = f" The best {MOST} of {len(rows)} rows." if len(rows) > MOST else ""
    alone = (
        " These figures hold where all queries of a task are classified together; a bar beside a point says "
        "what remains where each is classified by itself."
        if any(_alone(row, metric) is not None for row in shown)
        else ""
    )
    caption = (
        "Each row's figure with its 95 % interval, best on top. Whether two rows whose intervals overlap "
        f"differ is for the paired comparison in the table to say, which is sharper.{alone}{more}"
    )
    said = "; ".join(f"{results.name(row)} {text}" for row, text in zip(shown[:12], words, strict=False))
    below = f", and {len(shown) - 12} rows below" if len(shown) > 12 else ""
    alt = f"Points with intervals, best first: {said}{below}."
    title = f"{metric.name.capitalize()} with 95 % intervals"
    return [Picture("leaderboard", title, caption, alt, partial(_ranking, results, shown, words))]


def _ranking(results: Results, shown: Sequence[Row], words: Sequence[str], width: float) -> Figure:
    is_wide = width > style.NARROW
    figure = style.new((0.29 if is_wide else 0.5) * len(shown) + 1.5, width)
    axis = figure.subplots()
    looks = style.lines(results.labels)
    for place, row in enumerate(shown):
        label = results.label(row)
        _draw_row(axis, place, row, results.metric, looks[label].color if label in looks else style.SOFT)
    names = [style.short(f"{results.label(row)}, {row['variant']}", 40 if is_wide else 24) for row in shown]
    if is_wide:
        right = axis.secondary_yaxis("right")
        right.spines["right"].set_visible(False)
        for side, texts in ((axis, names), (right, words)):
            side.set_yticks(range(len(shown)), texts)
            side.tick_params(axis="y", length=0, labelcolor=style.INK)
    else:
        axis.set_yticks([])
        for place, (name, text) in enumerate(zip(names, words, strict=True)):
            for x, written, align in ((0, name, "left"), (1, text, "right")):
                axis.text(x, place - 0.4, written, ha=align, transform=axis.get_yaxis_transform(), fontsize=9)
    axis.set_ylim(len(shown) - 0.4, -0.6 if is_wide else -1)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(style.axis_label(results.metric, "meta-test"))
    style.within(results.metric, axis, "x")
    style.legend(figure, *_ranking_key(shown, results.metric))
    return figure


def _figure(row: Row, metric: Metric) -> float | None:
    tested: float | None = row.get(metric.name)
    return row.get(f"val_{metric}") if tested is None else tested


def _alone(row: Row, metric: Metric) -> float | None:
    """Return the figure of queries that are classified one at a time, where it is another."""
    alone: float | None = row.get(f"{metric}_one_at_a_time")
    is_other = metrics.show(metric, alone) != metrics.show(metric, row.get(metric.name))
    return alone if alone is not None and row.get(metric.name) is not None and is_other else None


def _draw_row(axis: Axes, place: int, row: Row, metric: Metric, color: str) -> None:
    if row["ci_low"] is not None and row.get(metric.name) is not None:
        bounds = [style.value(metric, row[key]) for key in ("ci_low", "ci_high")]
        axis.plot(bounds, [place, place], color=color, linewidth=5, alpha=0.45, solid_capstyle="butt")
    marker = "x" if row.get(metric.name) is None else "D" if row["variant"] == BASELINE else "o"
    look: dict[str, Any] = {"marker": marker, "markersize": 7, **HOLLOW}
    if row["variant"] not in (DEFAULT, BASELINE):
        look["markerfacecolor"] = color
    axis.plot(style.value(metric, _figure(row, metric)), place, color=color, clip_on=False, **look)
    alone = style.value(metric, _alone(row, metric))
    axis.plot(alone, place, color=color, clip_on=False, **ALONE)


def _words(row: Row, metric: Metric) -> str:
    text = metrics.show(metric, _figure(row, metric))
    if row.get(metric.name) is None:
        return f"{text} on meta-validation"
    if row["ci_low"] is None:
        return text
    low, high = (metrics.show(metric, row[key]).removesuffix("%") for key in ("ci_low", "ci_high"))
    return f"{text}  [{low}, {high}]"


def _ranking_key(rows: Sequence[Row], metric: Metric) -> tuple[list[Line2D], list[str]]:
    variants = {row["variant"] for row in rows}
    kinds = {
        "tuned, or a run": ("o", style.INK, bool(variants - {DEFAULT, BASELINE})),
        "published setting": ("o", style.PAPER, DEFAULT in variants),
        "baseline": ("D", style.PAPER, BASELINE in variants),
        "not tested yet": ("x", style.INK, any(row.get(metric.name) is None for row in rows)),
    }
    handles = {
        name: style.key(linestyle="", marker=marker, markerfacecolor=face, markeredgewidth=1.8)
        for name, (marker, face, is_present) in kinds.items()
        if is_present
    }
    if any(_alone(row, metric) is not None for row in rows):
        handles["one query at a time"] = style.key(**ALONE)
    return list(handles.values()), list(handles)


def draw_cost(results: Results) -> Drawn:
    """Draw the tested rows over tasks and over seconds, each with its front."""
    metric = results.metric
    title = f"Cost against {metric}"
    rows = [
        row
        for row in results.board["rows"]
        if row.get(metric.name) is not None and row["variant"] != BASELINE and _cost(row, "tasks")
    ]
    if not rows:
        return [Omitted(title, "nothing that was trained has been tested yet")]
    better = "up and to the left" if metric.sign > 0 else "down and to the left"
    caption = (
        f"Better is {better}. The grey line joins the Pareto front: for less than each of its rows had, "
        "nobody was better. Each row has paid for finding its setting, which costs nothing where it is "
        "published or given, and for one training; bars are 95 % intervals."
    )
    best = front(_points(rows, "tasks", metric), metric.sign)
    cheapest = ", ".join(results.name(point.row) for point in best)
    said = "; ".join(
        f"{results.name(row)} {metrics.show(metric, row[metric.name])} for "
        f"{style.brief(_cost(row, 'tasks'))} tasks, {style.brief(_cost(row, 'seconds'))} s"
        for row in rows[:10]
    )
    alt = f"Points of cost and {metric}. On the front by tasks, cheapest first: {cheapest}. {said}."
    return [Picture("cost", title, caption, alt, partial(_costs, results, rows, COSTS))]


def draw_speed(results: Results) -> Drawn:
    """Draw the tested rows over the time that a query takes, with their front, where any says it."""
    metric = results.metric
    rows = [
        row
        for row in results.board["rows"]
        if row.get(metric.name) is not None and row["variant"] != BASELINE and row.get("picture_seconds")
    ]
    if not rows:
        return []
    caption = (
        "What is used afterwards: the time in which a learner that has adapted predicts one query, of a "
        "frozen backbone with the backbone; of one thread, the median of several. The grey line joins the "
        "Pareto front: in as little time as each of its rows takes, nobody was better. Parameters and memory "
        "stand in the table."
    )
    best = ", ".join(results.name(one.row) for one in front(_points(rows, "picture", metric), metric.sign))
    said = "; ".join(
        f"{results.name(row)} {metrics.show(metric, row[metric.name])} in {_cost(row, 'picture'):.3g} ms"
        for row in rows[:10]
    )
    alt = f"Points of milliseconds a query and {metric}. On the front, fastest first: {best}. {said}."
    title = f"Time of a query against {metric}"
    return [Picture("speed", title, caption, alt, partial(_costs, results, rows, SPEED))]


def _points(rows: Sequence[Row], key: str, metric: Metric) -> list[Point]:
    return [Point(row, spent, row[metric.name]) for row in rows if (spent := _cost(row, key))]


def _costs(results: Results, rows: Sequence[Row], units: Mapping[str, str], width: float) -> Figure:
    figure, axes = style.panels(len(units), 4.0, width, columns=2)
    for axis, (key, unit) in zip(axes, units.items(), strict=True):
        points = _points(rows, key, results.metric)
        draw_costs(axis, results, points, front(points, results.metric.sign))
        style.title(axis, "", unit, style.axis_label(results.metric, "meta-test"))
    style.within(results.metric, axes[0])
    style.legend(figure, *_cost_key(results, rows))
    return figure


def _cost(row: Row, what: str) -> float:
    """Add what it took to find a setting and to train it once; of a picture, return milliseconds."""
    if what == "picture":
        return 1000 * float(row["picture_seconds"])
    return float((row[f"search_{what}"] or 0) + (row[f"training_{what}"] or 0))


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


def draw_costs(axis: Axes, results: Results, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Draw rows over what they cost, with their front."""
    looks = style.lines(results.labels)
    y = [style.value(results.metric, point.figure) for point in best]
    line: Mapping[str, Any] = {"color": style.FAINT, "linewidth": 5, "alpha": 0.45, "zorder": 1}
    axis.step([point.cost for point in best], y, where="post", **line)
    for row, spent, figure in points:
        look = looks[results.label(row)]
        if None not in (row["ci_low"], row["ci_high"]):
            ends = [style.value(results.metric, row[key]) for key in ("ci_low", "ci_high")]
            axis.plot([spent, spent], ends, color=look.color, linewidth=1.2, alpha=0.7)
        marker: dict[str, Any] = {"marker": look.marker, "markersize": 8, **HOLLOW}
        if row["variant"] != DEFAULT:
            marker["markerfacecolor"] = look.color
        axis.plot(spent, style.value(results.metric, figure), color=look.color, clip_on=False, **marker)
    low, high = (end(point.cost for point in points) for end in (min, max))
    if high > 3 * low:
        style.log_axis(axis, low, high, margin=0.08)
        style.ticks(axis, style.log_ticks(low, high))
    else:
        style.brief_numbers(axis)
        axis.locator_params(axis="x", nbins=5)


def key_of_labels(results: Results, present: Container[str]) -> tuple[list[Line2D], list[str]]:
    """Return the legend of the markers of what learns."""
    looks = {label: look for label, look in style.lines(results.labels).items() if label in present}
    handles = [style.key(linestyle="", marker=look.marker, color=look.color) for look in looks.values()]
    return handles, [style.short(label) for label in looks]


def _cost_key(results: Results, rows: Sequence[Row]) -> tuple[list[Line2D], list[str]]:
    handles, labels = key_of_labels(results, {results.label(row) for row in rows})
    if any(row["variant"] == DEFAULT for row in rows):
        handles.append(style.key(linestyle="", marker="o", **HOLLOW))
        labels.append("hollow: published setting")
    return handles, labels
