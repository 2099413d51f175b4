"""The cell of each row as a graph: inputs above, a circle for each node, its operations, and the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metabench.core.config import genotype
from metabench.core.config.genotype import ALL, INPUTS, Edge, Genotype
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Picture
from metabench.report.html.reading import Results

MOST = 12
"""Cells that are drawn, of the best rows."""

NAMES = ("0: cell before last", "1: last cell")
"""What the inputs of a cell are."""

# In inches, y downwards.
WIDTH = 3.6
STEP, BELOW, EXIT = 0.98, 0.44, 0.26
"""From one node's operations to the next's, from there to the node, and on to where lines leave it."""
BESIDE, LANE = 0.56, 0.13
"""From the middle to an operation, and between lines that pass operations by."""
EDGE = 1.16
"""From the middle to the first such line."""

BOX: Mapping[str, Any] = {"facecolor": style.PAPER, "edgecolor": style.FAINT, "linewidth": 1.0}
ROUND: Mapping[str, Any] = {**BOX, "boxstyle": "round,pad=0.3"}
CIRCLE: Mapping[str, Any] = {**BOX, "boxstyle": "circle,pad=0.3"}


class Line(NamedTuple):
    """One operation in the picture."""

    edge: Edge
    node: int  # from 1
    x: float

    @property
    def side(self) -> int:
        """Return -1 where it is passed by on the left."""
        return 1 if self.x > 0 else -1

    @property
    def is_long(self) -> bool:
        """Tell whether other nodes stand between it and what it reads."""
        return _row(self.edge.state) < self.node - 1


def draw_cells(results: Results) -> Drawn:
    """Draw each cell that a row has, once, with the rows that have it."""
    by_cell: dict[str, list[str]] = {}
    for row in results.board["rows"]:
        if row.get("genotype"):
            by_cell.setdefault(row["genotype"], []).append(results.name(row))
    if not by_cell:
        return []
    shown = dict(list(by_cell.items())[:MOST])
    more = f" The cells of the best {MOST} of {len(by_cell)} kinds of rows." if len(by_cell) > MOST else ""
    caption = (
        "Read from above: boxes are operations, each with its norm and ReLU where it is a convolution; a "
        "circle is a node, which adds them up, with the number of its state; concat joins all nodes. Colours "
        f"tell apart whose output a line carries. For the first cell both inputs are the image.{more}"
    )
    said = "; ".join(f"{', '.join(names)}: {word}" for word, names in shown.items())
    alt = f"A graph of each cell. In words: {said}."
    return [Picture("cells", "The cell of each row", caption, alt, partial(_cells, shown))]


def _cells(shown: Mapping[str, Sequence[str]], width: float) -> Figure:
    cells = {word: genotype.decode(word) for word in shown}
    figure, axes = style.panels(len(cells), 1.0, width, share_y=False)
    grid = axes[0].get_gridspec()
    assert grid is not None
    sizes = [STEP * (len(cell.nodes) + 1) + 0.6 for cell in cells.values()]
    heights = [max(sizes[start : start + grid.ncols]) for start in range(0, len(sizes), grid.ncols)]
    grid.set_height_ratios(heights)
    figure.set_figheight(sum(heights) + 0.5 * len(heights))
    for number, (axis, (word, names)) in enumerate(zip(axes, shown.items(), strict=True)):
        _draw(axis, cells[word])
        axis.set_xlim(-WIDTH / 2, WIDTH / 2)
        axis.set_ylim(heights[number // grid.ncols], 0)
        axis.set_aspect("equal", anchor="N")
        axis.set_axis_off()
        style.title(axis, ", ".join(names))
    return figure


def _draw(axis: Axes, cell: Genotype) -> None:
    places = _places(cell)
    lines = [one for number, node in enumerate(cell.nodes, 1) for one in _beside(number, node)]
    lanes = {side: _lanes([one for one in lines if one.is_long and one.side == side]) for side in (-1, 1)}
    for one in lines:
        _operation(axis, one, places, lanes[one.side])
    for state, (x, y) in places.items():
        is_input = state < INPUTS
        _word(axis, x, y, NAMES[state] if is_input else str(state), ROUND if is_input else CIRCLE)
    _output(axis, cell, places, EDGE + LANE * len(lanes[1]))


def _row(state: int) -> int:
    """Return the number of the node whose output a state is; 0 for an input."""
    return max(0, state - INPUTS + 1)


def _places(cell: Genotype) -> dict[int, tuple[float, float]]:
    """Return where the states stand: the inputs that are read, and the nodes one below the other."""
    inputs = sorted({edge.state for node in cell.nodes for edge in node if edge.state < INPUTS})
    x = dict(zip(inputs, (-0.75, 0.75) if len(inputs) > 1 else (0.0,), strict=True))
    states = [*inputs, *range(INPUTS, INPUTS + len(cell.nodes))]
    return {state: (x.get(state, 0.0), STEP * _row(state) + BELOW) for state in states}


def _beside(number: int, node: Sequence[Edge]) -> list[Line]:
    """Place a node's operations side by side, that on the earlier state on the left."""
    edges = sorted(node, key=lambda edge: edge.state)
    places = (-BESIDE, BESIDE) if len(edges) > 1 else (0.0,)
    return [Line(edge, number, x) for edge, x in zip(edges, places, strict=True)]


def _lanes(passing: Sequence[Line]) -> dict[int, float]:
    """Return how far from the middle the line of each state runs, that of the earliest outermost."""
    states = sorted({one.edge.state for one in passing}, reverse=True)
    return {state: EDGE + LANE * k for k, state in enumerate(states)}


def _operation(
    axis: Axes, one: Line, places: Mapping[int, tuple[float, float]], lanes: Mapping[int, float]
) -> None:
    """Draw a line from a state through an operation to its node."""
    x, y = places[one.edge.state]
    turns = []
    if one.is_long:
        lane, leaves = one.side * lanes[one.edge.state], y + EXIT + 0.07 * min(one.edge.state, INPUTS)
        turns = [(x, leaves), (lane, leaves), (lane, STEP * one.node)]
    path = [(x, y), *turns, (one.x, STEP * one.node), (0.0, STEP * one.node + BELOW)]
    _line(axis, path, _colour(one.edge.state))
    _word(axis, one.x, STEP * one.node, one.edge.operation, ROUND)


def _output(axis: Axes, cell: Genotype, places: Mapping[int, tuple[float, float]], lane: float) -> None:
    """Draw lines from the nodes that are the cell's output, all but the last on the right of everything."""
    last, y = INPUTS + len(cell.nodes) - 1, STEP * (len(cell.nodes) + 1)
    is_joined = cell.output == ALL and len(cell.nodes) > 1
    for state in range(INPUTS, last) if is_joined else ():
        x, begins = places[state]
        _line(axis, [(x, begins), (lane, begins), (lane, y), (0.0, y)], style.FAINT)
    _line(axis, [places[last], (0.0, y)], style.FAINT)
    _word(axis, 0.0, y, "concat" if is_joined else "output", ROUND)
    axis.text(
        0.0,
        y + 0.4,
        f"cells: {cell.layers}; of these halve the image: {cell.reductions}",
        ha="center",
        va="center",
    )


def _line(axis: Axes, path: Sequence[tuple[float, float]], colour: str) -> None:
    axis.plot(*zip(*path, strict=True), color=colour, linewidth=1.6, solid_joinstyle="round", zorder=1)


def _word(axis: Axes, x: float, y: float, word: str, box: Mapping[str, Any]) -> None:
    axis.text(x, y, word, ha="center", va="center", fontsize=8.5, bbox=dict(box), zorder=3)


def _colour(state: int) -> str:
    """Return the colour of what carries a state."""
    return style.SOFT if state == 0 else style.light(style.SERIES[state - 1])
