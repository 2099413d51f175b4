"""However trials end, and however often the driver is killed, no study holds a trial that runs no more."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optuna.trial import TrialState

from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    FAILED,
    PRUNED,
    WAIT,
    WAITS,
    Ledger,
    Trial,
)
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FairSearcher
from tests.search import proposals
from tests.search.played import make_report

STATES = {
    COMPLETE: TrialState.COMPLETE,
    PRUNED: TrialState.PRUNED,
    DIVERGED: TrialState.FAIL,
    FAILED: TrialState.FAIL,
    None: TrialState.RUNNING,
}

SCORES = st.none() | st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])


class Driver(RuleBasedStateMachine):
    """A driver that proposes, hears of reports, crashes and failures, and is killed and started again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    @initialize(scheduler=st.sampled_from(["asha", "freeze_thaw", "none", "top_k"]), pause=st.booleans())
    def begin(self, scheduler: str, pause: bool) -> None:
        self.space = proposals.space_of(scheduler=scheduler, pause=pause, sampler="random", trials=6)
        self.start()

    def start(self) -> None:
        """Start as `experiment.explore` does."""
        self.ledger = Ledger(Path(self.folder.name), keep=1)
        self.searcher = FairSearcher(self.space, self.ledger, seed=0)
        if not self.searcher.remaining():
            self.searcher.finish()
        self.running: dict[str, str] = {}  # Tune's id of the trial -> our name

    @precondition(lambda self: len(self.running) < 3 and self.searcher.remaining())
    @rule()
    def propose(self) -> None:
        trial_id = f"id-{len(self.ledger.history)}-{len(self.running)}"
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict) or (config is None and self.running)
        if isinstance(config, dict):
            self.running[trial_id] = config["trial"]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), score=SCORES)
    def report(self, data: Any, score: float | None) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.running)))
        trial = self.ledger.trials[self.running[trial_id]]
        rung = next(rung for rung in self.searcher.rungs if rung > trial.tasks_seen)
        decision = decide(self.ledger, self.space.budget, trial.name, make_report(rung, score))
        if decision != CONTINUE and not (decision == WAIT and self.searcher.goes_on(trial.name)):
            self.end(trial_id, error=False)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.running))), error=True)

    def end(self, trial_id: str, error: bool) -> None:
        """End a trial in the order of Tune's own calls: the scheduler first, then the searcher."""
        self.ledger.fail(self.running.pop(trial_id), "crashed once too often")
        self.searcher.hand_back(trial_id)

    @rule()
    def kill(self) -> None:
        self.start()

    @precondition(lambda self: not self.running and not self.searcher.remaining())
    @rule()
    def next_round(self) -> None:
        self.start()

    @invariant()
    def every_state_is_true(self) -> None:
        if not hasattr(self, "searcher"):
            return
        self.searcher.catch_up()
        study = self.searcher.studies["maml_pp"].study
        trials = self.ledger.of("maml_pp")
        assert [trial.state for trial in study.trials] == [*map(self.expected, trials)]
        for exported, trial in zip(study.trials, trials, strict=True):
            heard = trial.tasks_seen if trial.status else self.waited_at(trial)
            scores = {report["tasks_seen"]: report["val_score"] for report in trial.reports}
            seen = {rung: score for rung, score in scores.items() if score is not None and rung <= heard}
            assert exported.intermediate_values == seen
            assert exported.params == trial.sampled

    def waited_at(self, trial: Trial) -> int:
        """Return the last rung at which a trial began to wait."""
        history = self.ledger.history
        return max((seen for what, name, seen in history if (what, name) == (WAITS, trial.name)), default=0)

    def expected(self, trial: Trial) -> TrialState:
        """Return the state that Optuna should have: of who has waited, the one that can be learnt from."""
        has_waited = trial.status is None and self.waited_at(trial)
        return TrialState.PRUNED if has_waited else STATES[trial.status]

    def teardown(self) -> None:
        """Let everything end: then nothing runs in the study either."""
        if hasattr(self, "searcher"):
            for _ in range(3):
                while self.running or self.searcher.remaining():
                    n_running = len(self.running)
                    if self.searcher.remaining() and n_running < 3:
                        self.propose()
                    if n_running < len(self.running):
                        continue
                    trial_id, name = next(iter(self.running.items()))
                    rung = next(r for r in self.searcher.rungs if r > self.ledger.trials[name].tasks_seen)
                    report = make_report(rung, 0.1 * (int(name[-1]) % 4))
                    if decide(self.ledger, self.space.budget, name, report) != CONTINUE:
                        self.end(trial_id, error=False)
                self.start()
            counted = Counter(trial.state for trial in self.searcher.studies["maml_pp"].study.trials)
            assert counted == Counter(STATES[trial.status] for trial in self.ledger.of("maml_pp"))
            assert 0 < counted.total() <= 6
            assert counted.total() == 6 or self.space.budget.scheduler == "freeze_thaw"
            assert not counted[TrialState.RUNNING]
        self.folder.cleanup()


Driver.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestDriver = Driver.TestCase
