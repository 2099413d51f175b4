"""What to try next: the algorithm that has spent least goes first, and its study proposes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metabench.core import metrics
from metabench.core.config import SearchSpace, limit
from metabench.search import space as spaces
from metabench.search.journal import freeze
from metabench.search.journal.freeze import Belief
from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    ENDED,
    PROPOSED,
    WAITS,
    Ledger,
    Trial,
    incumbent,
)
from metabench.search.journal.rule import HasRoom, always, next_waiting, pauses, resume, stop_waiting
from metabench.search.propose import points
from metabench.search.propose.feasible import MOST_INFEASIBLE, SizeOf, uncounted
from metabench.search.propose.study import Study

TRIAL_SEEDS = 1_000_000
"""Where the seeds of trials start, far from those of the final runs, so that no final run repeats a trial."""

FINISHED = "FINISHED"
"""What is handed out when all is done, in Tune's word."""


class FairSearcher:
    """Hand out trials: what a stopped search left unfinished, then new ones, to each algorithm alike."""

    def __init__(
        self,
        space: SearchSpace,
        ledger: Ledger,
        seed: int,
        earlier: Mapping[str, Any] | None = None,
        study: Callable[..., Study] = Study,
        has_room: HasRoom = always,
        size_of: SizeOf = uncounted,
    ) -> None:
        """Rebuild the studies from the ledger; `earlier` has the trials of an earlier search by algorithm."""
        self.has_room = has_room
        self.size_of = size_of
        self.space = space
        self.ledger = ledger
        self.seed = seed
        self.rungs = spaces.rungs(space.budget)
        self.studies = {
            algorithm: study(space, algorithm, seed, (earlier or {}).get(algorithm, ()))
            for algorithm in space.algorithms
        }
        self.trials = {algorithm: study.its.n_trials for algorithm, study in self.studies.items()}
        self.handed: dict[str, str] = {}  # Tune's id of what runs -> our name
        self._heard = 0  # of the ledger's history
        # By algorithm what a model would have trained next, and after how many events.
        self._chosen: dict[str, tuple[int, freeze.Choice | None]] = {}
        self.start_round()

    def finish(self) -> None:
        """Stop what waits: nothing more is going to be handed out."""
        for algorithm in self.studies:
            stop_waiting(self.ledger, self.space.budget, algorithm, 0)
        self.catch_up()

    def start_round(self, n_trials: float = math.inf) -> None:
        """Begin anew with what is unfinished, and hand out no more than so many trials."""
        self.catch_up()
        self.handed.clear()
        self.left = n_trials
        self.unfinished = [trial.name for trial in sorted(self.ledger.running(), key=lambda t: -t.tasks_seen)]

    def catch_up(self) -> None:
        """Tell the studies what the ledger has noted since, in its order.

        A study is told in this way only, so one that is rebuilt has lived through the same.
        """
        history = self.ledger.history
        for what, name, seen in history[self._heard :]:
            trial = self.ledger.trials[name]
            study = self.studies[trial.algorithm]
            if what == PROPOSED and trial.number == len(study.asked):  # or the study itself has proposed it
                sampled = study.its.recognise(trial.hyperparameters)
                study.skip() if sampled is None else study.repeat(sampled)
            elif what in (ENDED, WAITS):
                study.tell(trial, seen, waits=what == WAITS)
        self._heard = len(history)

    def remaining(self) -> int:
        """Count the trials still to be handed out; at most, where trials are not what is budgeted.

        Where a model chooses, it is not known how many: then those that could be next count.
        """
        is_known = not freeze.is_on(self.space.budget)
        new = sum(
            self.left_of(algorithm) for algorithm in self.studies if is_known and self._is_open(algorithm)
        )
        return len(self.unfinished) + new + sum(map(self._has_next, self.studies))

    def _has_next(self, algorithm: str) -> bool:
        """Tell whether a trial that waits would go on if no other report came."""
        if not self._has_budget(algorithm):
            return False
        if freeze.is_on(self.space.budget):
            return self._choose(algorithm) is not None
        full = 0.0 if self._is_open(algorithm) else math.inf
        return next_waiting(self.ledger, self.space.budget, algorithm, full, self.has_room) is not None

    def left_of(self, algorithm: str) -> int:
        """Count an algorithm's settings that are still to be tried."""
        study, n_trials = self.studies[algorithm], self.trials[algorithm]
        n_infeasible = self.ledger.n_infeasible[algorithm]
        if study.is_exhausted or n_infeasible >= MOST_INFEASIBLE * n_trials:
            return 0
        n_left = min(n_trials + n_infeasible, study.its.n_settings) - study.n_tried
        return max(0, int(n_left))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial, None for not yet, or FINISHED when all is done.

        As long as a trial runs, its worker may die, and it is to be handed out once more.
        """
        self.catch_up()
        if not self.left:
            return FINISHED
        if self.unfinished:
            trial = self.ledger.trials[self.unfinished.pop(0)]
        elif (next_trial := self._next()) is not None:
            trial = next_trial
        elif self.handed:
            return None  # and what runs may leave something of the budget that it is expected to spend
        else:
            return FINISHED
        self.left -= 1
        self.handed[trial_id] = trial.name
        return {
            "algorithm": trial.algorithm,
            "trial": trial.name,
            "hyperparameters": trial.hyperparameters,
            "seed": trial.seed,
        }

    def hand_back(self, trial_id: str) -> None:
        """Take back a trial that runs no longer, and hand it out again where it has not ended."""
        self.catch_up()
        name = self.handed.pop(trial_id, None)
        if name is None:
            return
        trial = self.ledger.trials[name]
        if trial.status is None and not trial.is_waiting:
            self.unfinished.append(name)

    def goes_on(self, name: str) -> bool:
        """Take up a trial that has begun to wait, where that is what its worker would be given next."""
        self.catch_up()
        if not freeze.is_on(self.space.budget) or self.unfinished or not self.ledger.trials[name].is_waiting:
            return False
        steps = ((algorithm, self._choose(algorithm)) for algorithm in self._in_turn())
        algorithm, choice = next(((a, one) for a, one in steps if one is not None), ("", None))
        if choice is None or choice.leg.trial is not self.ledger.trials[name]:
            return False
        self._train(algorithm, choice)
        return True

    def _in_turn(self) -> list[str]:
        """List the algorithms that may spend more, that which has spent least first.

        One that takes none of the budget's unit, as it is not trained, comes when its trials are due.
        """

        def share(algorithm: str) -> tuple[float, int]:
            n_begun, expected = len(self.ledger.of(algorithm)), self._expected(algorithm)
            most = limit(self.space.budget)
            if most is not None and not expected:
                expected = most * n_begun / max(1, self.trials[algorithm])
            return expected, n_begun

        order = sorted(self.studies, key=share)
        return [algorithm for algorithm in order if self._has_budget(algorithm)]

    def _next(self) -> Trial | None:
        """Take up a trial that waits, or begin one, of the algorithm that has spent least."""
        for algorithm in self._in_turn():
            if freeze.is_on(self.space.budget):
                if (chosen := self._next_chosen(algorithm)) is not None:
                    return chosen
                continue
            if (waiting := self._resume(algorithm)) is not None:
                return waiting
            while self._is_open(algorithm):
                if (begun := self._propose(algorithm)) is not None:
                    return begun
        return None

    def _next_chosen(self, algorithm: str) -> Trial | None:
        """Take up what a model would have trained next, and where that is never trained what follows it."""
        while (choice := self._choose(algorithm)) is not None:
            n_events = self.ledger.n_events.total()
            if (trial := self._train(algorithm, choice)) is not None:
                return trial
            if self.ledger.n_events.total() == n_events:  # there is no other setting
                del self._chosen[algorithm]
                return None
        return None

    def _choose(self, algorithm: str) -> freeze.Choice | None:
        """Return the leg that a model of the curves would have trained next; None where there is none.

        It is asked once between two events: where a worker stops for what another trial promises, the same
        choice is handed out. Events of others count, too: they take of the time that all share.
        """
        n_events = self.ledger.n_events.total()
        if algorithm not in self._chosen or self._chosen[algorithm][0] != n_events:
            self._chosen[algorithm] = n_events, self._ask(algorithm)
        return self._chosen[algorithm][1]

    def _ask(self, algorithm: str) -> freeze.Choice | None:
        study, budget = self.studies[algorithm], self.space.budget
        belief = freeze.believe(self.ledger, study.its, budget)
        if belief is None:
            return freeze.BLIND if self._is_open(algorithm) else None
        leads, spent = freeze.leader(belief).sampled, self._spent(algorithm)
        options = study.options(leads, spent) if self.left_of(algorithm) else []
        legs = freeze.legs(belief, study.its, budget, options)
        if self._has_enough(algorithm, belief):
            legs = [leg for leg in legs if leg.trial is freeze.leader(belief)]
        legs = self._affordable(algorithm, belief, legs)
        n_begun = len(self.ledger.of(algorithm)) - self.ledger.n_infeasible[algorithm]
        is_early = n_begun < freeze.BLINDLY or study.is_growing(spent, self.ledger.of(algorithm))
        if is_early and any(leg.trial is None for leg in legs):
            return freeze.BLIND
        return freeze.choose(belief, study.its, budget, legs)

    def _has_enough(self, algorithm: str, belief: Belief) -> bool:
        """Tell whether too little is expected of another hour."""
        budget, its = self.space.budget, self.studies[algorithm].its
        if budget.stop_when is None:
            return False
        gain = freeze.hourly_gain(belief, self.ledger, its, budget, points.spread(its, 0))
        return gain is not None and metrics.points(self.ledger.objective.metric, gain) < budget.stop_when

    def _affordable(self, algorithm: str, belief: Belief, legs: Sequence[freeze.Leg]) -> list[freeze.Leg]:
        """List the legs that leave what the leader needs to the full budget, and those on its own way.

        Once a trial is complete, nothing is kept for a leader for which it is too late.
        """
        budget, best = self.space.budget, freeze.leader(belief)
        most = limit(budget) or freeze.allowance(budget, self.trials[algorithm])
        way = 0 if best.status is not None else budget.tasks - freeze.reaches(budget, best)
        is_kept = self._expected(algorithm, way) <= most or all(t.status != COMPLETE for t in belief.trials)
        kept = way if is_kept else 0
        lengths = {leg.ends - leg.begins for leg in legs}
        short = {n for n in lengths if self._expected(algorithm, n + kept) <= most}
        short = {n for n in short if self.has_room(algorithm, n + kept)}
        of_best = {n for n in lengths if is_kept and self.has_room(algorithm, n)}
        return [
            leg for leg in legs if leg.ends - leg.begins in (short | of_best if leg.trial is best else short)
        ]

    def _train(self, algorithm: str, choice: freeze.Choice) -> Trial | None:
        """Write down what was chosen, before it is begun; return None where it cannot be."""
        trial = choice.leg.trial
        if trial is None:
            study = self.studies[algorithm]
            if choice is freeze.BLIND:
                return self._propose(algorithm)
            return self._new_trial(algorithm, study.take(dict(choice.leg.sampled)))
        rung = sum(rung < trial.tasks_seen for rung in self.rungs)
        basis = {"rung": rung, "expected": choice.expected, "promise": choice.promise}
        self.ledger.settle(trial.name, CONTINUE, {**trial.details[trial.tasks_seen], **basis})
        return trial

    def _resume(self, algorithm: str) -> Trial | None:
        """Let a trial go on that waits, and stop those that never will."""
        budget = self.space.budget
        stop_waiting(self.ledger, budget, algorithm, self.trials[algorithm])
        return resume(self.ledger, budget, algorithm, self._full(algorithm), self.has_room)

    def _full(self, algorithm: str) -> float:
        """Return the highest rung at which none of an algorithm's trials is to arrive any more; 0: none."""
        if self._is_open(algorithm):
            return 0.0
        return min((trial.tasks_seen for trial in self._running(algorithm)), default=math.inf)

    def _running(self, algorithm: str) -> list[Trial]:
        return [trial for trial in self.ledger.running() if trial.algorithm == algorithm]

    def _propose(self, algorithm: str) -> Trial | None:
        """Begin what the study proposes; None where it has nothing left, or that can never be trained."""
        sampled = self.studies[algorithm].propose(self._spent(algorithm), self.ledger.of(algorithm))
        return None if sampled is None else self._new_trial(algorithm, sampled)

    def _new_trial(self, algorithm: str, sampled: dict[str, Any]) -> Trial | None:
        number = len(self.ledger.of(algorithm))
        study = self.studies[algorithm]
        hyperparameters = study.its.resolve(sampled)
        is_default = study.its.place(sampled) == study.its.place(study.its.published[0])
        seed = TRIAL_SEEDS * (self.seed + 1) + number  # the same for trial k of every algorithm
        size = self.size_of(algorithm, hyperparameters)
        trial = self.ledger.propose(algorithm, sampled, hyperparameters, is_default, seed, *size)
        if size.infeasible is None:
            return trial
        self.catch_up()  # so that the next proposal knows of it
        return None

    def _spent(self, algorithm: str) -> float:
        """Return which share of an algorithm's budget is spent: of its trials, or of what limits these."""
        budget, n_trials = self.space.budget, self.trials[algorithm]
        shares = [(len(self.ledger.of(algorithm)) - self.ledger.n_infeasible[algorithm]) / n_trials]
        if (most := limit(budget)) is not None:
            shares.append(self.ledger.spent(algorithm, budget.unit) / most)
        elif freeze.is_on(budget):
            shares.append(self.ledger.tasks(algorithm) / freeze.allowance(budget, n_trials))
        return max(shares)

    def _has_budget(self, algorithm: str) -> bool:
        """Tell whether an algorithm has not spent its seconds or steps, where those are the budget."""
        most = limit(self.space.budget)
        return most is None or self.ledger.spent(algorithm, self.space.budget.unit) < most

    def _is_open(self, algorithm: str) -> bool:
        """Tell whether an algorithm may start a trial, those that run taken as having reached their rungs."""
        if self.left_of(algorithm) <= 0:
            return False
        kept = self._kept(algorithm)
        most = limit(self.space.budget)
        is_left = most is None or self._expected(algorithm, kept) < most
        return is_left and self.has_room(algorithm, self.rungs[0] + kept)

    def _kept(self, algorithm: str) -> int:
        """Return the tasks that the leader needs to the full budget, where it waits for others."""
        budget = self.space.budget
        if not pauses(budget) or (limit(budget) is None and self.has_room is always):
            return 0
        best = incumbent(self.ledger.of(algorithm))
        return budget.tasks - best.tasks_seen if best is not None and best.is_waiting else 0

    def _expected(self, algorithm: str, kept: int = 0) -> float:
        """Return what is spent, in the budget's unit, when each unfinished trial reaches its next rung.

        Args:
            kept: tasks beside them.
        """
        seen = self.ledger.tasks(algorithm)
        ahead = kept + sum(
            min((rung - t.tasks_seen for rung in self.rungs if rung > t.tasks_seen), default=0)
            for t in self._running(algorithm)
        )
        if limit(self.space.budget) is None:
            return seen + ahead
        spent = self.ledger.spent(algorithm, self.space.budget.unit)
        return spent + ahead * spent / max(seen, 1)
