"""Slices: each trial's figure over the rates, inner steps and batch that it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from metabench.core.config import Choices, Range
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Results, Tried
from metabench.search import space as spaces

TITLE = "Slices"

SETTINGS = {
    "inner_lr": "inner rate",
    "outer_lr": "outer rate",
    "inner_steps": "inner steps",
    "task_batch_size": "tasks a batch",
}
"""What is sliced, with its name for people."""

FADED: Mapping[str, Any] = {"color": style.FAINT, "markerfacecolor": "none", "markersize": 4}


def draw(results: Results) -> Drawn:
    """Draw a row of panels an algorithm, a panel a setting."""
    judged = [tried for tried in results.trials if tried.trial.score is not None]
    varied = [name for name in SETTINGS if any(name in tried.trial.sampled for tried in judged)]
    if not judged or not varied:
        why = f"none of {', '.join(SETTINGS)} was searched" if judged else results.without_trials()
        return [Omitted(TITLE, why)]
    groups = results.by_label(judged)
    figure = style.new(1.75 * len(groups) + 0.7)
    grid = figure.subplots(len(groups), len(varied), squeeze=False, sharey="row")
    looks = style.lines(results.labels)
    for row, (label, group) in zip(grid, groups.items(), strict=True):
        parameters = spaces.of(group[0].space, group[0].trial.algorithm).parameters
        for axis, name in zip(row, varied, strict=True):
            _draw_panel(axis, results, group, name, parameters.get(name), looks[label].color)
        row[0].set_title(style.short(label, 80))
        row[0].set_ylabel(style.axis_label(results.metric, "val."))
    for axis, name in zip(grid[-1], varied, strict=True):
        axis.set_xlabel(SETTINGS[name])
    handles = [style.key(linestyle="", marker="o", **look) for look in ({}, FADED)]
    style.legend(figure, handles, ["saw the full budget", "stopped before, or runs"])
    caption = (
        "Each point is a trial's last meta-validation figure over one setting, all others varying too. "
        "Filled points saw the full budget; hollow ones were stopped earlier, so they may only be compared "
        "among themselves. A best region at the end of an axis says that the range ought to be wider."
    )
    return [Picture("slices", TITLE, caption, _alt(results, groups, varied), figure)]


def _draw_panel(
    axis: Axes, results: Results, group: Sequence[Tried], name: str, parameter: Any, color: str
) -> None:
    shown = [tried for tried in group if isinstance(tried.trial.hyperparameters.get(name), int | float)]
    if not shown:
        axis.text(0.5, 0.5, "has no such setting", transform=axis.transAxes, ha="center", color=style.SOFT)
        axis.set_xticks([])
        axis.grid(visible=False)
        return
    filled: Mapping[str, Any] = {"color": color, "markersize": 5, "alpha": 0.8}
    for is_full, look in ((False, FADED), (True, filled)):
        part = [tried.trial for tried in shown if tried.is_full == is_full]
        x = [trial.hyperparameters[name] for trial in part]
        y = [style.value(results.metric, results.figure(trial.score)) for trial in part]
        axis.plot(x, y, linestyle="", marker="o", **look)
    _scale(axis, parameter, [tried.trial.hyperparameters[name] for tried in shown])


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


def _alt(results: Results, groups: Mapping[str, Sequence[Tried]], varied: Sequence[str]) -> str:
    said = []
    for label, group in groups.items():
        full = [tried.trial for tried in group if tried.is_full]
        if not full:
            said.append(f"{label} has no trial at the full budget")
            continue
        best = max(full, key=lambda trial: trial.score or 0.0)
        where = ", ".join(
            f"{SETTINGS[name]} {style.brief(best.hyperparameters[name])}"
            for name in varied
            if isinstance(best.hyperparameters.get(name), int | float)
        )
        said.append(f"{label} is best, {results.show(best.score)}, at {where}")
    return f"Scattered points, a row an algorithm. {'; '.join(said)}."
