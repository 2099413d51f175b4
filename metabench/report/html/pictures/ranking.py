"""The leaderboard as a picture: each row's figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.leaderboard.rows import BASELINE, DEFAULT
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found

MOST = 60
"""Rows that are drawn."""

Row = Mapping[str, Any]


def draw(found: Found) -> Drawn:
    """Draw a point and an interval a row, best on top."""
    metric = found.metric
    rows = [row for row in found.board["rows"] if _figure(row, metric) is not None]
    if not rows:
        return [Left("Leaderboard", "nothing has been validated yet")]
    shown = rows[:MOST]
    figure = style.new(0.29 * len(shown) + 1.5)
    axis = figure.subplots()
    looks = style.lines(found.labels)
    for place, row in enumerate(shown):
        _draw_row(axis, place, row, metric, looks.get(found.label(row)))
    axis.set_yticks(range(len(shown)), [told(found, row) for row in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(style.axis_label(metric, "meta-test"))
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(shown)), [_words(row, metric) for row in shown])
    for side in (axis, right):
        side.tick_params(axis="y", length=0, labelcolor=style.INK)
    right.spines["right"].set_visible(False)
    handles, names = _key(shown, metric)
    style.legend(figure, handles, names)
    title = f"{metric.capitalize()} with 95 % intervals"
    left_out = f" The best {MOST} of {len(rows)} rows." if len(rows) > MOST else ""
    caption = (
        "Each row's figure with its 95 % interval, best on top. Whether two rows whose intervals overlap "
        f"differ is for the paired comparison in the table to say, which is sharper.{left_out}"
    )
    return [Picture("leaderboard", title, caption, _alt(found, shown), figure)]


def told(found: Found, row: Row) -> str:
    """Name a row in a picture."""
    return style.short(f"{found.label(row)}, {row['variant']}", 40)


def _figure(row: Row, metric: str) -> float | None:
    known = row.get(metric)
    return row.get(f"val_{metric}") if known is None else known


def _draw_row(axis: Axes, place: int, row: Row, metric: str, look: style.Line | None) -> None:
    color = style.SOFT if look is None else look.color
    if row["ci_low"] is not None and row.get(metric) is not None:
        bounds = [style.value(metric, row[key]) for key in ("ci_low", "ci_high")]
        axis.plot(bounds, [place, place], color=color, linewidth=5, alpha=0.45, solid_capstyle="butt")
    is_open = row["variant"] in (DEFAULT, BASELINE)
    marker = "x" if row.get(metric) is None else "D" if row["variant"] == BASELINE else "o"
    axis.plot(
        style.value(metric, _figure(row, metric)),
        place,
        marker=marker,
        markersize=7,
        markeredgewidth=1.8,
        markerfacecolor=style.PAPER if is_open else color,
        color=color,
    )


def _words(row: Row, metric: str) -> str:
    if row.get(metric) is None:
        return f"{metrics.show(metric, _figure(row, metric))} on meta-validation"
    own = metrics.show(metric, row[metric])
    if row["ci_low"] is None:
        return own
    low, high = (metrics.show(metric, row[key]).removesuffix("%") for key in ("ci_low", "ci_high"))
    return f"{own}  [{low}, {high}]"


def _key(rows: Sequence[Row], metric: str) -> tuple[list[Line2D], list[str]]:
    kinds = {
        "tuned, or a run": ("o", style.INK, any(row["variant"] not in (DEFAULT, BASELINE) for row in rows)),
        "published setting": ("o", style.PAPER, any(row["variant"] == DEFAULT for row in rows)),
        "learns nothing": ("D", style.PAPER, any(row["variant"] == BASELINE for row in rows)),
        "not tested yet": ("x", style.INK, any(row.get(metric) is None for row in rows)),
    }
    present = {name: (marker, face) for name, (marker, face, is_there) in kinds.items() if is_there}
    handles = [
        Line2D(
            [], [], color=style.INK, linestyle="", marker=marker, markerfacecolor=face, markeredgewidth=1.8
        )
        for marker, face in present.values()
    ]
    return handles, list(present)


def _alt(found: Found, rows: Sequence[Row]) -> str:
    metric = found.metric
    said = [f"{found.label(row)} {row['variant']} {_words(row, metric)}" for row in rows[:12]]
    more = f", and {len(rows) - 12} rows below" if len(rows) > 12 else ""
    return f"Points with intervals, best first: {'; '.join(said)}{more}."
