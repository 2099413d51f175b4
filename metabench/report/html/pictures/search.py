"""The search as pictures: the best so far, learning curves with their rungs, and settings against figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metabench.core.config import Choices, Range
from metabench.core.config import rungs as rungs_of
from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Arrived, Final, Results, Tried
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, INFEASIBLE, PRUNED, RUNNING, WAITING

BEST = "Best so far"
TRIALS = "Learning curves of the trials"
FINALS = "Learning curves of the final runs"
SLICES = "Slices"

ENDS = {
    COMPLETE: ("full budget", "o"),
    PRUNED: ("stopped at a rung", "x"),
    DIVERGED: ("diverged", "v"),
    FAILED: ("failed", "s"),
    INFEASIBLE: ("infeasible", "1"),
    WAITING: ("waits at a rung", "d"),
    RUNNING: ("still running", ">"),
}
"""How a trial ended, or what it does, to words and a marker."""

DASHED = (0, (4, 2))

MANNERS: Mapping[str, Mapping[str, Any]] = {
    "tuned": {"linestyle": "-"},
    DEFAULT: {"linestyle": DASHED, "linewidth": 1.3},
    "run": {"linestyle": "-"},
}
"""How a final run is drawn."""

SETTINGS = {
    "inner_lr": "inner rate",
    "outer_lr": "outer rate",
    "inner_steps": "inner steps",
    "task_batch_size": "tasks a batch",
}
"""What is sliced, with its name for people."""

FADED: Mapping[str, Any] = {"color": style.FAINT, "markerfacecolor": "none", "markersize": 4}


def draw_best(results: Results) -> Drawn:
    """Draw the best meta-validation figure over tasks and over seconds, a step line an algorithm."""
    if not results.arrivals:
        return [Omitted(BEST, results.without_trials())]
    groups = results.by_label(results.arrivals)
    best = {label: improvements(arrived, lambda one: float(one.tasks)) for label, arrived in groups.items()}
    further = "higher" if results.metric.sign > 0 else "lower"
    caption = (
        "The best meta-validation figure that each algorithm had reached once its trials had spent so much. "
        f"A line that is {further} further left found a good setting for less; a long flat end says that "
        "more trials brought nothing. These figures were selected for, so they flatter; the leaderboard's "
        "do not."
    )
    said = "; ".join(f"{label} {results.show(rises[-1][1])}" for label, rises in best.items() if rises)
    alt = f"Step lines of the best meta-validation {results.metric}, which end at: {said}."
    return [Picture("anytime", BEST, caption, alt, partial(_best, results, groups))]


def _best(results: Results, groups: Mapping[str, Sequence[Arrived]], width: float) -> Figure:
    figure, axes = style.panels(2, 3.8, width, columns=2)
    looks = style.lines(results.labels)
    spent: Mapping[str, Callable[[Arrived], float]] = {
        "meta-train tasks": lambda one: float(one.tasks),
        "seconds": lambda one: one.seconds,
    }
    for axis, (unit, so_far) in zip(axes, spent.items(), strict=True):
        for label, arrived in groups.items():
            if rises := improvements(arrived, so_far):
                x = [*(x for x, _ in rises), max(map(so_far, arrived))]
                y = [style.value(results.metric, results.figure(score)) for _, score in [*rises, rises[-1]]]
                marks = list(range(len(rises)))
                axis.step(x, y, where="post", label=label, markevery=marks, **looks[label]._asdict())
        label = style.axis_label(results.metric, "best meta-validation")
        style.title(axis, "", f"{unit}, all trials of the algorithm", label)
        style.brief_numbers(axis)
    style.within(results.metric, axes[0])
    style.legend(figure, *axes[0].get_legend_handles_labels())
    return figure


def improvements(arrived: Sequence[Arrived], spent: Callable[[Arrived], float]) -> list[tuple[float, float]]:
    """List what had been spent, and the score, each time that the best score of an algorithm rose."""
    best = -math.inf
    rises = []
    for one in arrived:
        if one.score is not None and one.score > best:
            best = one.score
            rises.append((spent(one), best))
    return rises


def draw_trials(results: Results) -> Drawn:
    """Draw each trial's figures at its rungs, a panel an algorithm."""
    reported = [tried for tried in results.trials if any(_points(results, tried.trial.reports))]
    if not reported:
        return [Omitted(TRIALS, results.without_trials())]
    groups = results.by_label(reported)
    caption = (
        "Each line is a trial: its meta-validation figure at each rung (dotted) that it reached. Coloured "
        "lines saw the full budget, or run; grey ones did not. Where grey and coloured lines cross after the "
        "first rung, early figures were a poor guide, and a later first rung (grace) may be worth its cost."
    )
    said = []
    for label in groups:
        ends = Counter(tried.trial.state for tried in results.trials if tried.label == label)
        counts = [f"{ends[status]} {words}" for status, (words, _) in ENDS.items() if ends[status]]
        said.append(f"{label}: {', '.join(counts)}")
    alt = f"A panel of learning curves an algorithm. {'; '.join(said)}."
    return [Picture("curves", TRIALS, caption, alt, partial(_trials, results, groups))]


def _trials(results: Results, groups: Mapping[str, Sequence[Tried]], width: float) -> Figure:
    figure, axes = style.panels(len(groups), 2.5, width)
    looks = style.lines(results.labels)
    for axis, (label, group) in zip(axes, groups.items(), strict=True):
        _draw_rungs(axis, rungs_of(group[0].space.budget))
        by_end: dict[tuple[bool, str], list[Tried]] = {}
        for tried in group:
            by_end.setdefault((tried.is_full, tried.trial.state), []).append(tried)
        # The stopped first, so that those that went on lie above them.
        for (is_full, status), part in sorted(by_end.items(), key=lambda item: item[0][0]):
            _draw_curves(axis, results, part, is_full or status == RUNNING, looks[label].color, len(group))
        style.title(axis, label, "meta-train tasks", style.axis_label(results.metric, "meta-validation"))
    style.within(results.metric, axes[0])
    present = [s for s in ENDS if any(tried.trial.state == s for group in groups.values() for tried in group)]
    style.legend(figure, [_end_key(status) for status in present], [ENDS[status][0] for status in present])
    return figure


def _points(results: Results, reports: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """List tasks seen, and the figure, of each report that is finite."""
    finite = [one for one in reports if one["val_score"] is not None and math.isfinite(one["val_score"])]
    figures = [style.value(results.metric, results.figure(one["val_score"])) for one in finite]
    return [one["tasks_seen"] for one in finite], figures


def _draw_rungs(axis: Axes, rungs: Sequence[int]) -> None:
    style.log_axis(axis, rungs[0], rungs[-1])
    for rung in rungs:
        axis.axvline(rung, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.5)
    span = math.log(rungs[-1] / rungs[0]) or 1.0
    style.ticks(axis, style.spaced(rungs, lambda rung: math.log(rung / rungs[0]) / span, 0.17))
    axis.grid(axis="x", visible=False)


def _draw_curves(
    axis: Axes, results: Results, group: Sequence[Tried], is_shown: bool, color: str, n_trials: int
) -> None:
    """Draw trials that ended alike."""
    status = group[0].trial.state
    strength = 0.9 if is_shown else 0.55
    faded = max(0.25, min(1.0, (40 / n_trials) ** 0.5))
    look: dict[str, Any] = {"color": color if is_shown else style.FAINT, "alpha": strength * faded}
    curves = [np.column_stack(_points(results, tried.trial.reports)) for tried in group]
    dashes: Any = DASHED if status == RUNNING else "-"
    lines = LineCollection(curves, linewidths=1.6 if is_shown else 1.0, linestyles=dashes, **look)
    axis.add_collection(lines)  # far quicker than a line each
    ends = np.array([curve[-1] for curve in curves])
    size = 5 if n_trials <= 40 else 3.5
    axis.plot(*ends.T, linestyle="", marker=ENDS[status][1], markersize=size, **look)


def _end_key(status: str) -> Any:
    color = style.INK if status in (COMPLETE, RUNNING) else style.FAINT
    dashes: Any = DASHED if status == RUNNING else "-"
    return style.key(color=color, marker=ENDS[status][1], linestyle=dashes, linewidth=1.4)


def draw_finals(results: Results) -> Drawn:
    """Draw the runs to the full budget, a panel an algorithm."""
    groups = results.by_label(final for final in results.finals if final.run.reports)
    if not groups:
        return [Omitted(FINALS, "no run to the full budget has reported yet")]
    caption = (
        "Each line is a run to the full budget, one a seed. The weights of its best report are the ones that "
        "are tested. Lines that still rise at the end would gain from a larger budget; lines of one kind "
        "that lie apart say how much the seed matters."
    )
    said = "; ".join(f"{label} {_span(results, group)}" for label, group in groups.items())
    alt = f"A panel of learning curves an algorithm; best meta-validation {results.metric}: {said}."
    return [Picture("final_curves", FINALS, caption, alt, partial(_finals, results, groups))]


def _finals(results: Results, groups: Mapping[str, Sequence[Final]], width: float) -> Figure:
    figure, axes = style.panels(len(groups), 2.3, width)
    looks = style.lines(results.labels)
    for axis, (label, group) in zip(axes, groups.items(), strict=True):
        for final in group:
            points, manner = _points(results, final.run.reports), MANNERS[final.variant]
            axis.plot(*points, color=looks[label].color, marker=".", markersize=4, **manner)
        style.title(axis, label, "meta-train tasks", style.axis_label(results.metric, "meta-validation"))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        style.brief_numbers(axis)
    style.within(results.metric, axes[0])
    variants = {final.variant for group in groups.values() for final in group}
    handles = {
        "published setting" if variant == DEFAULT else variant: style.key(**manner)
        for variant, manner in MANNERS.items()
        if variant in variants
    }
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def _span(results: Results, finals: Sequence[Final]) -> str:
    judged = [
        [one["val_score"] for one in final.run.reports if one["val_score"] is not None] for final in finals
    ]
    scores = [max(scores) for scores in judged if scores]
    if not scores:
        return "never finite"
    low, high = results.show(min(scores)), results.show(max(scores))
    return low if low == high else f"{low} to {high}"


def draw_slices(results: Results) -> Drawn:
    """Draw a panel for each setting that an algorithm's trials differ in."""
    judged = [tried for tried in results.trials if tried.trial.score is not None]
    groups = results.by_label(judged)
    varied = {label: names for label, group in groups.items() if (names := _varied(group))}
    if not varied:
        why = f"no two trials differ in any of {', '.join(SETTINGS)}" if judged else results.without_trials()
        return [Omitted(SLICES, why)]
    caption = (
        "Each point is a trial's last meta-validation figure over one setting, all others varying too. "
        "Filled points saw the full budget; hollow ones were stopped earlier, so they may only be compared "
        "among themselves. A best region at the end of an axis says that the range ought to be wider."
    )
    said = "; ".join(_best_setting(results, label, groups[label], names) for label, names in varied.items())
    alt = f"Scattered points, a panel an algorithm and setting. {said}."
    return [Picture("slices", SLICES, caption, alt, partial(_slices, results, groups, varied))]


def _varied(group: Sequence[Tried]) -> list[str]:
    """List the settings of `SETTINGS` in which trials of an algorithm differ."""
    return [name for name in SETTINGS if len({tried.trial.sampled.get(name) for tried in group}) > 1]


def _slices(
    results: Results,
    groups: Mapping[str, Sequence[Tried]],
    varied: Mapping[str, Sequence[str]],
    width: float,
) -> Figure:
    columns = min(max(map(len, varied.values())), 4 if width > style.NARROW else 2)
    rows = [
        (label, names[start : start + columns])
        for label, names in varied.items()
        for start in range(0, len(names), columns)
    ]
    figure = style.new(1.95 * len(rows) + 0.7, width)
    grid = figure.subplots(len(rows), columns, squeeze=False, sharey="row")
    looks = style.lines(results.labels)
    for axes, (label, names) in zip(grid, rows, strict=True):
        group = groups[label]
        space = group[0].space
        parameters = {**space.shared, **space.algorithms[group[0].trial.algorithm]}
        for axis, name in zip(axes, names, strict=False):
            _draw_panel(axis, results, group, name, looks[label].color)
            _scale(axis, parameters.get(name), [tried.trial.hyperparameters[name] for tried in group])
            axis.set_xlabel(SETTINGS[name])
        for axis in axes[len(names) :]:
            axis.remove()
        axes[0].set_title(style.short(label, 80 if width > style.NARROW else 40))
        axes[0].set_ylabel(style.axis_label(results.metric, "val."))
        style.within(results.metric, axes[0])
    handles = [style.key(linestyle="", marker="o", **look) for look in ({}, FADED)]
    style.legend(figure, handles, ["saw the full budget", "stopped before, or runs"])
    return figure


def _draw_panel(axis: Axes, results: Results, group: Sequence[Tried], name: str, color: str) -> None:
    filled: Mapping[str, Any] = {"color": color, "markersize": 5, "alpha": 0.8}
    for is_full, look in ((False, FADED), (True, filled)):
        part = [tried.trial for tried in group if tried.is_full == is_full]
        x = [trial.hyperparameters[name] for trial in part]
        y = [style.value(results.metric, results.figure(trial.score)) for trial in part]
        axis.plot(x, y, linestyle="", marker="o", **look)


def _scale(axis: Axes, parameter: Any, values: Sequence[float]) -> None:
    """Show the whole range that was searched, on the scale on which it was."""
    if isinstance(parameter, Range):
        low, high = parameter.low, parameter.high
        if parameter.log:
            style.log_axis(axis, low, high)
            style.ticks(axis, style.log_ticks(low, high, 0.24))
        else:
            margin = 0.06 * (high - low)
            axis.set_xlim(low - margin, high + margin)
        return
    chosen = parameter.choices if isinstance(parameter, Choices) else values
    steps = sorted({float(value) for value in chosen})
    width = (steps[-1] - steps[0]) or abs(steps[0]) or 1.0
    style.ticks(axis, style.spaced(steps, lambda tick: (tick - steps[0]) / width, 0.16))
    axis.set_xlim(steps[0] - 0.12 * width, steps[-1] + 0.12 * width)


def _best_setting(results: Results, label: str, group: Sequence[Tried], names: Sequence[str]) -> str:
    full = [tried.trial for tried in group if tried.is_full]
    if not full:
        return f"{label} has no trial at the full budget"
    best = max(full, key=lambda trial: trial.score or 0.0)
    where = ", ".join(f"{SETTINGS[name]} {style.brief(best.hyperparameters[name])}" for name in names)
    return f"{label} is best, {results.show(best.score)}, at {where}"
