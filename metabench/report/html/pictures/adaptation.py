"""Accuracy over inner steps: how final runs adapt, and whether more steps than in training would help."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from metabench import algorithms
from metabench.core import metrics
from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Final, Results
from metabench.storage import files
from metabench.training import diagnostics

Points = Sequence[Mapping[str, float]]
"""Mean and interval after 0, 1, ... inner steps."""


class Followed(NamedTuple):
    """What one setting reaches after so many inner steps, over its seeds."""

    label: str
    variant: str
    means: list[float]  # after 0, 1, ... steps, over seeds
    lows: list[float]  # over seeds; of the 95 % interval over tasks where there is one
    highs: list[float]
    n_steps: int  # that evaluation takes


def draw(results: Results) -> Drawn:
    """Draw tuned settings on the left and published ones on the right."""
    metric = results.metric
    title = f"{metric.capitalize()} over inner steps"
    followed = _followed(results)
    if not followed:
        return [Omitted(title, "no run with an inner loop has been diagnosed yet")]
    tuned = [one for one in followed if one.variant != DEFAULT]
    default = [one for one in followed if one.variant == DEFAULT]
    sides = {"tuned, or a run": tuned, "published settings": default}
    sides = {name: side for name, side in sides.items() if side}
    figure = style.new(4.6, style.WIDTH if len(sides) > 1 else 0.7 * style.WIDTH)
    axes = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    looks = style.lines(results.labels)
    handles: dict[str, Any] = {}
    for axis, (name, side) in zip(axes, sides.items(), strict=True):
        axis.set_title(name)
        axis.set_xlabel("inner steps at evaluation")
        axis.set_xticks(range(0, diagnostics.STEPS + 1, 2))
        for one in side:
            handles[one.label] = _draw_line(axis, metric, one, looks[one.label], has_band=len(side) <= 6)
    axes[0].set_ylabel(style.axis_label(metric, "meta-validation"))
    shown = [label for label in results.labels if label in handles]
    style.legend(figure, [handles[label] for label in shown], shown)
    caption = (
        "The same weights after more or fewer inner steps than they are tested with (ring); where there are "
        "several seeds, their mean, and a band from the lowest to the highest, else the 95 % interval over "
        "tasks. A line that falls behind its ring adapts too far; one that still rises there has steps to "
        "gain; one that starts high hardly needs to adapt."
    )
    said = "; ".join(_words(metric, one) for one in tuned or default)
    alt = f"Lines over 0 to {diagnostics.STEPS} inner steps. {said}."
    return [Picture("inner_steps", title, caption, alt, figure)]


def _followed(results: Results) -> list[Followed]:
    groups: dict[tuple[str, str], list[tuple[Final, Points]]] = {}
    for final in results.finals:
        path = final.run.folder / files.DIAGNOSTICS
        points = files.read_json(path)["over_steps"] if path.exists() else None
        if points and all(point["mean"] is not None for point in points):
            groups.setdefault((final.label, final.variant), []).append((final, points))
    return [_over_seeds(group) for group in groups.values()]


def _over_seeds(group: Sequence[tuple[Final, Points]]) -> Followed:
    final, points = group[-1][0], list(zip(*(points for _, points in group), strict=True))
    low, high = ("ci_low", "ci_high") if len(group) == 1 else ("mean", "mean")
    return Followed(
        label=final.label,
        variant=final.variant,
        means=[statistics.fmean(point["mean"] for point in step) for step in points],
        lows=[min(point[low] for point in step) for step in points],
        highs=[max(point[high] for point in step) for step in points],
        n_steps=_steps(final.run.config["run"]),
    )


def _steps(run: Mapping[str, Any]) -> int:
    """Return the inner steps at evaluation."""
    counts = (run["hyperparameters"].get(name, -1) for name in algorithms.get(run["algorithm"]).inner_steps)
    return next((int(count) for count in counts if count >= 0), 0)


def _draw_line(axis: Axes, metric: str, one: Followed, look: style.Line, has_band: bool) -> Any:
    x = range(len(one.means))
    y, low, high = (
        [style.value(metric, figure) for figure in part] for part in (one.means, one.lows, one.highs)
    )
    (line,) = axis.plot(x, y, label=one.label, **{**look._asdict(), "markersize": 4})
    if has_band:
        axis.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
    if one.n_steps < len(y):
        ring: Mapping[str, Any] = {"markersize": 11, "markeredgewidth": 1.8, "markerfacecolor": "none"}
        axis.plot(one.n_steps, y[one.n_steps], marker="o", color=look.color, **ring)
    return line


def _words(metric: str, one: Followed) -> str:
    last = len(one.means) - 1
    n_steps = min(one.n_steps, last)
    before, then, after = (metrics.show(metric, one.means[step]) for step in (0, n_steps, last))
    return (
        f"{one.label} {one.variant}: {before} before, {then} after its {n_steps} steps, {after} after {last}"
    )
