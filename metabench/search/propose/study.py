"""One Optuna study an algorithm, which proposes settings, none of them twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from metabench.core import seeds
from metabench.core.config import NODES, SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, INFEASIBLE, PRUNED, Trial
from metabench.search.propose import growing, points, samplers, warm

MOST_LOOKED_AT = 10_000
"""Settings near a proposal among which one that was not tried is looked for."""

MOST_IN_VAIN = 5
"""Proposals in a row that cannot be trained, from which a sampler learns too little, before one at random."""


class Study:
    """The Optuna study of one algorithm, told the truth about every trial.

    A trial that reached the full budget is told as complete; one that was stopped as pruned, with what it
    reported at each rung; one that diverged or failed as failed. The sampler is seeded anew for each
    proposal, by search seed, algorithm and number, so a proposal depends on the history alone.
    """

    def __init__(
        self, space: SearchSpace, algorithm: str, seed: int, earlier: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Start a study that has learnt from trials of an earlier search."""
        self.space = space
        self.algorithm = algorithm
        self.seed = seed
        self.its = spaces.of(space, algorithm)
        self.first = [*self.its.published]
        self.asked: dict[int, optuna.Trial | None] = {}  # None: of a setting that the space has no longer
        self.settings: dict[int, dict[str, Any]] = {}  # of those that the space has
        self.sizes: dict[int, int] = {}  # nodes of their cells
        self.tried: set[Hashable] = set()
        self.is_exhausted = False  # there is no other setting
        self._infeasible: set[int] = set()
        self._waiting: set[int] = set()  # told as pruned, and perhaps to be told again
        # Settings around each that led, and those of the whole space, by how many nodes all have.
        self._near: dict[Hashable, dict[Hashable, dict[str, Any]]] = {}
        self._points: dict[int | None, dict[Hashable, dict[str, Any]]] = {}
        self.storage, self.study = samplers.start_study(space.budget.sampler)
        trials = warm.frozen(space, algorithm, earlier)
        self.study.add_trials(trials)
        if trials:  # the one that got furthest, of equals that with the best score
            best = max(trials, key=lambda trial: (max(trial.intermediate_values), trial.value)).params
            self.first += [] if best in self.first else [best]

    def propose(self, spent: float = 0.0, trials: Sequence[Trial] = ()) -> dict[str, Any] | None:
        """Sample the next setting; the published ones, and the best of an earlier search, come first.

        None was tried before; where there is no other, nothing is proposed.

        Args:
            spent: share of the budget, by which cells grow.
            trials: out of which they do.
        """
        confined = self._confined(spent, trials)
        fixed = next(confined)
        for sampled in self.first:
            if self._is_next(sampled, self._nodes(spent)):
                return self.repeat(sampled)
        number = len(self.asked)
        self.study.sampler = self._sampler(number)
        if fixed:
            self.study.enqueue_trial(fixed)
        asked = self.study.ask()
        sampled = self.sample(asked)
        if self._is_next(sampled, fixed.get(NODES)):
            return self._note(asked, sampled)
        rng = random.Random(seeds.seed("untried", self.seed, self.algorithm, number))
        others = (
            one
            for changed in itertools.chain([fixed], confined)
            for one in self._others(sampled, changed, rng)
            if self._is_next(one, changed.get(NODES))
        )
        other = next(others, None)
        self.is_exhausted = other is None
        if other is None:
            self.study.tell(asked, state=TrialState.FAIL)
            return None
        # Not a trial more, which would not be there in a study that is rebuilt: samplers look at its number.
        allowed = {name: samplers.distribution(self.its.sampled[name]) for name in other}
        self.storage.change(asked.number, other, allowed)
        return self._note(asked, other)

    def _is_next(self, sampled: Mapping[str, Any], n_nodes: int | None) -> bool:
        """Tell whether a setting was not tried, and has as many nodes as it should."""
        is_of_size = n_nodes is None or self._size(sampled) == n_nodes
        return is_of_size and self.its.place(sampled) not in self.tried

    def _others(
        self, sampled: Mapping[str, Any], fixed: Mapping[str, Any], rng: random.Random
    ) -> Iterator[dict[str, Any]]:
        if fixed:
            return growing.drawn(self.its, sampled, fixed, rng)
        return itertools.islice(self.its.near(sampled, rng), MOST_LOOKED_AT)

    def _size(self, sampled: Mapping[str, Any]) -> int:
        cell = self.its.cell(sampled)
        return 0 if cell is None else len(cell.nodes)

    def _nodes(self, spent: float) -> int | None:
        """Return how many nodes cells have now, where they grow."""
        grow = self.its.network.grow
        return growing.stages(grow, spent, [*self.sizes.values()])[0] if grow else None

    def _confined(self, spent: float, trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
        """Yield what the next setting is to have: all of one that grows, or the nodes of the stage."""
        grow = self.its.network.grow
        if not grow:
            yield {}
            return
        for n_nodes in growing.stages(grow, spent, [*self.sizes.values()]):
            yield from (
                {**self.settings[trial.number], NODES: n_nodes} for trial in self._to_grow(n_nodes, trials)
            )
            yield {NODES: n_nodes}

    def _to_grow(self, n_nodes: int, trials: Sequence[Trial]) -> Iterator[Trial]:
        grow = self.its.network.grow or []
        before = {later: earlier for earlier, later in itertools.pairwise(grow)}.get(n_nodes)
        small, large = (
            [trial for trial in trials if self.sizes.get(trial.number) == size] for size in (before, n_nodes)
        )
        return growing.to_grow(small, large, self.settings, self.space.budget.confirm_top)

    def is_growing(self, spent: float, trials: Sequence[Trial]) -> bool:
        """Tell whether one of the best of the last stage is still to grow."""
        n_nodes = self._nodes(spent)
        return n_nodes is not None and any(True for _ in self._to_grow(n_nodes, trials))

    def repeat(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """Ask for a given setting, and have a sampler leave the notes that it left when it proposed it."""
        is_proposal = self.space.budget.sampler in samplers.KEEPS_NOTES and sampled not in self.first
        return self._give(sampled, self._sampler(len(self.asked)) if is_proposal else None)

    def options(self, leader: Mapping[str, Any], spent: float = 0.0) -> list[dict[str, Any]]:
        """List settings that a model may choose from, none that was tried.

        Args:
            spent: share of the budget, by which cells grow.
        """
        n_nodes = self._nodes(spent)
        fixed = {} if n_nodes is None else {NODES: n_nodes}
        centre = {**leader, **fixed}
        place = self.its.place(centre)
        if place not in self._near:
            self._near[place] = {self.its.place(one): one for one in points.around(self.its, centre)}
        if n_nodes not in self._points:
            spread = points.spread(self.its, seeds.seed("points", self.seed, self.algorithm), fixed)
            self._points[n_nodes] = {self.its.place(one): one for one in (*self.first, *spread)}
        offered = {**self._points[n_nodes], **self._near[place]}
        return [one for one in offered.values() if self._is_next(one, n_nodes)]

    def take(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """Propose one of the options."""
        return self.repeat(sampled)

    @property
    def n_tried(self) -> int:
        """Count the settings that were tried."""
        return len(self.tried)

    def skip(self) -> None:
        """Leave out a trial of a setting that the space has no longer."""
        self.asked[len(self.asked)] = None

    def tell(self, trial: Trial, tasks_seen: int, waits: bool = False) -> None:
        """Tell how a trial ended, or that it waits, as pruned so that it can be learnt from.

        How one that has waited goes on is told in place of that.
        """
        asked = self.asked[trial.number]
        if asked is None:
            return
        if trial.status == INFEASIBLE:
            self._infeasible.add(trial.number)
        if asked.number in self._waiting:
            self.storage.reopen(asked.number)
        scores = {report["tasks_seen"]: report["val_score"] for report in trial.reports}
        heard = self.storage.get_trial(asked.number).intermediate_values
        for seen, score in scores.items():
            if score is not None and seen <= tasks_seen and seen not in heard:
                asked.report(score, seen)
        if waits:
            self._waiting.add(asked.number)
            self.study.tell(asked, state=TrialState.PRUNED)
        elif trial.status == COMPLETE and trial.tasks_seen >= self.space.budget.tasks:
            self.study.tell(asked, trial.score)
        else:  # a trial that completed the smaller budget of a search that was extended counts as pruned
            # What cannot be trained is worse than all that was: a sampler learns to leave it.
            is_judged = trial.status in (PRUNED, COMPLETE, INFEASIBLE)
            self.study.tell(asked, state=TrialState.PRUNED if is_judged else TrialState.FAIL)

    def _give(self, sampled: dict[str, Any], sampler: BaseSampler | None = None) -> dict[str, Any]:
        """Ask for a setting, without a sampler where none is to be heard: every value is given."""
        self.study.sampler = sampler or RandomSampler(seed=0)
        self.study.enqueue_trial(sampled)
        asked = self.study.ask()
        return self._note(asked, self.sample(asked))

    def _note(self, asked: optuna.Trial, sampled: dict[str, Any]) -> dict[str, Any]:
        number = len(self.asked)
        self.asked[number], self.settings[number] = asked, sampled
        if self.its.network.grow:
            self.sizes[number] = self._size(sampled)
        self.tried.add(self.its.place(sampled))
        return sampled

    def sample(self, asked: optuna.Trial) -> dict[str, Any]:
        """Read the setting that a trial of Optuna's proposes."""
        # A sampler proposes when this is first read, and leaves its notes, even where all values are given.
        _ = asked.relative_params
        return self.its.sample(lambda name, parameter: samplers.suggest(asked, name, parameter))

    def _sampler(self, number: int) -> BaseSampler:
        series = seeds.seed("series", self.seed, self.algorithm) % 2**32
        seed = seeds.seed("propose", self.seed, self.algorithm, number) % 2**32
        budget = self.space.budget
        before = range(number - 1, -1, -1)
        in_vain = sum(1 for _ in itertools.takewhile(self._infeasible.__contains__, before))
        if in_vain >= MOST_IN_VAIN:
            return RandomSampler(seed=seed)
        startup = min(samplers.STARTUP, max(1, budget.trials // 3))
        return samplers.make(budget.sampler, self.its.sampled, startup, series, seed)
