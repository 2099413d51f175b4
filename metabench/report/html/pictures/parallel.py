"""Parallel coordinates: every trial a line through all the settings that were sampled for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metabench.core import metrics
from metabench.core.config import Choices, Range
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found, Tried
from metabench.search import space as spaces

TITLE = "Parallel coordinates"
UNSET = -0.3
"""Where a line passes an axis whose setting it does not have."""


def draw(found: Found) -> Drawn:
    """Draw a panel an algorithm, an axis a setting, and one for the figure."""
    judged = [tried for tried in found.trials if tried.trial.score is not None and tried.trial.sampled]
    if not judged:
        why = "no trial with a setting that varies has reported yet"
        return [Left(TITLE, why if found.searches else "there is no search among the folders")]
    labels = [label for label in found.labels if any(tried.label == label for tried in judged)]
    figure, axes = style.panels(len(labels), 2.9, columns=1, share_y=False)
    figure.set_figwidth(style.WIDTH)
    for axis, label in zip(axes, labels, strict=True):
        _draw_panel(axis, found, [tried for tried in judged if tried.label == label])
        style.title(axis, label)
    handles = [Line2D([], [], color=style.light(fifth), linewidth=2.2) for fifth in style.FIFTHS[::-1]]
    words = ["best fifth", "second", "third", "fourth", "last fifth"]
    handles.append(Line2D([], [], color=style.FAINT, linewidth=0.8, linestyle=(0, (3, 2))))
    style.legend(figure, handles, [*words, "not the full budget"], columns=6)
    caption = (
        "Each line is a trial. Strong lines are the best of those that saw the full budget; dashed grey ones "
        "were stopped earlier or still run. Where strong lines meet at one height of an axis, that setting "
        "matters; where they are spread, it hardly does. Lines below an axis do not have its setting."
    )
    return [Picture("parallel", TITLE, caption, _alt(found, judged, labels), figure)]


def _draw_panel(axis: Axes, found: Found, own: Sequence[Tried]) -> None:
    algorithm, space = own[0].trial.algorithm, found.spaces[own[0].search]
    parameters = {
        name: parameter
        for name, parameter in spaces.parameters(space, algorithm).items()
        if isinstance(parameter, Range | Choices) and any(name in tried.trial.sampled for tried in own)
    }
    places = {name: _placing(parameter) for name, parameter in parameters.items()}
    shown = [style.value(found.metric, found.figure(tried.trial.score)) for tried in own]
    low, high = min(shown), max(shown)
    fifths = _fifths(own)
    for tried in sorted(own, key=lambda tried: (tried.is_full, tried.trial.score)):
        y = [_height(tried.trial.sampled.get(name), places[name]) for name in parameters]
        figure = style.value(found.metric, found.figure(tried.trial.score))
        y.append((figure - low) / (high - low) if high > low else 0.5)
        axis.plot(range(len(y)), y, **_look(fifths.get(tried.trial.name), len(own)))
    _draw_axes(axis, parameters)
    ends = [
        metrics.show(found.metric, end / 100 if found.metric == "accuracy" else end) for end in (low, high)
    ]
    _draw_ends(axis, len(parameters), ends)
    room = int(72 * style.WIDTH / (len(parameters) + 1.6) / 5.5)  # characters
    names = [style.wrapped(name, min(13, room)) for name in parameters]
    axis.set_xticks(range(len(names) + 1), [*names, f"meta-val.\n{found.metric}"])
    axis.tick_params(axis="x", length=0, labelcolor=style.INK, pad=2)
    axis.set_xlim(-0.3, len(names) + 0.3)
    is_conditional = any(name not in tried.trial.sampled for tried in own for name in parameters)
    axis.set_ylim(UNSET - 0.04 if is_conditional else -0.18, 1.14)
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _placing(parameter: Any) -> Callable[[Any], float]:
    """Return where a value stands on an axis from 0 to 1, on the scale on which it was sampled."""
    if isinstance(parameter, Choices):
        order = {str(choice): height for choice, height in _heights(parameter)}
        return lambda choice: order.get(str(choice), math.nan)
    scale: Callable[[float], float] = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return lambda number: (scale(number) - low) / (high - low)


def _height(value: Any, place: Callable[[Any], float]) -> float:
    return UNSET if value is None else place(value)


def _fifths(own: Sequence[Tried]) -> dict[str, int]:
    """Rank the trials at the full budget: 4 is the best fifth of them, 0 the last."""
    full = sorted((t for t in own if t.is_full), key=lambda tried: tried.trial.score or 0.0)
    return {tried.trial.name: 5 * rank // len(full) for rank, tried in enumerate(full)}


def _look(fifth: int | None, n_trials: int) -> dict[str, Any]:
    if fifth is None:
        faded = max(0.25, min(0.8, (30 / n_trials) ** 0.5))
        return {"color": style.FAINT, "linewidth": 0.7, "linestyle": (0, (3, 2)), "alpha": faded}
    return {"color": style.light(style.FIFTHS[fifth]), "linewidth": 0.8 + 0.4 * fifth}


def _draw_axes(axis: Axes, parameters: Mapping[str, Any]) -> None:
    for place, parameter in enumerate([*parameters.values(), None]):
        axis.plot([place, place], [0, 1], color=style.SOFT, linewidth=1.0)
        if isinstance(parameter, Range):
            _draw_ends(axis, place, [style.brief(parameter.low), style.brief(parameter.high)])
        elif isinstance(parameter, Choices):
            for choice, height in _heights(parameter):
                _draw_text(axis, place + 0.04, height, _told(choice), ha="left", va="center")


def _draw_ends(axis: Axes, place: int, ends: Sequence[str]) -> None:
    for height, text, side in ((-0.03, ends[0], "top"), (1.03, ends[1], "bottom")):
        _draw_text(axis, place, height, text, ha="center", va=side)


def _draw_text(axis: Axes, x: float, y: float, text: str, **where: Any) -> None:
    """Write above the lines, on ground of its own."""
    ground = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    axis.text(x, y, text, fontsize=8.5, color=style.INK, bbox=ground, zorder=5, **where)


def _heights(parameter: Choices) -> list[tuple[Any, float]]:
    """Spread choices over an axis: numbers and no before yes in their order, others as they were given."""
    choices = list(parameter.choices)
    if all(isinstance(choice, int | float) for choice in choices):
        choices.sort(key=float)
    steps = max(1, len(choices) - 1)
    return [(choice, index / steps) for index, choice in enumerate(choices)]


def _told(choice: Any) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return style.short(style.brief(choice) if isinstance(choice, int | float) else str(choice), 10)


def _alt(found: Found, judged: Sequence[Tried], labels: Sequence[str]) -> str:
    said = []
    for label in labels:
        full = [tried for tried in judged if tried.label == label and tried.is_full]
        if full:
            best = max(full, key=lambda tried: tried.trial.score or 0.0).trial
            settings = ", ".join(f"{name} {_told(value)}" for name, value in best.sampled.items())
            said.append(f"{label}'s best trial had {settings}")
    return f"Lines through an axis a setting. {'; '.join(said) or 'No trial has seen the full budget yet'}."
