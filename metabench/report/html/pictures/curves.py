"""Learning curves: of every trial with its rungs and where it was stopped, and of the final runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metabench.core import metrics
from metabench.leaderboard.rows import DEFAULT
from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Final, Found, Tried
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


def draw(found: Found) -> Drawn:
    """Draw both, a panel an algorithm."""
    return [_trials(found), _finals(found)]


def _trials(found: Found) -> Picture | Left:
    reported = [tried for tried in found.trials if _points(found, tried)]
    if not reported:
        why = "no trial has reported yet" if found.searches else "there is no search among the folders"
        return Left(TRIALS, why)
    labels = [label for label in found.labels if any(tried.label == label for tried in reported)]
    figure, axes = style.panels(len(labels), 2.5)
    looks = style.lines(found.labels)
    for axis, label in zip(axes, labels, strict=True):
        own = [tried for tried in reported if tried.label == label]
        rungs = spaces.rungs(found.spaces[own[0].search].budget)
        _draw_rungs(axis, rungs)
        # The stopped first, so that those that went on lie above them.
        for tried in sorted(own, key=lambda tried: tried.is_full):
            _draw_trial(axis, found, tried, looks[label].color, len(own))
        style.title(axis, label)
        axis.set_xlabel("meta-train tasks")
        if style.is_first(axis):
            axis.set_ylabel(style.axis_label(found.metric, "meta-validation"))
    present = [status for status in ENDS if any(tried.trial.status == status for tried in reported)]
    handles = [_end_key(status) for status in present]
    style.legend(figure, handles, [ENDS[status][0] for status in present])
    caption = (
        "Each line is a trial: its meta-validation figure at each rung (dotted) that it reached. Coloured "
        "lines saw the full budget, grey ones did not. Where grey and coloured lines cross after the first "
        "rung, early figures were a poor guide, and a later first rung (grace) may be worth its cost."
    )
    return Picture("curves", TRIALS, caption, _alt(found, labels), figure)


def _points(found: Found, tried: Tried) -> list[tuple[float, float]]:
    """List tasks seen and the figure of each report that is finite."""
    return [
        (report["tasks_seen"], style.value(found.metric, found.figure(report["val_score"])))
        for report in tried.trial.reports
        if report["val_score"] is not None and math.isfinite(report["val_score"])
    ]


def _draw_rungs(axis: Axes, rungs: Sequence[int]) -> None:
    axis.set_xscale("log")
    span = math.log(rungs[-1] / rungs[0]) or 1.0
    axis.set_xlim(rungs[0] / math.exp(0.06 * span), rungs[-1] * math.exp(0.06 * span))
    for rung in rungs:
        axis.axvline(rung, color=style.FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.5)
    ticks = style.spaced(rungs, lambda rung: math.log(rung / rungs[0]) / span, 0.17)
    axis.set_xticks(ticks, [style.brief(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(axis="x", visible=False)


def _draw_trial(axis: Axes, found: Found, tried: Tried, color: str, n_trials: int) -> None:
    points = _points(found, tried)
    x, y = zip(*points, strict=True)
    is_shown = tried.is_full or tried.trial.status is None
    strength = 0.9 if is_shown else 0.55
    faded = max(0.25, min(1.0, (40 / n_trials) ** 0.5))
    look: dict[str, Any] = {"color": color if is_shown else style.FAINT, "alpha": strength * faded}
    dashes: Any = (0, (4, 2)) if tried.trial.status is None else "-"
    axis.plot(x, y, linewidth=1.6 if is_shown else 1.0, linestyle=dashes, **look)
    size = 5 if n_trials <= 40 else 3.5
    axis.plot(x[-1], y[-1], linestyle="", marker=ENDS[tried.trial.status][1], markersize=size, **look)


def _end_key(status: str | None) -> Line2D:
    color = style.INK if status in (COMPLETE, None) else style.FAINT
    dashes: Any = (0, (4, 2)) if status is None else "-"
    return Line2D([], [], color=color, marker=ENDS[status][1], linestyle=dashes, linewidth=1.4)


def _alt(found: Found, labels: Sequence[str]) -> str:
    said = []
    for label in labels:
        ends = Counter(tried.trial.status for tried in found.trials if tried.label == label)
        told = ", ".join(f"{ends[status]} {words}" for status, (words, _) in ENDS.items() if ends[status])
        said.append(f"{label}: {told}")
    return f"A panel of learning curves an algorithm. {'; '.join(said)}."


def _finals(found: Found) -> Picture | Left:
    finals = [final for final in found.finals if final.run.reports]
    if not finals:
        return Left(FINALS, "no run to the full budget has reported yet")
    labels = [label for label in found.labels if any(final.label == label for final in finals)]
    figure, axes = style.panels(len(labels), 2.3)
    looks = style.lines(found.labels)
    for axis, label in zip(axes, labels, strict=True):
        for final in finals:
            if final.label == label:
                _draw_final(axis, found, final, looks[label].color)
        style.title(axis, label)
        axis.set_xlabel("meta-train tasks")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axis.xaxis.set_major_formatter(lambda number, _: style.brief(number))
        if style.is_first(axis):
            axis.set_ylabel(style.axis_label(found.metric, "meta-validation"))
    kinds = {final.variant for final in finals}
    shown = [kind for kind in ("tuned", DEFAULT, "run") if kind in kinds]
    handles = [Line2D([], [], color=style.INK, **_manner(kind)) for kind in shown]
    style.legend(figure, handles, [{DEFAULT: "published setting"}.get(kind, kind) for kind in shown])
    caption = (
        "Each line is a run to the full budget, one a seed. The weights of its best report are the ones that "
        "are tested. Lines that still rise at the end would gain from a larger budget; lines of one kind "
        "that lie apart say how much the seed matters."
    )
    said = [f"{label} {_span(found, [f for f in finals if f.label == label])}" for label in labels]
    alt = f"A panel of learning curves an algorithm; best meta-validation {found.metric}: {'; '.join(said)}."
    return Picture("final_curves", FINALS, caption, alt, figure)


def _manner(variant: str) -> dict[str, Any]:
    return {"linestyle": (0, (4, 2)), "linewidth": 1.3} if variant == DEFAULT else {"linestyle": "-"}


def _draw_final(axis: Axes, found: Found, final: Final, color: str) -> None:
    reports = [report for report in final.run.reports if report["val_score"] is not None]
    x = [report["tasks_seen"] for report in reports]
    y = [style.value(found.metric, found.figure(report["val_score"])) for report in reports]
    axis.plot(x, y, color=color, marker=".", markersize=4, **_manner(final.variant))


def _span(found: Found, finals: Sequence[Final]) -> str:
    scores = [
        max(report["val_score"] for report in final.run.reports if report["val_score"] is not None)
        for final in finals
        if any(report["val_score"] is not None for report in final.run.reports)
    ]
    if not scores:
        return "never finite"
    low, high = (metrics.show(found.metric, found.figure(score)) for score in (min(scores), max(scores)))
    return low if low == high else f"{low} to {high}"
