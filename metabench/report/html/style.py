"""How pictures look: colours that everybody can tell apart, on white and on black, and axes that can be read.

Figures are drawn in the light colours. Those named here become CSS variables in the page, where they follow
the reader's choice of light or dark; no other colour may carry meaning on the paper itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metabench.core.metrics import Metric

# Names to their light and dark values. The series, six of them, keep their distance under the usual kinds of
# colour blindness too; tests/report/html/test_style.py measures it.
COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1b1e23", "#e6e9ee"),
    "soft": ("#5a626d", "#a5adb8"),
    "faint": ("#8a919b", "#7d8693"),
    "grid": ("#dcdfe4", "#333943"),
    "paper": ("#ffffff", "#14171c"),
    "blue": ("#1d6fb8", "#4b8ff0"),
    "orange": ("#d8701a", "#f08a2c"),
    "teal": ("#16a085", "#45e3cf"),
    "maroon": ("#7a1538", "#cf3f86"),
    "violet": ("#9b4afb", "#c4a6ff"),
    "navy": ("#23239c", "#efe95a"),
}

SERIES = ("blue", "orange", "teal", "maroon", "violet", "navy")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

WIDE, NARROW = 10.8, 3.72
"""Inches of a picture, at 96 pixels each: on a desk's screen and on paper, and on a telephone's screen."""

LEAST = 2.6
"""Inches of a panel, at least."""


def light(name: str) -> str:
    """Return the colour that figures are drawn in."""
    return COLOURS[name][0]


INK, SOFT, FAINT, GRID, PAPER = (light(name) for name in ("ink", "soft", "faint", "grid", "paper"))
RIGHT, WRONG = light("blue"), light("orange")


class Line(NamedTuple):
    """How one series is drawn: told apart by colour, marker and dashes at once."""

    color: str
    marker: str
    linestyle: Any


def lines(labels: Sequence[str]) -> dict[str, Line]:
    """Give each label a look of its own, the same in all pictures."""
    return {
        label: Line(
            light(SERIES[index % len(SERIES)]),
            MARKERS[index % len(MARKERS)],
            DASHES[index // len(SERIES) % len(DASHES)],
        )
        for index, label in enumerate(labels)
    }


RULES: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # class names and paths are no formulas
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextmanager
def rules() -> Iterator[None]:
    """Draw and save figures the same way whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RULES)
        yield


def new(height: float, width: float) -> Figure:
    """Return an empty figure, sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(
    n_panels: int, height: float, width: float, columns: int = 3, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many axes of a height in inches, in rows; what is left of the last row is gone.

    Args:
        columns: at most, and fewer where the width has no room; one more where that leaves a smaller gap.
    """
    if columns == 3 and -n_panels % 4 < -n_panels % 3:
        columns = 4
    columns = max(1, min(columns, n_panels, int(width / LEAST)))
    rows = -(-n_panels // columns)
    figure = new(height * rows + 0.6, 0.7 * width if columns == 1 and width > 2 * LEAST else width)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for axis in axes[n_panels:]:
        axis.remove()
    return figure, axes[:n_panels]


def title(axis: Axes, text: str, x: str | None = None, y: str | None = None) -> None:
    """Set the title of axes in as many rows as it needs there, and what their x, and if leftmost y, are."""
    place, figure = axis.get_subplotspec(), axis.get_figure(root=True)
    columns = 1 if place is None else place.get_gridspec().ncols
    width = WIDE if figure is None else figure.get_figwidth()
    n_letters = int(72 * width / columns / 7.2) - 6
    axis.set_title("\n".join(short(row, n_letters) for row in wrapped(text, n_letters).split("\n")))
    if x is not None:
        axis.set_xlabel(x)
    if y is not None and (place is None or place.is_first_col()):
        axis.set_ylabel(y)


def key(**look: Any) -> Line2D:
    """Return a line or a marker of a legend, in ink unless it has a colour."""
    return Line2D([], [], **{"color": INK, **look})


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Set a legend under the axes, where it covers nothing."""
    longest = max((len(label) for label in labels), default=0)
    columns = max(1, min(5, len(labels), round(figure.get_figwidth() * 12 // (longest + 8))))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def axis_label(metric: Metric, of: str) -> str:
    """Name an axis of accuracies in percent, or of plain numbers."""
    return f"{of} {metric}" + (", %" if metric.unit == "%" else "")


def within(metric: Metric, axis: Axes, of: str = "y") -> None:
    """Keep an axis within what its figures can be, as of shares between none and all, once all is drawn."""
    low, high = getattr(axis, f"get_{of}lim")()
    low = low if metric.scale is None else max(low, 0)
    getattr(axis, f"set_{of}lim")(low, min(high, 100) if metric.unit == "%" else high)


def value(metric: Metric, figure: float | None) -> float:
    """Return an accuracy in percent, or an error; NaN, which is not drawn, where there is none."""
    if figure is None:
        return float("nan")
    return 100 * figure if metric.unit == "%" else figure


def short(text: str, length: int = 34) -> str:
    """Cut a long name in its middle."""
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"


def wrapped(name: str, width: int = 13) -> str:
    """Break a name between its parts, so that a row has so many characters, or a single part."""
    rows = [""]
    for part in re.findall(r"[_. ]*[^_. ]+|[_. ]+$", name):
        if rows[-1] and len(rows[-1]) + len(part) > width:
            rows.append("")
        rows[-1] += part
    return "\n".join(row.strip() for row in rows)


def brief(number: float) -> str:
    """Write a number in a few characters: 350, 2.2k, 14k, 1.5M, 3e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def brief_numbers(axis: Axes) -> None:
    """Write the numbers of an x axis in a few characters."""
    axis.xaxis.set_major_formatter(lambda number, _: brief(number))


def ticks(axis: Axes, places: Sequence[float]) -> None:
    """Set the ticks of an x axis, in a few characters each."""
    axis.set_xticks(places, [brief(place) for place in places])
    axis.set_xticks([], minor=True)


def log_axis(axis: Axes, low: float, high: float, margin: float = 0.06) -> None:
    """Make an x axis logarithmic, from a little below one number to a little above another.

    Args:
        margin: on either side, as a share of what lies between.
    """
    axis.set_xscale("log")
    beside = (high / low if high > low else math.e) ** margin
    axis.set_xlim(low / beside, high * beside)


def spaced(places: Sequence[float], position: Callable[[float], float], gap: float) -> list[float]:
    """Keep those ticks, the last one first, that stand at least a gap apart.

    Args:
        position: where a tick stands, in units of the gap.
    """
    kept: list[float] = []
    for tick in sorted(places, reverse=True):
        if not kept or position(kept[-1]) - position(tick) >= gap:
            kept.append(tick)
    return kept[::-1]


def log_ticks(low: float, high: float, gap: float = 0.16) -> list[float]:
    """Return ticks of a logarithmic axis: both ends, and round numbers that keep their distance."""
    span = math.log(high / low)
    kept = [low, high]
    for first in (1, 2, 5):
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
            tick = first * 10.0**power
            if low < tick < high and all(abs(math.log(tick / other)) >= gap * span for other in kept):
                kept.append(tick)
    return sorted(kept)
