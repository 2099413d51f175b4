"""Which hyperparameters mattered, an algorithm a panel; what Optuna measures is only drawn here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from metabench.report.html import style
from metabench.report.html.picture import Drawn, Left, Picture
from metabench.report.html.reading import Found

if TYPE_CHECKING:
    from metabench.search.propose.importance import Importance

TITLE = "Importance of hyperparameters"
MOST = 8
"""Hyperparameters of a panel."""


def draw(found: Found) -> Drawn:
    """Draw a bar for each hyperparameter's share."""
    if not found.searches:
        return [Left(TITLE, "there is no search among the folders")]
    try:
        measuring = importlib.import_module("metabench.search.propose.importance")
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        return [Left(TITLE, "it is measured by Optuna, which is not installed")]
    measured: dict[str, Importance] = {}
    silent = []
    for label in found.labels:
        own = [tried for tried in found.trials if tried.label == label]
        if not own:
            continue
        space = found.spaces[own[0].search]
        told = measuring.measure(space, own[0].trial.algorithm, [tried.trial for tried in own])
        if told is None:
            silent.append(f"{label} has {sum(tried.is_full for tried in own)}")
        else:
            measured[label] = told
    why = f"a share needs {measuring.LEAST} trials at the full budget and a setting that varies"
    if not measured:
        return [Left(TITLE, f"{why}; by now, {_told(silent) or 'there is no trial'}")]
    without = f" Left out, as {why}: {_told(silent)}." if silent else ""
    return [_picture(found, measured, without)]


def _told(silent: list[str]) -> str:
    more = f", and {len(silent) - 5} more have fewer too" if len(silent) > 6 else ""
    return ", ".join(silent[:5] if more else silent) + more


def _picture(found: Found, measured: dict[str, Importance], without: str) -> Picture:
    looks = style.lines(found.labels)
    rows = max(min(MOST, len(told.shares)) for told in measured.values())
    figure, axes = style.panels(len(measured), 0.27 * rows + 0.75, columns=2, share_y=False)
    for axis, (label, told) in zip(axes, measured.items(), strict=True):
        _draw_panel(axis, told, looks[label].color, rows)
        style.title(axis, f"{label} ({told.n_trials} trials)")
    for axis in axes[-2:]:
        axis.set_xlabel("share of the importance, %")
    caption = (
        "PED-ANOVA: how much each hyperparameter helps to tell the best trials (the best "
        f"{min(told.n_best for told in measured.values())} or more of an algorithm) from all that saw the "
        "full budget; shares add up to 100 %. Who was stopped is left out, so a setting that decided at the "
        "first rung may look small here. It says what mattered within the ranges that were searched, and no "
        "more." + without
    )
    said = [f"{label}: {_words(told)}" for label, told in measured.items()]
    return Picture("importance", TITLE, caption, f"Bars of shares. {'; '.join(said)}.", figure)


def _draw_panel(axis: Axes, told: Importance, color: str, rows: int) -> None:
    shares = list(told.shares.items())[:MOST]
    places = range(len(shares))
    axis.barh(places, [100 * share for _, share in shares], height=0.62, color=color)
    axis.set_yticks(places, [style.short(name, 24) for name, _ in shares])
    axis.set_ylim(rows - 0.4, -0.6)
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 25))
    for place, (_, share) in enumerate(shares):
        axis.text(100 * share + 1.5, place, f"{100 * share:.0f}", va="center", fontsize=9)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)


def _words(told: Importance) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(told.shares.items())[:4])
