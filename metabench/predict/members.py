"""Which runs predict: a run itself, or the seeds of one row of a search; opened without any data."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from metabench import stats
from metabench.core import GROUPED, Features, MetabenchError
from metabench.core.config import nearest
from metabench.leaderboard import folders
from metabench.leaderboard.folders import Run, Search
from metabench.leaderboard.rows import DEFAULT, TUNED, baseline_name
from metabench.storage import files, records
from metabench.training import calibration, evaluate, inputs, run
from metabench.training.calibration import Calibration
from metabench.training.features import Embedder, backbone_of
from metabench.training.inputs import Inputs
from metabench.training.vectorise import Model


class Members(NamedTuple):
    """The runs whose probabilities are averaged."""

    row: str  # algorithm:variant
    runs: tuple[run.Run, ...]
    folders: tuple[Path, ...]
    about: Inputs
    calibration: Calibration | None  # None where an older version trained one of them
    notes: tuple[str, ...]  # what a user should know of the predictions
    embedder: Embedder | None = None  # what makes features of pictures, where the runs learnt from those

    @property
    def pictures(self) -> Inputs:
        """Describe what a picture becomes at first: an input, or what the backbone takes."""
        return (
            self.about
            if self.about.features is None
            else self.about._replace(shape=self.about.features.picture_shape)
        )


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
    whole = [one for one in chosen if _has_say(one)]
    if chosen[len(whole) :]:
        notes.append(f"{len(chosen) - len(whole)} of {len(chosen)} seeds diverged, and have no say")
    for one in chosen:
        _refuse_unfinished(one)
    # Of one that has no weights, opening says so.
    paths = tuple(one.folder for one in whole or chosen[:1])
    about = inputs.read(paths[0])
    if about.kind != "classification":
        raise MetabenchError(f"{place}: was trained for {about.kind}; predictions are of classes")
    if run.read_config(paths[0]).task.labels == "fixed":
        raise MetabenchError(
            f"{place}: its outputs stand for the classes that it was trained on (labels=fixed), not for "
            "those of a support set; predict with a run of labels=shuffled"
        )
    trained = [run.open_weights(path, about, device) for path in paths]
    if trained[0].model.algorithm.kinds == (GROUPED,):
        raise MetabenchError(
            f"{place}: {trained[0].config.algorithm} adapts to the groups of its support set, of which "
            "predictions are told nothing; take a run of another learner"
        )
    opened = tuple(one._replace(model=evaluate.by_itself(one.model)) for one in trained)
    sure = calibration.of(paths)
    notes += _on_predictions(paths, trained, opened, sure is not None, about)
    embedder = None if about.features is None else _embedder(paths[0], opened[0], about.features, device)
    return Members(name, opened, paths, about, sure, tuple(notes), embedder)


def _on_predictions(
    paths: Sequence[Path],
    trained: Sequence[run.Run],
    opened: Sequence[run.Run],
    is_calibrated: bool,
    about: Inputs,
) -> list[str]:
    """Say what probabilities and answers rest on."""
    notes = []
    if len(opened) > 1:
        notes.append(f"the probabilities are the mean over {len(opened)} seeds, an ensemble")
    if not is_calibrated:
        notes.append(f"its probabilities are not calibrated: {_uncalibrated(paths)}")
    if any(map(lambda one, other: one.model is not other.model, opened, trained)):
        notes.append(
            "trained with batch_norm=transductive: here each picture is normalised by the support set, so "
            "that it depends on no other; the accuracies of the board and of `metabench test` are of other "
            "normalisations"
        )
    if about.pictures is not None and about.pictures.is_inverted:
        notes.append("pictures are taken as dark on light")
    return notes


def _embedder(folder: Path, opened: run.Run, features: Features, device: str) -> Embedder:
    """Open the backbone that a run learnt behind, or refuse another one."""
    backbone = backbone_of(opened.config.network)
    if backbone.digest != features.backbone:
        raise MetabenchError(
            f"{folder}: learnt behind another backbone than network.name={opened.config.network.name!r} is "
            f"here (digest {features.backbone[:12]} there, {backbone.digest[:12]} here); put its weights back"
        )
    return Embedder(backbone).to(device)


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


def _has_say(one: Run) -> bool:
    """Tell whether a run has weights, or had them: of one that has lost them, opening says so."""
    return (one.folder / files.WEIGHTS).exists() or bool(one.reports and one.reports[-1]["finite"])


def _refuse_unfinished(one: Run) -> None:
    if not one.is_trained:
        seen = one.reports[-1]["tasks_seen"] if one.reports else 0
        raise MetabenchError(
            f"{one.folder}: has seen {seen} of {one.config['run']['tasks']} tasks; the command that "
            "trains it goes on where it stopped"
        )


def _uncalibrated(folders: Sequence[Path]) -> str:
    for folder in folders:
        if calibration.read(folder) is None:
            return inputs.lacks(folder, files.CALIBRATION)
    return f"the calibrations of {folders[0]} and its other seeds are of different tasks; train them anew"


def least_share(members: Members, coverage: Any) -> float:
    """Return the probability from which on a class is in the sets of a coverage."""
    is_share = isinstance(coverage, Real) and 0 < float(coverage) < 1
    if not is_share:
        raise MetabenchError(f"`coverage` {coverage}: must be a number between 0 and 1, such as 0.9")
    if members.calibration is None:
        raise MetabenchError(_uncalibrated(members.folders))
    n_tasks = len(members.calibration.scores)
    if coverage > (most := stats.most_coverage(n_tasks)):
        raise MetabenchError(
            f"`coverage` {coverage:g}: {n_tasks} tasks tell what covers {most:.3f} at most; take less"
        )
    return calibration.least(members.calibration, coverage)


def temperatures(members: Members) -> Sequence[float]:
    """Return what the outputs of each run are divided by."""
    return (1.0,) * len(members.runs) if members.calibration is None else members.calibration.temperatures


def beyond(members: Members, counts: Collection[int]) -> list[str]:
    """Say where a support set, by the pictures of each class, is another than the calibration speaks of."""
    task = members.runs[0].config.task
    (low, high), (fewest, most) = task.ways, task.shots
    most = task.most_shots or most
    least = 1 if task.most_shots else fewest
    if members.calibration is None or (
        low <= len(counts) <= high and least <= min(counts) and max(counts) <= most
    ):
        return []
    ways, shots = (f"{a}" if a == b else f"{a} to {b}" for a, b in ((low, high), (least, most)))
    return [
        f"calibrated on {ways}-way {shots}-shot tasks (classes, pictures of each), which this is not: "
        "no coverage is guaranteed, and probabilities may be too high or too low"
    ]


def for_classes(members: Members, n_classes: int) -> list[Model]:
    """Return the learner of each run for a number of classes, or refuse it."""
    models = []
    for folder, opened in zip(members.folders, members.runs, strict=True):
        net = opened.model.net
        model = run.for_ways(folder, opened, members.about, n_classes)
        # No more classes than there are, and no other way to normalise.
        models.append(model._replace(net=model.net._replace(way=n_classes, batch_norm=net.batch_norm)))
    return models
