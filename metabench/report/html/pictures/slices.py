"""Slices: each trial's figure over the rates, inner steps and batch that it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.core.config import Choices, Range
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found, Tried
from metabench.search import space as spaces

TITLE = "Slices"

SETTINGS = {
    "inner_lr": "inner rate",
    "outer_lr": "outer rate",
    "inner_steps": "inner steps",
    "task_batch_size": "tasks a batch",
}
"""What is sliced, with its name for people."""


def draw(found: Found) -> Drawn:
    """Draw a row of panels an algorithm, a panel a setting."""
    judged = [tried for tried in found.trials if tried.trial.score is not None]
    varied = [name for name in SETTINGS if any(name in tried.trial.sampled for tried in judged)]
    if not judged or not varied:
        why = "no trial has reported yet" if not judged else f"none of {', '.join(SETTINGS)} was searched"
        return [Left(TITLE, why if found.searches else "there is no search among the folders")]
    labels = [label for label in found.labels if any(tried.label == label for tried in judged)]
    figure = style.new(1.75 * len(labels) + 0.7)
    grid = figure.subplots(len(labels), len(varied), squeeze=False, sharey="row")
    looks = style.lines(found.labels)
    for row, label in zip(grid, labels, strict=True):
        own = [tried for tried in judged if tried.label == label]
        for axis, name in zip(row, varied, strict=True):
            _draw_panel(axis, found, own, name, looks[label])
        row[0].set_title(style.short(label, 80))
        row[0].set_ylabel(
            style.axis_label(found.metric, "val.") if found.metric == "accuracy" else "val. error"
        )
    for axis, name in zip(grid[-1], varied, strict=True):
        axis.set_xlabel(SETTINGS[name])
    keys = [("saw the full budget", {"color": style.INK}), ("stopped before, or runs", _faded())]
    handles = [Line2D([], [], linestyle="", marker="o", **look) for _, look in keys]
    style.legend(figure, handles, [words for words, _ in keys])
    caption = (
        "Each point is a trial's last meta-validation figure over one setting, all others varying too. "
        "Filled points saw the full budget; hollow ones were stopped earlier, so they may only be compared "
        "among themselves. A best region at the end of an axis says that the range ought to be wider."
    )
    return [Picture("slices", TITLE, caption, _alt(found, judged, labels, varied), figure)]


def _faded() -> dict[str, Any]:
    return {"color": style.FAINT, "markerfacecolor": "none", "markersize": 4}


def _draw_panel(axis: Axes, found: Found, own: Sequence[Tried], name: str, look: style.Line) -> None:
    known = [tried for tried in own if isinstance(tried.trial.hyperparameters.get(name), int | float)]
    if not known:
        axis.text(0.5, 0.5, "has no such setting", transform=axis.transAxes, ha="center", color=style.SOFT)
        axis.set_xticks([])
        axis.grid(visible=False)
        return
    for is_full in (False, True):
        part = [tried for tried in known if tried.is_full == is_full]
        x = [tried.trial.hyperparameters[name] for tried in part]
        y = [style.value(found.metric, found.figure(tried.trial.score)) for tried in part]
        how = {"color": look.color, "markersize": 5, "alpha": 0.8} if is_full else _faded()
        axis.plot(x, y, linestyle="", marker="o", **how)
    parameter = spaces.parameters(found.spaces[known[0].search], known[0].trial.algorithm).get(name)
    _scale(axis, parameter, [tried.trial.hyperparameters[name] for tried in known])


def _scale(axis: Axes, parameter: Any, values: Sequence[float]) -> None:
    """Show the whole range that was searched, on the scale on which it was."""
    if isinstance(parameter, Range):
        low, high = parameter.low, parameter.high
        if parameter.log:
            axis.set_xscale("log")
            margin = (high / low) ** 0.06
            axis.set_xlim(low / margin, high * margin)
            ticks = style.log_ticks(low, high, 0.24)
            axis.set_xticks(ticks, [style.brief(tick) for tick in ticks])
            axis.set_xticks([], minor=True)
            return
        margin = 0.06 * (high - low)
        axis.set_xlim(low - margin, high + margin)
        return
    chosen = parameter.choices if isinstance(parameter, Choices) else values
    steps = sorted({float(value) for value in chosen})
    middle = (steps[-1] - steps[0]) or abs(steps[0]) or 1.0
    shown = style.spaced(steps, lambda tick: (tick - steps[0]) / middle, 0.16)
    axis.set_xticks(shown, [style.brief(tick) for tick in shown])
    axis.set_xlim(steps[0] - 0.12 * middle, steps[-1] + 0.12 * middle)


def _alt(found: Found, judged: Sequence[Tried], labels: Sequence[str], varied: Sequence[str]) -> str:
    said = []
    for label in labels:
        full = [tried for tried in judged if tried.label == label and tried.is_full]
        if not full:
            said.append(f"{label} has no trial at the full budget")
            continue
        best = max(full, key=lambda tried: tried.trial.score or 0.0).trial
        where = ", ".join(
            f"{SETTINGS[name]} {style.brief(best.hyperparameters[name])}"
            for name in varied
            if isinstance(best.hyperparameters.get(name), int | float)
        )
        said.append(f"{label} is best, {metrics.show(found.metric, found.figure(best.score))}, at {where}")
    return f"Scattered points, a row an algorithm. {'; '.join(said)}."
