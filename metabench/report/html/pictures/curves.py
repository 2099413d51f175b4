"""Learning curves: of every trial with its rungs and where it was stopped, and of the final runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.pictures import Drawn, Omitted, Picture
from metabench.report.html.reading import Final, Results, Tried
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED

TRIALS = "Learning curves of the trials"
FINALS = "Learning curves of the final runs"

ENDS = {
    COMPLETE: ("full budget", "o"),
    PRUNED: ("stopped at a rung", "x"),
    DIVERGED: ("diverged", "v"),
    FAILED: ("failed", "s"),
    None: ("still running", ">"),
}
"""How a trial ended, None where it has not, to words and a marker."""

DASHED = (0, (4, 2))

MANNERS: Mapping[str, Mapping[str, Any]] = {
    "tuned": {"linestyle": "-"},
    DEFAULT: {"linestyle": DASHED, "linewidth": 1.3},
    "run": {"linestyle": "-"},
}
"""How a final run is drawn."""


def draw(results: Results) -> Drawn:
    """Draw both, a panel an algorithm."""
    return [_trials(results), _finals(results)]


def _trials(results: Results) -> Picture | Omitted:
    reported = [tried for tried in results.trials if any(_points(results, tried.trial.reports))]
    if not reported:
        return Omitted(TRIALS, results.without_trials())
    groups = results.by_label(reported)
    figure, axes = style.panels(len(groups), 2.5)
    looks = style.lines(results.labels)
    for axis, (label, group) in zip(axes, groups.items(), strict=True):
        _draw_rungs(axis, spaces.rungs(group[0].space.budget))
        # The stopped first, so that those that went on lie above them.
        for tried in sorted(group, key=lambda tried: tried.is_full):
            _draw_trial(axis, results, tried, looks[label].color, len(group))
        style.title(axis, label, "meta-train tasks", style.axis_label(results.metric, "meta-validation"))
    present = [status for status in ENDS if any(tried.trial.status == status for tried in reported)]
    style.legend(figure, [_end_key(status) for status in present], [ENDS[status][0] for status in present])
    caption = (
        "Each line is a trial: its meta-validation figure at each rung (dotted) that it reached. Coloured "
        "lines saw the full budget, grey ones did not. Where grey and coloured lines cross after the first "
        "rung, early figures were a poor guide, and a later first rung (grace) may be worth its cost."
    )
    said = []
    for label in groups:
        ends = Counter(tried.trial.status for tried in results.trials if tried.label == label)
        counts = [f"{ends[status]} {words}" for status, (words, _) in ENDS.items() if ends[status]]
        said.append(f"{label}: {', '.join(counts)}")
    alt = f"A panel of learning curves an algorithm. {'; '.join(said)}."
    return Picture("curves", TRIALS, caption, alt, figure)


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


def _draw_trial(axis: Axes, results: Results, tried: Tried, color: str, n_trials: int) -> None:
    x, y = _points(results, tried.trial.reports)
    status = tried.trial.status
    is_shown = tried.is_full or status is None
    strength = 0.9 if is_shown else 0.55
    faded = max(0.25, min(1.0, (40 / n_trials) ** 0.5))
    look: dict[str, Any] = {"color": color if is_shown else style.FAINT, "alpha": strength * faded}
    dashes: Any = DASHED if status is None else "-"
    axis.plot(x, y, linewidth=1.6 if is_shown else 1.0, linestyle=dashes, **look)
    size = 5 if n_trials <= 40 else 3.5
    axis.plot(x[-1], y[-1], linestyle="", marker=ENDS[status][1], markersize=size, **look)


def _end_key(status: str | None) -> Any:
    color = style.INK if status in (COMPLETE, None) else style.FAINT
    dashes: Any = DASHED if status is None else "-"
    return style.key(color=color, marker=ENDS[status][1], linestyle=dashes, linewidth=1.4)


def _finals(results: Results) -> Picture | Omitted:
    groups = results.by_label(final for final in results.finals if final.run.reports)
    if not groups:
        return Omitted(FINALS, "no run to the full budget has reported yet")
    figure, axes = style.panels(len(groups), 2.3)
    looks = style.lines(results.labels)
    for axis, (label, group) in zip(axes, groups.items(), strict=True):
        for final in group:
            points, manner = _points(results, final.run.reports), MANNERS[final.variant]
            axis.plot(*points, color=looks[label].color, marker=".", markersize=4, **manner)
        style.title(axis, label, "meta-train tasks", style.axis_label(results.metric, "meta-validation"))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
        style.brief_numbers(axis)
    variants = {final.variant for group in groups.values() for final in group}
    handles = {
        "published setting" if variant == DEFAULT else variant: style.key(**manner)
        for variant, manner in MANNERS.items()
        if variant in variants
    }
    style.legend(figure, list(handles.values()), list(handles))
    caption = (
        "Each line is a run to the full budget, one a seed. The weights of its best report are the ones that "
        "are tested. Lines that still rise at the end would gain from a larger budget; lines of one kind "
        "that lie apart say how much the seed matters."
    )
    said = "; ".join(f"{label} {_span(results, group)}" for label, group in groups.items())
    alt = f"A panel of learning curves an algorithm; best meta-validation {results.metric}: {said}."
    return Picture("final_curves", FINALS, caption, alt, figure)


def _span(results: Results, finals: Sequence[Final]) -> str:
    judged = [
        [one["val_score"] for one in final.run.reports if one["val_score"] is not None] for final in finals
    ]
    scores = [max(scores) for scores in judged if scores]
    if not scores:
        return "never finite"
    low, high = results.show(min(scores)), results.show(max(scores))
    return low if low == high else f"{low} to {high}"
