"""How good the best setting was at any time: over the tasks and the seconds that its algorithm had spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Arrived, Results

TITLE = "Best so far"


def draw(results: Results) -> Drawn:
    """Draw the best meta-validation figure over tasks and over seconds, a step line an algorithm."""
    if not results.arrivals:
        return [Omitted(TITLE, results.without_trials())]
    figure = style.new(4.4)
    axes = figure.subplots(1, 2, sharey=True)
    looks = style.lines(results.labels)
    ends = {}
    for label, arrived in results.by_label(results.arrivals).items():
        for axis, spent in zip(axes, (lambda one: float(one.tasks), lambda one: one.seconds), strict=True):
            best = improvements(arrived, spent)
            if best:
                x = [*(so_far for so_far, _ in best), max(map(spent, arrived))]
                y = [style.value(results.metric, results.figure(score)) for _, score in best]
                marks = list(range(len(y)))
                axis.step(
                    x, [*y, y[-1]], where="post", label=label, markevery=marks, **looks[label]._asdict()
                )
                ends[label] = best[-1][1]
    for axis, unit in zip(axes, ("meta-train tasks", "seconds"), strict=True):
        axis.set_xlabel(f"{unit}, all trials of the algorithm together")
        style.brief_numbers(axis)
    axes[0].set_ylabel(style.axis_label(results.metric, "best meta-validation"))
    style.legend(figure, *axes[0].get_legend_handles_labels())
    further = "higher" if results.metric == "accuracy" else "lower"
    caption = (
        "The best meta-validation figure that each algorithm had reached once its trials had spent so much. "
        f"A line that is {further} further left found a good setting for less; a long flat end says that "
        "more trials brought nothing. These figures were selected for, so they flatter; the leaderboard's "
        "do not."
    )
    said = "; ".join(f"{label} {results.show(score)}" for label, score in ends.items())
    alt = f"Step lines of the best meta-validation {results.metric}, which end at: {said}."
    return [Picture("anytime", TITLE, caption, alt, figure)]


def improvements(arrived: Sequence[Arrived], spent: Callable[[Arrived], float]) -> list[tuple[float, float]]:
    """List what had been spent, and the score, each time that the best score of an algorithm rose."""
    best = -math.inf
    rises = []
    for one in arrived:
        if one.score is not None and one.score > best:
            best = one.score
            rises.append((spent(one), best))
    return rises
