"""A search within a time: look at the data, measure speeds here, choose a space, keep to the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metabench import algorithms, data
from metabench.core import SPLITS, MetabenchError, Split, Splits
from metabench.core.config import NetworkConfig, SearchSpace, TaskConfig, n_variants
from metabench.data.reading.splits import make_splits
from metabench.data.sets import folder
from metabench.nets import at_hand
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger, incumbent
from metabench.search.space import automatic
from metabench.search.space.automatic import Pace, Time, Timing
from metabench.search.stages import pace
from metabench.storage import files, models, records, remote
from metabench.training import cost, features

LEAST, MOST, SHARE = 0.3, 4.0, 0.01
"""Seconds for which a learner is trained to measure its speed: a share of the time, within these bounds."""

MEASURING = 0.08
"""Share of the time after which no further learner is measured, or chosen."""

EMBEDDING = 0.25
"""Share of the time that pictures may take to pass a frozen backbone."""

BESIDE = 1.3
"""How many times as long a task takes where other processes use the machine's memory, too."""

LOOKED_AT = (16, 20)
"""Classes, and examples of each, of the made-up pictures by which the size of the real ones is chosen."""


def choose(
    asked: Mapping[str, Any],
    seconds: float,
    begun: float,
    slots: int,
    names: Sequence[str] | None = None,
    say: features.Say = lambda line: None,
) -> tuple[SearchSpace, Timing, list[str]]:
    """Choose a space for a data set within a time.

    Args:
        asked: settings of the task that a user has chosen, its data set among them.
        seconds: for everything, from `begun` on, as `time.monotonic` tells.
        names: learners to choose among; all that serve where they are not given.

    Returns:
        the space, what the search keeps to, and lines that say what it is going to do.
    """
    learners = _learners(names)
    since = time.monotonic(), time.process_time()
    trained = min(MOST, max(LEAST, SHARE * seconds))
    task, width = _look(_of_pictures(asked), Time(seconds, 0.0, slots), trained)
    splits = data.load(task)
    task = automatic.fit_task(task, *_counts(splits), set(asked))
    data.check(task, splits)
    network = NetworkConfig(width=width)
    paces = _measure_each(
        automatic.draft(task, network, learners), splits, trained, slots, begun + MEASURING * seconds
    )
    busy = _busy(since)
    frozen = _features(task, splits, seconds, slots, say) if names is None else None
    until_here = Time(seconds, time.monotonic() - begun, slots, busy)
    space = automatic.choose(task, network, until_here, paces)
    lines = automatic.describe(space, _about(task, splits), until_here, paces, learners, frozen)
    if frozen is not None:
        space = automatic.with_backbone(space, frozen)
        paces |= {name: _measure(space, name, splits, trained, slots) for name in automatic.ON_FEATURES}
    timing = Timing(seconds, {name: paces[name][:2] for name in space.algorithms}, begun, until_here.busy)
    return space, timing, lines


def _busy(since: tuple[float, float]) -> float:
    """Return how many times as long as alone processes take to start, since a moment.

    They are as long in coming as this process was, by the time of the processor that both take.
    """
    return max(1.0, (time.monotonic() - since[0]) / max(time.process_time() - since[1], 1e-3))


def _learners(names: Sequence[str] | None) -> list[str]:
    """Return the learners to choose among, or refuse others."""
    learners = [*map(algorithms.canonical, automatic.LEARNERS if names is None else names)]
    if strange := [name for name in learners if name not in automatic.LEARNERS]:
        listed = ", ".join(automatic.LEARNERS)
        raise MetabenchError(f"`algorithms` {', '.join(strange)}: with `time` choose among {listed}")
    return learners


def _measure_each(
    draft: SearchSpace, splits: Splits, trained: float, slots: int, until: float
) -> dict[str, Pace]:
    """Measure learners one after another, until a moment; the first whatever the time is."""
    paces: dict[str, Pace] = {}
    for name in draft.algorithms:
        if not paces or time.monotonic() < until:
            paces[name] = _measure(draft, name, splits, trained, slots)
    return paces


def _features(
    task: TaskConfig, splits: Splits, seconds: float, slots: int, say: features.Say
) -> NetworkConfig | None:
    """Let all pictures pass a backbone, whose weights are here, where that takes a small part of the time."""
    network = at_hand.backbone()
    if network is None:
        return None
    n_pictures = sum(
        len(part.images) * part.images.shape[1] for part in (getattr(splits, one) for one in SPLITS)
    )
    embedder = features.Embedder(features.backbone_of(network))
    picture = torch.zeros(1, *splits.meta_train.images.shape[2:])
    # Each fold's pictures pass: which are in which split is another matter in each.
    taken = cost.median(lambda: embedder(picture)) * n_pictures * data.n_folds(task) / slots
    if taken > EMBEDDING * seconds:
        say(
            f"no row of a frozen {network.module or network.name}: features of {n_pictures:,} pictures would "
            f"take about {automatic.minutes(taken)} min, and may take {EMBEDDING:.0%} of the time"
        )
        return None
    torch.set_num_threads(slots)  # of which each takes pictures of its own
    for described, cut in data.cuts(task, splits):
        features.embedded(cut, described, network, say)
    torch.set_num_threads(1)
    return network


def _of_pictures(asked: Mapping[str, Any]) -> TaskConfig:
    """Return the task that is asked for, or refuse one of other data than pictures."""
    task = TaskConfig.model_validate(asked)
    if len(data.outline(data.get(task.dataset), task.options)[1]) != 3:
        raise MetabenchError(
            f"{task.dataset}: holds no pictures, and `time` chooses for pictures; write a search space, as "
            "search_spaces/sinusoid.yaml is"
        )
    return task


def _look(task: TaskConfig, time: Time, trained: float) -> tuple[TaskConfig, int]:
    """Choose how the pictures of a folder are taken, and the width of the network for them, or for others."""
    if task.dataset != folder.NAME:
        shape = data.load(task).meta_train.images.shape[2:]
        training = _measure_made_up(tuple(shape), time, trained).training
        return task, automatic.look(time, 0, training)[1]
    seen = folder.survey(data.default_root(), data.configure(task)[2])
    shares = {} if seen.n_classes is None else automatic.shares(_name(task), seen.n_classes)
    channels = int(task.options.get("channels", seen.channels))
    least = automatic.SIZES[0]
    training = _measure_made_up((channels, least, least), time, trained).training
    size, width = automatic.look(time, seen.side, training)
    options = {"size": size, "channels": channels, **shares, **task.options}
    augment = task.augment.model_copy(update={"flip": channels == 3})
    return task.model_copy(update={"options": options, "augment": augment}), width


def _counts(splits: Splits) -> tuple[list[int], int]:
    """Return the classes of each split, and the examples of the smallest class."""
    parts = [splits.meta_train, splits.meta_validation, splits.meta_test]
    fewest = [len(one.images[0]) if one.counts is None else int(one.counts.min()) for one in parts]
    return [len(one.images) for one in parts], min(fewest)


def _name(task: TaskConfig) -> str:
    return Path(str(task.options.get("path") or task.dataset)).name


def _about(task: TaskConfig, splits: Splits) -> str:
    n_classes, fewest = _counts(splits)
    channels, *side = splits.meta_train.images.shape[2:]
    what = f"{'x'.join(map(str, side))} pixels, {'grey' if channels == 1 else 'colour'}"
    if task.options.get("split_by") == "pictures":
        return (
            f"{_name(task)}: {n_classes[0]} classes, each with {fewest} pictures or more to learn from, to "
            f"choose by and to be judged on, which says nothing of new classes; taken as {what}"
        )
    divided = "/".join(map(str, n_classes))
    return (
        f"{_name(task)}: {sum(n_classes):,} classes ({divided} to learn from, to choose by "
        f"and to be judged on) of {fewest} pictures or more, taken as {what}"
    )


def _measure_made_up(shape: tuple[int, ...], time: Time, seconds: float) -> Pace:
    """Measure the first learner on made-up pictures of a shape, with the smallest network."""
    name = next(iter(automatic.LEARNERS))
    network = NetworkConfig(width=automatic.WIDTHS[0])
    space = automatic.draft(TaskConfig(dataset=folder.NAME, test_query=5), network, [name])
    n_classes, n_examples = LOOKED_AT
    split = Split(
        torch.zeros((n_classes, n_examples, *shape), dtype=torch.uint8),
        tuple(map(str, range(n_classes))),
        (folder.NAME,) * n_classes,
    )
    return _measure(space, name, make_splits("made up", split, split, split), seconds, time.slots)


def _measure(space: SearchSpace, algorithm: str, splits: Splits, seconds: float, slots: int) -> Pace:
    """Measure a learner's published setting in this process, as if others ran beside it."""
    torch.set_num_threads(1)
    its = spaces.of(space, algorithm)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = its.resolve(its.published[0])
    timed = pace.time_one(space, algorithm, values, splits, device, seconds)
    training, evaluation = (one * (BESIDE if slots > 1 else 1.0) for one in timed[:2])
    return Pace(training, evaluation, training)


@dataclass
class Deadline:
    """When the trials of a search within a time must have ended, by how fast they have been so far."""

    space: SearchSpace
    ledger: Ledger
    slots: int
    timing: Timing

    def has_room(self, algorithm: str, tasks: int) -> bool:
        """Tell whether a trial may go on for so many tasks; each learner's first report is waited for."""
        if not any(trial.reports for trial in self.ledger.of(algorithm)):
            return True
        budget, (training, evaluation) = self.space.budget, self.timing.paces[algorithm]
        leg = tasks * training + budget.validation_tasks * evaluation
        ends = time.monotonic() - self.timing.begun + self._slowness() * leg
        return ends + self.after() <= self.timing.seconds

    def after(self) -> float:
        """Return the seconds that what follows the trials will take."""
        jobs = sum(self._after(algorithm) for algorithm in self.space.algorithms)
        return automatic.ENDING * self.timing.busy + self._slowness() * jobs / self.slots

    def _after(self, algorithm: str) -> float:
        """Return those of an algorithm, in one process; tuned and published settings may be the same runs."""
        best, budget = incumbent(self.ledger.of(algorithm)), self.space.budget
        variants = float(n_variants(budget))
        if budget.default_runs and (best is None or best.is_default):
            variants -= 0.5
        training, evaluation = self.timing.paces[algorithm]
        return automatic.after(budget, Pace(training, evaluation, training), variants * budget.seeds)

    def _slowness(self) -> float:
        """Return how many times as long as measured beforehand the trials have taken."""
        expected, taken = 0.0, 0.0
        for algorithm, (training, evaluation) in self.timing.paces.items():
            reports = [len(trial.reports) for trial in self.ledger.of(algorithm) if trial.reports]
            validated = sum(reports) * self.space.budget.validation_tasks
            expected += self.ledger.tasks(algorithm) * training + validated * evaluation
            expected += len(reports) * automatic.JOB
            taken += self.ledger.seconds(algorithm)
        return taken / expected if expected else 1.0


def deadline(space: SearchSpace, ledger: Ledger, slots: int, timing: Timing) -> Deadline:
    """Return the deadline of a search; what its trials took before it was stopped counts."""
    before = sum(ledger.seconds(algorithm) for algorithm in space.algorithms) / slots
    return Deadline(space, ledger, slots, timing._replace(begun=timing.begun - before))


def recorded(
    place: Path, url: str | None, asked: Mapping[str, Any], seconds: float, begun: float
) -> tuple[SearchSpace, Timing] | None:
    """Return what a search within a time that is there already was chosen to be; refuse another one.

    Args:
        url: address of object storage that the search is kept at; None where it is on disk only.
        asked: settings of the task that a user has chosen.
    """
    text = remote.Mirror(place, url).read(files.SEARCH) if url else None
    path = place / files.SEARCH
    if text is None and not path.exists():
        return None
    before = records.read(path, models.SEARCH) if text is None else json.loads(text)
    space, timing = SearchSpace.model_validate(before["space"]), before.get("timing")
    advice = "choose another `name`"
    if timing is None or before.get("changes"):
        raise MetabenchError(f"{place}: holds a search that `time` did not choose, or not as it is; {advice}")
    there, now = space.task.model_dump(), TaskConfig.model_validate(asked).model_dump()
    other = [key for key in asked if key != "options" and there[key] != now[key]]
    other += [f"options.{key}" for key, value in now["options"].items() if there["options"].get(key) != value]
    other += ["time"] if timing["seconds"] != seconds else []
    if other:
        length = automatic.minutes(timing["seconds"])
        raise MetabenchError(
            f"{place}: holds a search of {length} min with another {', '.join(other)}; "
            f"{advice}, or type what was typed then, to go on with it"
        )
    return space, Timing(seconds, timing["paces"], begun, timing["busy"])
