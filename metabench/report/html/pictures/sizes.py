"""Trials of different networks, and the rows that came of them, over how many numbers they learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metabench.leaderboard.rows import BASELINE
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.pictures.leaderboard import Point, Row, draw_costs, front, key_of_labels
from metabench.report.html.reading import Results, Tried
from metabench.storage import files

SIZES = "Accuracy against parameters"

UNIT = "numbers learnt across tasks"

STOPPED: Mapping[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.2}
RING: Mapping[str, Any] = {"marker": "o", "markersize": 12, "color": style.INK, "markerfacecolor": "none"}
CONFIRMED: Mapping[str, Any] = {**RING, "markeredgewidth": 0.9}
CHOSEN: Mapping[str, Any] = {**RING, "markeredgewidth": 2.2}


class Sized(NamedTuple):
    """A trial with what it learns."""

    tried: Tried
    parameters: int
    figure: float
    is_confirmed: bool
    is_chosen: bool


def draw_sizes(results: Results) -> Drawn:
    """Draw trials, and the tested rows, over what they learn, where trials have different networks."""
    if not any(tried.space.network_of(tried.trial.algorithm).parameters for tried in results.trials):
        return []
    trials = _sized(results)
    if len({one.parameters for one in trials}) < 2:
        return [Omitted(SIZES, "no two trials have reported that differ in what they are said to learn")]
    rows = [row for row in results.board["rows"] if _is_tested(results, row)]
    full = _front(results, trials)
    caption = (
        "Better is up and to the left. First, each point is a trial: its last meta-validation figure over "
        "how many numbers its setting learns. Filled points saw the full budget; hollow ones were stopped "
        "earlier, so they may only be compared among themselves. A ring marks what was confirmed on fresh "
        "tasks, a thick one what was chosen. The grey line joins the Pareto front of those that saw the full "
        "budget: with as few numbers as each of them learns, none was better."
    )
    caption += " Then the rows on meta-test, hollow where published, with 95 % intervals." if rows else ""
    said = [
        f"{one.row['trial']} {style.brief(one.cost)} with {results.show(results.metric.sign * one.figure)}"
        for one in full
    ]
    alt = f"Points of numbers learnt and {results.metric}. On the front of the trials, the smallest first: "
    alt += f"{'; '.join(said) or 'none yet'}."
    return [Picture("sizes", SIZES, caption, alt, partial(_sizes, results, trials, rows))]


def _sized(results: Results) -> list[Sized]:
    """List the trials whose size is known: of a network that is not searched, also by rows that agree."""
    of_rows: dict[str, set[int]] = {}
    for row in results.board["rows"]:
        of_rows.setdefault(results.label(row), set()).update([row["parameters"]] if row["parameters"] else [])
    sized = []
    for one in results.searches:
        for trial in one.ledger.trials.values():
            tried = Tried(one.labels[trial.algorithm], one.space, trial)
            is_same = not one.space.network_of(trial.algorithm).parameters
            counts = of_rows.get(tried.label, set()) if is_same else set()
            n_parameters = trial.parameters or (min(counts) if len(counts) == 1 else None)
            figure = results.figure(trial.score)
            if n_parameters is None or figure is None:
                continue
            is_confirmed = (one.search.folder / files.CONFIRM / f"{trial.name}.json").exists()
            chosen = one.search.chosen.get(trial.algorithm) or {}
            is_chosen = chosen.get("trial") == trial.name
            sized.append(Sized(tried, n_parameters, figure, is_confirmed, is_chosen))
    return sized


def _is_tested(results: Results, row: Row) -> bool:
    is_there = row.get(results.metric.name) is not None and bool(row["parameters"])
    return is_there and row["variant"] != BASELINE


def _front(results: Results, trials: Sequence[Sized]) -> list[Point]:
    points = [
        Point({"trial": one.tried.trial.name}, one.parameters, one.figure)
        for one in trials
        if one.tried.is_full
    ]
    return front(points, results.metric.sign)


def _sizes(results: Results, trials: Sequence[Sized], rows: Sequence[Row], width: float) -> Figure:
    figure, axes = style.panels(1 + bool(rows), 4.0, width, columns=2, share_y=False)
    _draw_trials(axes[0], results, trials)
    if rows:
        points = [Point(row, row["parameters"], row[results.metric.name]) for row in rows]
        draw_costs(axes[1], results, points, front(points, results.metric.sign))
        style.title(axes[1], "", UNIT)
        axes[1].set_ylabel(style.axis_label(results.metric, "meta-test"))
    for axis in axes:
        style.within(results.metric, axis)
    handles, labels = key_of_labels(results, {one.tried.label for one in trials})
    marks = {
        "hollow: stopped before, or runs": (
            {**STOPPED, "marker": "o"},
            any(not one.tried.is_full for one in trials),
        ),
        "confirmed": (CONFIRMED, any(one.is_confirmed for one in trials)),
        "chosen": (CHOSEN, any(one.is_chosen for one in trials)),
    }
    present = {name: style.key(linestyle="", **look) for name, (look, is_there) in marks.items() if is_there}
    style.legend(figure, [*handles, *present.values()], [*labels, *present])
    return figure


def _draw_trials(axis: Axes, results: Results, trials: Sequence[Sized]) -> None:
    looks = style.lines(results.labels)
    best = _front(results, trials)
    line: Mapping[str, Any] = {"color": style.FAINT, "linewidth": 5, "alpha": 0.45, "zorder": 1}
    y = [style.value(results.metric, point.figure) for point in best]
    axis.step([point.cost for point in best], y, where="post", **line)
    for one in sorted(trials, key=lambda one: one.tried.is_full):  # those that went on lie above
        place = one.parameters, style.value(results.metric, one.figure)
        look = looks[one.tried.label]
        how: Mapping[str, Any] = {"alpha": 0.85} if one.tried.is_full else {**STOPPED, "alpha": 0.55}
        axis.plot(*place, color=look.color, marker=look.marker, markersize=5.5, linestyle="", **how)
        if one.is_confirmed or one.is_chosen:
            axis.plot(*place, linestyle="", **(CHOSEN if one.is_chosen else CONFIRMED))
    low, high = (end(one.parameters for one in trials) for end in (min, max))
    style.log_axis(axis, low, high)
    style.ticks(axis, style.log_ticks(low, high))
    style.title(axis, "", UNIT, style.axis_label(results.metric, "meta-validation"))
