"""The leaderboard as a picture: each row's figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.leaderboard.rows import BASELINE, DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Results

MOST = 60
"""Rows that are drawn."""

Row = Mapping[str, Any]


def draw(results: Results) -> Drawn:
    """Draw a point and an interval a row, best on top."""
    metric = results.metric
    rows = [row for row in results.board["rows"] if _figure(row, metric) is not None]
    if not rows:
        return [Omitted("Leaderboard", "nothing has been validated yet")]
    shown = rows[:MOST]
    figure = style.new(0.29 * len(shown) + 1.5)
    axis = figure.subplots()
    looks = style.lines(results.labels)
    names = [f"{results.label(row)} {row['variant']}" for row in shown]
    words = [_words(row, metric) for row in shown]
    for place, row in enumerate(shown):
        label = results.label(row)
        _draw_row(axis, place, row, metric, looks[label].color if label in looks else style.SOFT)
    where = [style.short(f"{results.label(row)}, {row['variant']}", 40) for row in shown]
    right = axis.secondary_yaxis("right")
    for side, texts in ((axis, where), (right, words)):
        side.set_yticks(range(len(shown)), texts)
        side.tick_params(axis="y", length=0, labelcolor=style.INK)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(style.axis_label(metric, "meta-test"))
    right.spines["right"].set_visible(False)
    style.legend(figure, *_key(shown, metric))
    more = f" The best {MOST} of {len(rows)} rows." if len(rows) > MOST else ""
    caption = (
        "Each row's figure with its 95 % interval, best on top. Whether two rows whose intervals overlap "
        f"differ is for the paired comparison in the table to say, which is sharper.{more}"
    )
    said = "; ".join(f"{name} {text}" for name, text in list(zip(names, words, strict=True))[:12])
    below = f", and {len(shown) - 12} rows below" if len(shown) > 12 else ""
    title, alt = (
        f"{metric.capitalize()} with 95 % intervals",
        f"Points with intervals, best first: {said}{below}.",
    )
    return [Picture("leaderboard", title, caption, alt, figure)]


def _figure(row: Row, metric: str) -> float | None:
    tested: float | None = row.get(metric)
    return row.get(f"val_{metric}") if tested is None else tested


def _draw_row(axis: Axes, place: int, row: Row, metric: str, color: str) -> None:
    if row["ci_low"] is not None and row.get(metric) is not None:
        bounds = [style.value(metric, row[key]) for key in ("ci_low", "ci_high")]
        axis.plot(bounds, [place, place], color=color, linewidth=5, alpha=0.45, solid_capstyle="butt")
    marker = "x" if row.get(metric) is None else "D" if row["variant"] == BASELINE else "o"
    face = style.PAPER if row["variant"] in (DEFAULT, BASELINE) else color
    look: Mapping[str, Any] = {"marker": marker, "markersize": 7, "markeredgewidth": 1.8}
    axis.plot(style.value(metric, _figure(row, metric)), place, color=color, markerfacecolor=face, **look)


def _words(row: Row, metric: str) -> str:
    text = metrics.show(metric, _figure(row, metric))
    if row.get(metric) is None:
        return f"{text} on meta-validation"
    if row["ci_low"] is None:
        return text
    low, high = (metrics.show(metric, row[key]).removesuffix("%") for key in ("ci_low", "ci_high"))
    return f"{text}  [{low}, {high}]"


def _key(rows: Sequence[Row], metric: str) -> tuple[list[Line2D], list[str]]:
    variants = {row["variant"] for row in rows}
    kinds = {
        "tuned, or a run": ("o", style.INK, bool(variants - {DEFAULT, BASELINE})),
        "published setting": ("o", style.PAPER, DEFAULT in variants),
        "learns nothing": ("D", style.PAPER, BASELINE in variants),
        "not tested yet": ("x", style.INK, any(row.get(metric) is None for row in rows)),
    }
    handles = {
        name: style.key(linestyle="", marker=marker, markerfacecolor=face, markeredgewidth=1.8)
        for name, (marker, face, is_present) in kinds.items()
        if is_present
    }
    return list(handles.values()), list(handles)
