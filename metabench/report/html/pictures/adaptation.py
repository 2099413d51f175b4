"""Adaptation as pictures: figures over inner steps, and the inner rates that were learned.

Rates are drawn by layer and step where there is one each, else by how they spread within each layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors import safe_open

from metabench import algorithms
from metabench.core import metrics
from metabench.core.metrics import Metric
from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Final, Results
from metabench.storage import files, models, records

BY_STEP = "Learned rates by layer and step"
BY_LAYER = "Learned rates by layer"
CELLS = LinearSegmentedColormap.from_list("rates", ["#b35806", "#f7f7f7", "#053061"])
"""From negative through zero to positive; cells have their own ground, so these are no paper colours."""


LINEAR = 10
"""Inner steps up to which the axis is linear; beyond, it is logarithmic."""

Rates = NDArray[np.float64]
Points = Sequence[Mapping[str, float]]
"""Mean and interval after so many inner steps each."""


class Followed(NamedTuple):
    """What one setting reaches after so many inner steps, over its seeds."""

    label: str
    variant: str
    n_steps: int  # that evaluation takes
    figures: Mapping[int, tuple[float, float, float]]  # after so many steps: mean, low, high


def draw_steps(results: Results) -> Drawn:
    """Draw tuned settings on the left and published ones on the right."""
    metric = results.metric
    title = f"{metric.name.capitalize()} over inner steps"
    followed = _followed(results)
    if not followed:
        return [Omitted(title, "no run with an inner loop has been diagnosed yet")]
    tuned = [one for one in followed if one.variant != DEFAULT]
    default = [one for one in followed if one.variant == DEFAULT]
    caption = (
        "The same weights after more or fewer inner steps than they are tested with (ring); where there are "
        "several seeds, their mean, and a band from the lowest to the highest, else the 95 % interval over "
        "tasks. A line that falls behind its ring adapts too far; one that still rises there has steps to "
        "gain; one that starts high hardly needs to adapt."
    )
    said = "; ".join(_words(metric, one) for one in tuned or default)
    alt = f"Lines over 0 to {max(max(one.figures) for one in followed)} inner steps. {said}."
    sides = {"tuned, or a run": tuned, "published settings": default}
    sides = {name: side for name, side in sides.items() if side}
    return [Picture("inner_steps", title, caption, alt, partial(_steps, results, sides))]


def _steps(results: Results, sides: Mapping[str, Sequence[Followed]], width: float) -> Figure:
    figure, axes = style.panels(len(sides), 3.8, width, columns=2)
    looks = style.lines(results.labels)
    handles: dict[str, Any] = {}
    for axis, (name, side) in zip(axes, sides.items(), strict=True):
        y = style.axis_label(results.metric, "meta-validation")
        style.title(axis, name, "inner steps at evaluation", y)
        for one in side:
            look = looks[one.label]
            handles[one.label] = _draw_line(axis, results.metric, one, look, has_band=len(side) <= 6)
        steps = sorted({step for one in side for step in one.figures})
        far = [step for step in steps if step > LINEAR]
        few = [step for step in steps if step <= LINEAR and step % (5 if far else 2) == 0]
        if far:
            axis.set_xscale("symlog", linthresh=LINEAR)
        style.ticks(axis, [*few, *far])
    style.within(results.metric, axes[0])
    shown = [label for label in results.labels if label in handles]
    style.legend(figure, [handles[label] for label in shown], shown)
    return figure


def _followed(results: Results) -> list[Followed]:
    """List means and ends over seeds; of one seed, the ends of its interval over tasks."""
    groups: dict[tuple[str, str, int], list[Points]] = {}
    for final in results.finals:
        seen = records.optional(final.run.folder / files.DIAGNOSTICS, models.DIAGNOSIS)
        points = seen and seen["over_steps"]
        if points and all(point["mean"] is not None for point in points):
            run = final.run.config["run"]
            n_steps = algorithms.steps_at_evaluation(algorithms.get(run["algorithm"]), run["hyperparameters"])
            who = (final.label, final.variant, n_steps)
            groups.setdefault(who, []).append(points)
    followed = []
    for who, group in groups.items():
        low, high = ("ci_low", "ci_high") if len(group) == 1 else ("mean", "mean")
        by_step = [{int(point["step"]): point for point in points} for points in group]
        steps = sorted(set.intersection(*map(set, by_step)))
        at = {step: [points[step] for points in by_step] for step in steps}
        figures = {
            step: (
                statistics.fmean(p["mean"] for p in seen),
                min(p[low] for p in seen),
                max(p[high] for p in seen),
            )
            for step, seen in at.items()
        }
        followed.append(Followed(*who, figures))
    return followed


def _draw_line(axis: Axes, metric: Metric, one: Followed, look: style.Line, has_band: bool) -> Any:
    x, columns = list(one.figures), zip(*one.figures.values(), strict=True)
    y, low, high = ([style.value(metric, figure) for figure in column] for column in columns)
    (line,) = axis.plot(x, y, label=one.label, **{**look._asdict(), "markersize": 4})
    if has_band:
        axis.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
    if one.n_steps in one.figures:
        ring: Mapping[str, Any] = {"markersize": 11, "markeredgewidth": 1.8, "markerfacecolor": "none"}
        tested = y[x.index(one.n_steps)]
        axis.plot(one.n_steps, tested, marker="o", color=look.color, clip_on=False, **ring)
    return line


def _words(metric: Metric, one: Followed) -> str:
    last = max(one.figures)
    n_steps = min(one.figures, key=lambda step: abs(step - one.n_steps))
    before, then, after = (metrics.show(metric, one.figures[step][0]) for step in (0, n_steps, last))
    return f"{one.label} {one.variant}: {before} before, {then} after {n_steps} steps, {after} after {last}"


class Learned(NamedTuple):
    """The rates of one algorithm's runs, over its seeds."""

    label: str
    first: float  # where they started
    is_per_step: bool
    layers: dict[str, Rates]  # by tensor: [seeds, ...]
    n_seeds: int


def draw_rates(results: Results) -> Drawn:
    """Draw the rates of tuned settings, of single runs, and of published ones where nothing else has any."""
    finals = [final for final in results.finals if (final.run.folder / files.WEIGHTS).exists()]
    groups: dict[str, list[Final]] = {}
    for final in [final for final in finals if final.variant != DEFAULT] or finals:
        groups.setdefault(final.label, []).append(final)
    learned = [one for label, group in groups.items() if (one := _learned(label, group)) is not None]
    by_step = [one for one in learned if one.is_per_step]
    by_layer = [one for one in learned if not one.is_per_step]
    why = "no run whose algorithm learns {} has weights yet"
    return [
        _by_step(by_step) if by_step else Omitted(BY_STEP, why.format("a rate a layer and step")),
        _by_layer(results, by_layer) if by_layer else Omitted(BY_LAYER, why.format("its rates otherwise")),
    ]


def _learned(label: str, group: list[Final]) -> Learned | None:
    """Read what the runs of an algorithm learned; None where that is no rates, or others a seed."""
    described = group[0].run.config["run"]
    traits = algorithms.get(described["algorithm"]).inner_rates
    seeds = [] if traits is None else [_rates(final, f"meta.{traits.entry}") for final in group]
    shapes = {tuple((name, rates.shape) for name, rates in layers.items()) for layers in seeds}
    if traits is None or not seeds[0] or len(shapes) > 1:
        return None
    first = float(described["hyperparameters"][traits.first])
    layers = {name: np.stack([rates[name] for rates in seeds]) for name in seeds[0]}
    return Learned(label, first, traits.is_per_step, layers, len(seeds))


def _rates(final: Final, entry: str) -> dict[str, Rates]:
    with safe_open(final.run.folder / files.WEIGHTS, "numpy") as file:
        names = [name for name in file.keys() if name == entry or name.startswith(f"{entry}.")]  # noqa: SIM118
        return {
            name[len(entry) + 1 :] or "all layers": file.get_tensor(name).astype(np.float64)
            for name in sorted(names)
        }


def _by_step(learned: list[Learned]) -> Picture:
    caption = (
        "The inner rate that each layer learned for each inner step; blue adapts, white stands still, orange "
        "steps backwards. Rows that stay white are layers that the inner loop leaves alone; columns that "
        "pale to the right are steps of which only the first ones count."
    )
    said = [f"{one.label}: {_extremes({k: v.mean(0) for k, v in one.layers.items()})}" for one in learned]
    alt = f"Tables of rates. {'; '.join(said)}."
    return Picture("rates_by_step", BY_STEP, caption, alt, partial(_tables, learned))


def _tables(learned: list[Learned], width: float) -> Figure:
    rows = max(len(one.layers) for one in learned)
    figure, axes = style.panels(len(learned), 0.3 * rows + 0.9, width, columns=2, share_y=False)
    for axis, one in zip(axes, learned, strict=True):
        n_steps = next(iter(one.layers.values())).shape[1]
        _draw_cells(axis, one, min(8.5, 17 * figure.get_figwidth() / len(axes) / n_steps))
        seeds = "" if one.n_seeds == 1 else f", mean of {one.n_seeds} seeds"
        style.title(axis, f"{one.label} (from {style.brief(one.first)}{seeds})")
    return figure


def _draw_cells(axis: Axes, one: Learned, size: float) -> None:
    table = np.stack([rates.mean(0) for rates in one.layers.values()])  # [layers, steps]
    most = float(np.abs(table).max()) or 1.0
    axis.pcolormesh(table, cmap=CELLS, vmin=-most, vmax=most, edgecolors="#ffffff", linewidth=1.5)
    for row, column in np.ndindex(table.shape):
        is_dark = table[row, column] > 0.55 * most or table[row, column] < -0.8 * most
        color = "#fefefe" if is_dark else "#101010"
        text = f"{table[row, column]:.2g}"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=color)
    axis.set_xticks(np.arange(table.shape[1]) + 0.5, [str(step + 1) for step in range(table.shape[1])])
    axis.set_yticks(np.arange(len(table)) + 0.5, [style.short(name, 22) for name in one.layers])
    axis.invert_yaxis()
    axis.set_xlabel("inner step")
    axis.grid(visible=False)
    axis.tick_params(length=0, labelcolor=style.INK)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _by_layer(results: Results, learned: list[Learned]) -> Picture:
    caption = (
        "The inner rates that each layer learned: a point for the median, a thick bar for the middle half "
        "and a thin one for the middle nine tenths of its elements, all seeds together; an algorithm of one "
        "rate has a point a seed. The dashed line is where all rates started: distance from it was learned."
    )
    said = [f"{one.label}: {_extremes(one.layers)}" for one in learned]
    alt = f"Bars of rates. {'; '.join(said)}."
    return Picture("rates_by_layer", BY_LAYER, caption, alt, partial(_spreads, results, learned))


def _spreads(results: Results, learned: list[Learned], width: float) -> Figure:
    looks = style.lines(results.labels)
    rows = max(len(one.layers) for one in learned)
    figure, axes = style.panels(len(learned), 0.3 * rows + 1.0, width, columns=2, share_y=False)
    for axis, one in zip(axes, learned, strict=True):
        _draw_spread(axis, one, looks[one.label].color)
        seeds = "" if one.n_seeds == 1 else f" ({one.n_seeds} seeds)"
        style.title(axis, f"{one.label}{seeds}", "learned inner rate")
    return figure


def _draw_spread(axis: Axes, one: Learned, color: str) -> None:
    axis.axvline(one.first, color=style.SOFT, linestyle=(0, (4, 2)), linewidth=1.2)
    for place, rates in enumerate(one.layers.values()):
        if rates[0].size == 1:
            axis.plot(rates.ravel(), [place] * len(rates), "o", color=color, alpha=0.8)
            continue
        low, left, middle, right, high = np.quantile(rates, [0.05, 0.25, 0.5, 0.75, 0.95])
        axis.plot([low, high], [place, place], color=color, linewidth=1.2)
        axis.plot([left, right], [place, place], color=color, linewidth=5, alpha=0.5, solid_capstyle="butt")
        axis.plot(middle, place, "o", color=color)
    axis.set_yticks(range(len(one.layers)), [style.short(name, 22) for name in one.layers])
    axis.set_ylim(len(one.layers) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)


def _extremes(layers: Mapping[str, NDArray[Any]]) -> str:
    medians = {name: float(np.median(rates)) for name, rates in layers.items()}
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    if low == high:
        return f"{low} {medians[low]:.3g}"
    return f"slowest {low} {medians[low]:.3g}, fastest {high} {medians[high]:.3g}"
