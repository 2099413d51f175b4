"""Accuracy over inner steps: how final runs adapt, and whether more steps than in training would help."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from metabench.core import metrics
from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found
from metabench.storage import files
from metabench.training import diagnostics

TITLE = "Accuracy over inner steps"


class Followed(NamedTuple):
    """What one setting reaches after so many inner steps, over its seeds."""

    label: str
    variant: str
    means: list[float]  # after 0, 1, ... steps, over seeds
    lows: list[float]  # over seeds; of the 95 % interval over tasks where there is one
    highs: list[float]
    own_steps: int  # that evaluation takes
    n_seeds: int


def draw(found: Found) -> Drawn:
    """Draw tuned settings on the left and published ones on the right."""
    title = TITLE if found.metric == "accuracy" else "Error over inner steps"
    followed = _followed(found)
    if not followed:
        return [Left(title, "no run with an inner loop has been diagnosed yet")]
    sides = [
        ("tuned, or a run", [one for one in followed if one.variant != DEFAULT]),
        ("published settings", [one for one in followed if one.variant == DEFAULT]),
    ]
    sides = [(name, part) for name, part in sides if part]
    figure = style.new(4.6, style.WIDTH if len(sides) > 1 else 0.7 * style.WIDTH)
    axes = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    looks = style.lines(found.labels)
    for axis, (name, part) in zip(axes, sides, strict=True):
        axis.set_title(name)
        axis.set_xlabel("inner steps at evaluation")
        axis.set_xticks(range(0, diagnostics.STEPS + 1, 2))
        for one in part:
            _draw_line(axis, found.metric, one, looks[one.label], has_band=len(part) <= 6)
    axes[0].set_ylabel(style.axis_label(found.metric, "meta-validation"))
    named: dict[str, Any] = {}
    for axis in axes:
        named |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [label for label in found.labels if label in named]
    style.legend(figure, [named[label] for label in shown], shown)
    caption = (
        "The same weights after more or fewer inner steps than they are tested with (ring); where there are "
        "several seeds, their mean, and a band from the lowest to the highest, else the 95 % interval over "
        "tasks. A line that falls behind its ring adapts too far; one that still rises there has steps to "
        "gain; one that starts high hardly needs to adapt."
    )
    said = [_words(found.metric, one) for one in followed if one.variant != DEFAULT] or [
        _words(found.metric, one) for one in followed
    ]
    alt = f"Lines over 0 to {diagnostics.STEPS} inner steps. {'; '.join(said)}."
    return [Picture("inner_steps", title, caption, alt, figure)]


def _followed(found: Found) -> list[Followed]:
    groups: dict[tuple[str, str], list[Sequence[Mapping[str, float]]]] = {}
    steps = {}
    for final in found.finals:
        path = final.run.folder / files.DIAGNOSTICS
        points = files.read_json(path)["over_steps"] if path.exists() else None
        if points and all(point["mean"] is not None for point in points):
            groups.setdefault((final.label, final.variant), []).append(points)
            steps[final.label, final.variant] = _steps(final.run.config["run"]["hyperparameters"])
    return [_over_seeds(*key, curves, steps[key]) for key, curves in groups.items()]


def _over_seeds(
    label: str, variant: str, curves: Sequence[Sequence[Mapping[str, float]]], own_steps: int
) -> Followed:
    points = list(zip(*curves, strict=True))
    is_one = len(curves) == 1
    return Followed(
        label=label,
        variant=variant,
        means=[statistics.fmean(point["mean"] for point in step) for step in points],
        lows=[min(point["ci_low" if is_one else "mean"] for point in step) for step in points],
        highs=[max(point["ci_high" if is_one else "mean"] for point in step) for step in points],
        own_steps=own_steps,
        n_seeds=len(curves),
    )


def _steps(hyperparameters: Mapping[str, Any]) -> int:
    """Return the inner steps at evaluation; -1 stands for those of meta-training."""
    found = hyperparameters.get(diagnostics.INNER_STEPS[0], -1)
    return int(hyperparameters.get(diagnostics.INNER_STEPS[1], 0) if found < 0 else found)


def _draw_line(axis: Axes, metric: str, one: Followed, look: style.Line, has_band: bool) -> None:
    x = range(len(one.means))
    y = [style.value(metric, mean) for mean in one.means]
    how: dict[str, Any] = look._asdict()
    axis.plot(x, y, label=one.label, markersize=4, **how)
    if has_band:
        low, high = ([style.value(metric, end) for end in ends] for ends in (one.lows, one.highs))
        axis.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
    if one.own_steps < len(y):
        ring: dict[str, Any] = {"markersize": 11, "markeredgewidth": 1.8, "markerfacecolor": "none"}
        axis.plot(one.own_steps, y[one.own_steps], marker="o", color=look.color, **ring)


def _words(metric: str, one: Followed) -> str:
    own = min(one.own_steps, len(one.means) - 1)
    at = [metrics.show(metric, one.means[step]) for step in (0, own, len(one.means) - 1)]
    return (
        f"{one.label} {one.variant}: {at[0]} before, {at[1]} after its {own} steps, "
        f"{at[2]} after {len(one.means) - 1}"
    )
