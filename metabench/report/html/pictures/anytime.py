"""How good the best setting was at any time: over the tasks and the seconds that its algorithm had spent."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.axes import Axes

from metabench.core import metrics
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Arrived, Found

TITLE = "Best so far"


def draw(found: Found) -> Drawn:
    """Draw the best meta-validation figure over tasks and over seconds, a step line an algorithm."""
    if not found.arrivals:
        why = "no trial has reported yet" if found.searches else "there is no search among the folders"
        return [Left(TITLE, why)]
    figure = style.new(4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    looks = style.lines(found.labels)
    ends = {}
    for label in found.labels:
        own = [arrived for arrived in found.arrivals if arrived.label == label]
        for axis, spent in ((left, _tasks), (right, _seconds)):
            best = improvements(own, spent)
            if best:
                x = [*(so_far for so_far, _ in best), max(map(spent, own))]
                y = [style.value(found.metric, found.figure(score)) for _, score in best]
                _draw_steps(axis, label, looks[label], x, [*y, y[-1]])
                ends[label] = best[-1][1]
    left.set_xlabel("meta-train tasks, all trials of the algorithm together")
    left.set_ylabel(style.axis_label(found.metric, "best meta-validation"))
    right.set_xlabel("seconds, all trials of the algorithm together")
    left.xaxis.set_major_formatter(lambda number, _: style.brief(number))
    right.xaxis.set_major_formatter(lambda number, _: style.brief(number))
    named = {text: handle for handle, text in zip(*left.get_legend_handles_labels(), strict=True)}
    style.legend(figure, list(named.values()), list(named))
    caption = (
        "The best meta-validation figure that each algorithm had reached once its trials had spent so much. "
        "A line that is higher further left found a good setting for less; a long flat end says that more "
        "trials brought nothing. These figures were selected for, so they flatter; the leaderboard's do not."
    )
    if found.metric == "error":
        caption = caption.replace("higher further left", "lower further left")
    said = [f"{label} {metrics.show(found.metric, found.figure(score))}" for label, score in ends.items()]
    alt = f"Step lines of the best meta-validation {found.metric}, which end at: {'; '.join(said)}."
    return [Picture("anytime", TITLE, caption, alt, figure)]


def _tasks(arrived: Arrived) -> float:
    return float(arrived.tasks)


def _seconds(arrived: Arrived) -> float:
    return arrived.seconds


def improvements(own: list[Arrived], spent: Callable[[Arrived], float]) -> list[tuple[float, float]]:
    """List what had been spent, and the score, each time that the best score of an algorithm rose."""
    best = -math.inf
    found = []
    for arrived in own:
        if arrived.score is not None and arrived.score > best:
            best = arrived.score
            found.append((spent(arrived), best))
    return found


def _draw_steps(axis: Axes, label: str, look: style.Line, x: list[float], y: list[float]) -> None:
    marks = list(range(len(y) - 1))
    axis.step(x, y, where="post", label=label, markevery=marks, **look._asdict())
