"""What to label, as a picture: accuracy against the number of labels, and what it gains over chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metabench.acquisition import REFERENCE, table
from metabench.core import metrics
from metabench.report.html import style
from metabench.report.html.pictures import Picture

Row = Mapping[str, Any]


def draw(rows: Sequence[Row]) -> Picture:
    """Draw each run's acquisitions, accuracy on the left and paired gains on the right."""
    sure = [row for row in rows if table.is_sure(row)]
    said = "; ".join(
        f"{row['run']}, {row['acquire']}: {100 * row['area_gain'].difference:+.1f} points over {REFERENCE}"
        for row in sure
    )
    caption = (
        "Bands are 95 % intervals over tasks: on the right of the difference to asking at random on the same "
        "tasks, so that a line whose band leaves out zero is ahead or behind, at that one number of labels."
    )
    alt = f"Lines over {rows[0]['labels'][0]} to {rows[0]['labels'][-1]} labels. Sure: {said or 'nothing'}."
    return Picture("labels", "Accuracy against the number of labels", caption, alt, partial(_lines, rows))


def _lines(rows: Sequence[Row], width: float) -> Figure:
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure, axes = style.panels(2 * len(runs), 3.8, width, columns=2, share_y=False)
    labels = list(dict.fromkeys(row["acquire"] for row in rows))
    looks = style.lines(sorted(labels))
    handles: dict[str, Any] = {}
    for number, run in enumerate(runs):
        left, right = axes[2 * number : 2 * number + 2]
        its = [row for row in rows if row["run"] == run]
        name = f"{its[0]['algorithm']}, {run}" if len(runs) > 1 else its[0]["algorithm"]
        style.title(left, name, "labels", style.axis_label(metrics.ACCURACY, "query"))
        style.title(right, f"gain over {REFERENCE}", "labels")
        right.set_ylabel("points")
        for row in its:
            look = looks[row["acquire"]]
            handles[row["acquire"]] = _band(left, row, [tuple(one[:3]) for one in row["accuracy"]], look)
            if row["acquire"] != REFERENCE:
                _band(right, row, [(one.difference, one.low, one.high) for one in row["gain"]], look)
        for axis in (left, right):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.axhline(0, color=looks[REFERENCE].color, linewidth=1.2)
        style.within(metrics.ACCURACY, left)
    style.legend(figure, [handles[one] for one in labels], labels)
    return figure


def _band(axis: Axes, row: Row, figures: Sequence[tuple[float, ...]], look: style.Line) -> Any:
    y, low, high = ([100 * one for one in column] for column in zip(*figures, strict=True))
    (line,) = axis.plot(row["labels"], y, **{**look._asdict(), "markersize": 4})
    axis.fill_between(row["labels"], low, high, color=look.color, alpha=0.12, linewidth=0)
    return line
