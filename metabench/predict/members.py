"""Which runs predict: a run itself, or the seeds of one row of a search; opened without any data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from metabench.core import MetabenchError
from metabench.core.config import nearest
from metabench.leaderboard import folders
from metabench.leaderboard.folders import Run, Search
from metabench.leaderboard.rows import DEFAULT, TUNED, baseline_name
from metabench.storage import files, records
from metabench.training import inputs, run
from metabench.training.inputs import Inputs
from metabench.training.vectorise import Model


class Members(NamedTuple):
    """The runs whose probabilities are averaged."""

    row: str  # algorithm:variant
    runs: tuple[run.Run, ...]
    folders: tuple[Path, ...]
    about: Inputs
    notes: tuple[str, ...]  # what a user should know of the predictions


def open_members(place: str | Path, row: str | None, device: str) -> Members:
    """Open a run, or the runs of a search's row.

    Args:
        row: such as maml:tuned; the best tuned row of a search by its confirmation where it is not given.
    """
    notes: list[str] = []
    source = folders.read(records.open_place(str(place)))
    if isinstance(source, Run):
        if row is not None:
            raise MetabenchError(f"`row` {row}: {place} is one run; leave it out, or give a search")
        name, chosen = f"{source.config['run']['algorithm']}:run", [source]
    else:
        name, chosen, notes = _row(source, row)
    whole = [one for one in chosen if (one.folder / files.WEIGHTS).exists()]
    if chosen[len(whole) :]:
        notes.append(f"{len(chosen) - len(whole)} of {len(chosen)} seeds diverged, and have no say")
    for one in chosen:
        _refuse_unfinished(one)
    # Of one that has no weights, opening says so.
    paths = tuple(one.folder for one in whole or chosen[:1])
    about = inputs.read(paths[0])
    if about.kind != "classification":
        raise MetabenchError(f"{place}: was trained for {about.kind}; predictions are of classes")
    opened = tuple(_by_support(run.open_weights(path, about, device)) for path in paths)
    if len(opened) > 1:
        notes.append(f"the probabilities are the mean over {len(opened)} seeds, an ensemble")
    if any(is_changed for _, is_changed in opened):
        notes.append(
            "trained with batch_norm=transductive: here each picture is normalised by the support set, so "
            "that it depends on no other; the accuracies of the board and of `metabench test` are of other "
            "normalisations"
        )
    if about.pictures is not None and about.pictures.is_inverted:
        notes.append("pictures are taken as dark on light")
    return Members(name, tuple(one for one, _ in opened), paths, about, tuple(notes))


def _row(search: Search, asked: str | None) -> tuple[str, list[Run], list[str]]:
    """Return a row's name, its runs, and what is to be said of the choice."""
    names = {f"{algorithm}:{variant}": (algorithm, variant) for algorithm, variant in search.runs}
    if not names:
        raise MetabenchError(
            f"{search.folder}: has no final run yet; the same `metabench search` goes on, or give a run"
        )
    if asked is None:
        name = _best(search)
        return name, search.runs[names[name]], [f"{name} is the best tuned row by confirmation"]
    name = asked if ":" in asked else f"{asked}:{TUNED}"
    if name not in names:
        listed = ", ".join(names)
        raise MetabenchError(f"`row` {asked}: no such row.{nearest(name, [*names])} There are: {listed}")
    return name, search.runs[names[name]], []


def _best(search: Search) -> str:
    """Choose among the tuned rows by what was seen before meta-test was opened."""
    key, sign = f"confirm_{search.metric}", search.metric.sign
    tuned = [algorithm for algorithm, variant in search.runs if variant == TUNED]
    learning = [one for one in tuned if baseline_name(one) is None] or tuned
    figures = {one: (search.chosen.get(one) or {}).get(key) for one in learning}
    order = {one: sign * figure for one, figure in figures.items() if figure is not None}
    if not order:
        raise MetabenchError(
            f"{search.folder}: has no confirmed setting yet; the same `metabench search` goes on, or name a "
            f"`row`, such as {next(iter(search.runs))[0]}:{DEFAULT}"
        )
    return f"{max(order, key=lambda one: order[one] if math.isfinite(order[one]) else -math.inf)}:{TUNED}"


def _refuse_unfinished(one: Run) -> None:
    if not one.is_trained:
        seen = one.reports[-1]["tasks_seen"] if one.reports else 0
        raise MetabenchError(
            f"{one.folder}: has seen {seen} of {one.config['run']['tasks']} tasks; the command that "
            "trains it goes on where it stopped"
        )


def _by_support(opened: run.Run) -> tuple[run.Run, bool]:
    """Let no prediction depend on the other pictures; tell whether that takes another way to normalise."""
    algorithm, net, _, _, h = opened.model
    if algorithm.batch_norm(net, h) != "transductive":
        return opened, False
    model = opened.model._replace(net=net._replace(batch_norm="support_stats"))
    return opened._replace(model=model), True


def for_classes(members: Members, n_classes: int) -> list[Model]:
    """Return the learner of each run for a number of classes, or refuse it."""
    models = []
    for folder, opened in zip(members.folders, members.runs, strict=True):
        net = opened.model.net
        model = run.for_ways(folder, opened, members.about, n_classes)
        # No more classes than there are, and no other way to normalise.
        models.append(model._replace(net=model.net._replace(way=n_classes, batch_norm=net.batch_norm)))
    return models
