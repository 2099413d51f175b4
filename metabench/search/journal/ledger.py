"""The driver's memory of a search: an append-only journal from which studies and rungs are rebuilt.

The journal, rather than Ray's pickled experiment state, is what a search resumes from. It is plain JSON
lines, each safe on disk before anybody acts on it, so a kill at any moment loses at most a decision that
nobody has heard yet; it holds what Ray forgets on restore (the rungs) and what it mixes up (pruned told as
complete); and it needs no unpickling. Ray's own folder can be thrown away at any time.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metabench.core import MetabenchError, Objective
from metabench.core.config import SPENT
from metabench.core.objectives import OBJECTIVES
from metabench.storage import files, models, records, remote
from metabench.storage.files import Damaged

JOURNAL = "journal.jsonl"
WORK = "trials"
"""Folder of what the trials themselves write: their state and reports, one folder a trial."""

PROPOSED = "proposed"
WAITS = "waits"
ENDED = "ended"

CONTINUE = "continue"
WAIT = "wait"  # until it is among the best at its rung, or all have arrived there
RUNNING = "running"
WAITING = "waiting"
COMPLETE = "complete"
PRUNED = "pruned"
DIVERGED = "diverged"
FAILED = "failed"
INFEASIBLE = "infeasible"  # its settings or its network cannot be, or it is too large: it was never trained

OUTSIDE = "ended unfinished: the space, which was changed, has this setting no longer"
"""The error of a trial that does not go on after a change."""


class Arrival(NamedTuple):
    """A trial's score at a rung, higher is better."""

    trial: str
    score: float  # over the tasks that every trial is validated on
    reevaluated: float | None = None  # over more of them, where it was validated again

    @classmethod
    def of(cls, trial: str, report: Mapping[str, Any]) -> Arrival:
        """Return what a report says at its rung."""
        return cls(trial, report["val_score"], report.get("borderline_score"))


class Happened(NamedTuple):
    """A step in the life of a trial that a study is told of."""

    what: str  # PROPOSED, WAITS or ENDED
    trial: str
    tasks_seen: int


@dataclass
class Trial:
    """One setting that is or was tried."""

    name: str
    algorithm: str
    number: int  # among the trials of its algorithm
    sampled: dict[str, Any]  # what the study chose
    hyperparameters: dict[str, Any]  # every setting of the algorithm
    is_default: bool
    seed: int
    parameters: int | None = None  # learnt across tasks, where they were counted
    reports: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[int, str] = field(default_factory=dict)  # tasks seen -> decision
    borderline: dict[int, int] = field(default_factory=dict)  # tasks seen -> how many arrived there before
    details: dict[int, dict[str, Any]] = field(default_factory=dict)  # tasks seen -> what it rests on
    status: str | None = None  # None while it is unfinished
    error: str | None = None
    checkpoint: str | None = None  # its state, relative to the search folder

    @property
    def tasks_seen(self) -> int:
        """Return the tasks seen at the last report."""
        return int(self.reports[-1]["tasks_seen"]) if self.reports else 0

    @property
    def score(self) -> float | None:
        """Return the meta-validation score of the last report, higher is better; None where there is none."""
        return self.reports[-1]["val_score"] if self.reports else None

    @property
    def seconds(self) -> float:
        """Return what it has taken up to the last report."""
        return models.spent(self.reports, "seconds")

    @property
    def is_waiting(self) -> bool:
        """Tell whether it stands still until it is decided whether it goes on from its rung."""
        return self.status is None and self.decisions.get(self.tasks_seen) == WAIT

    @property
    def state(self) -> str:
        """Return the status, or what a trial without one does."""
        return self.status or (WAITING if self.is_waiting else RUNNING)

    @property
    def is_borderline(self) -> bool:
        """Tell whether it was stopped within the noise of its validation tasks."""
        return self.status == PRUNED and bool(self.details.get(self.tasks_seen, {}).get("doubtful"))

    def line(self, objective: Objective) -> dict[str, Any]:
        """Return the line of trials.jsonl."""
        return {
            "trial": self.name,
            "algorithm": self.algorithm,
            "status": self.status,
            "hyperparameters": self.hyperparameters,
            "sampled": self.sampled,
            "is_default": self.is_default,
            "seed": self.seed,
            **({} if self.parameters is None else {"parameters": self.parameters}),
            "tasks_seen": self.tasks_seen,
            "seconds": self.seconds,
            "peak_memory": max((report["peak_memory"] for report in self.reports), default=0),
            "validation_tasks": sum(report.get("val_tasks", 0) for report in self.reports),
            f"val_{objective.metric}": None if self.score is None else objective.metric.sign * self.score,
            "val_ci": self.reports[-1].get("val_ci") if self.reports else None,
            "reports": self.reports,
            "decisions": [
                {"tasks_seen": seen, "decision": decision, **self.details[seen]}
                for seen, decision in self.decisions.items()
            ],
            "checkpoint": self.checkpoint,
            "error": self.error,
        }


def preference(trial: Trial) -> tuple[float, ...]:
    """Return what sorts trials best first: the highest rung, there the best score, of equals the earliest."""
    return -trial.tasks_seen, -(-math.inf if trial.score is None else trial.score), trial.number


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Sort trials that were judged, best first."""
    return sorted((trial for trial in trials if trial.status in (COMPLETE, PRUNED)), key=preference)


def incumbent(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial that would be confirmed first if no report came any more; None where there is none.

    The rung that it reached counts before the score, as scores of a smaller budget do not compare.
    """
    judged = (trial for trial in trials if trial.status not in (DIVERGED, FAILED) and trial.score is not None)
    return min(judged, key=preference, default=None)


class Ledger:
    """Every proposal, report and ending of a search, in memory and on disk.

    What is asked for at every trial is kept up to date, so that none costs more the more there are.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        objective: Objective = OBJECTIVES["classification"],
        tasks: int | None = None,
        place: Callable[[Trial], Hashable | None] = lambda trial: trial.name,
        *,
        is_driver: bool = True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Read what is there.

        Args:
            keep: how many trials of an algorithm keep their state on disk.
            tasks: the full budget; trials that completed a smaller one go on where their state was kept.
            place: where a trial's setting stands, the same for equal ones; None: the space has it no longer.
            is_driver: put right what a kill has left; who only looks must not touch a file.
        """
        self.folder = folder
        self.keep = keep
        self.objective = objective
        self.place = place
        self.gpus: float | None = None  # of each trial that reports from now on
        self.trials: dict[str, Trial] = {}
        self.history: list[Happened] = []
        self._rungs: dict[tuple[str, int], list[Arrival]] = {}
        self._of: dict[str, list[Trial]] = {}
        self._open: dict[str, Trial] = {}  # not ended, and some who have since they were looked for
        self._running: dict[str, Trial] = {}
        self.n_events: Counter[str] = Counter()  # by algorithm
        self.n_scored: Counter[str] = Counter()  # those events that add a score, or an ending
        self.memo: dict[str, Any] = {}  # what was worked out of an algorithm's trials, to be kept with these
        self._best: dict[str, list[Trial]] = {}  # as many as keep their states
        self._tasks, self.n_infeasible = Counter[str](), Counter[str]()
        self._spent: defaultdict[tuple[str, str], float] = defaultdict(float)  # by algorithm and unit
        for number, event in enumerate(records.lines(folder / JOURNAL, models.EVENT), start=1):
            try:
                self._apply(event)
            except (KeyError, ValueError) as error:
                problem = f"line {number}, of {event['trial']}, does not follow from those before"
                raise Damaged(folder / JOURNAL, problem) from error
        self._written: set[str] = set()
        self.outside = {trial.name for trial in self.trials.values() if place(trial) is None}
        if is_driver:
            lines = records.recover(folder / files.TRIALS, models.TRIAL, say, records.lines) or []
            for line in lines:
                if line["trial"] in self.trials:
                    self.trials[line["trial"]].checkpoint = line.get("checkpoint")
                    self._written.add(line["trial"])
            self._repair(tasks)

    def _repair(self, tasks: int | None) -> None:
        """Let trials of a smaller budget go on, and finish what a kill has left between decision and line."""
        for trial in list(self.trials.values()):
            is_shorter = tasks is not None and trial.tasks_seen < tasks
            if self.place(trial) is None:
                if trial.status is None:
                    self._add({"event": "failed", "trial": trial.name, "error": OUTSIDE})
            elif is_shorter and trial.status == COMPLETE and trial.checkpoint:
                trial.decisions[trial.tasks_seen] = CONTINUE
                self._reopen(trial)
                self._written.discard(trial.name)
        ended = [trial for trial in self.trials.values() if trial.status is not None]
        for trial in ended:
            self._rank(trial)
        for trial in ended:
            self._finish(trial)

    def propose(
        self,
        algorithm: str,
        sampled: dict[str, Any],
        hyperparameters: dict[str, Any],
        is_default: bool,
        seed: int,
        parameters: int | None = None,
        infeasible: str | None = None,
    ) -> Trial:
        """Write down a new trial before it starts; one that never will has ended, and it is said why."""
        number = len(self.of(algorithm))
        event = {
            "event": "proposed",
            "trial": f"{algorithm}-{number:03d}",
            "algorithm": algorithm,
            "number": number,
            "sampled": sampled,
            "hyperparameters": hyperparameters,
            "is_default": is_default,
            "seed": seed,
        }
        size = {"parameters": parameters, "infeasible": infeasible}
        return self._add(event | {key: value for key, value in size.items() if value is not None})

    def record(self, name: str, report: dict[str, Any], decision: str, details: dict[str, Any]) -> None:
        """Write down a report with what was decided on it and why, and the trial's end where it has come."""
        if self.gpus is not None:
            report = {**report, "gpus": self.gpus}
        event = {"event": "report", "trial": name, "report": report, "decision": decision, "basis": details}
        self._add(event)

    def mark_borderline(self, name: str, tasks_seen: int, arrived: int, details: dict[str, Any]) -> None:
        """Write down that a trial is validated again, and judged among those who have arrived by now."""
        event = {"event": "doubted", "trial": name, "tasks_seen": tasks_seen, "arrived": arrived}
        self._add({**event, "basis": details})

    def settle(self, name: str, decision: str, details: dict[str, Any]) -> None:
        """Write down what was decided on a trial that has waited."""
        what = "resumed" if decision == CONTINUE else "settled"
        event = {"event": what, "trial": name, "tasks_seen": self.trials[name].tasks_seen}
        self._add({**event, "decision": decision, "basis": details})

    def fail(self, name: str, error: str) -> None:
        """Write down that a trial failed for good; one that ended before, or waits, stays what it is."""
        if self.trials[name].status is None and not self.trials[name].is_waiting:
            self._add({"event": "failed", "trial": name, "error": error})

    def of(self, algorithm: str) -> list[Trial]:
        """List the trials of an algorithm in the order they were proposed."""
        return self._of.get(algorithm, [])

    def candidates(self, algorithm: str) -> list[Trial]:
        """List the trials that may be confirmed, best first: one for each setting that the space has."""
        return self._candidates(self.of(algorithm))

    def n_tried(self, algorithm: str) -> int:
        """Count the settings of an algorithm that the space has and that were tried."""
        return len({self.place(trial) for trial in self.of(algorithm)} - {None})

    def _candidates(self, trials: Iterable[Trial]) -> list[Trial]:
        best: dict[Hashable, Trial] = {}
        for trial in ranked(trials):
            best.setdefault(self.place(trial), trial)
        return [trial for place, trial in best.items() if place is not None]

    def tasks(self, algorithm: str) -> int:
        """Return the tasks that an algorithm's trials have seen together."""
        return self._tasks[algorithm]

    def seconds(self, algorithm: str) -> float:
        """Return what an algorithm's trials have taken together up to their last reports."""
        return self.spent(algorithm, "seconds")

    def spent(self, algorithm: str, unit: str) -> float:
        """Return the same in a unit of which there are so many."""
        return self._spent[algorithm, unit]

    def unfinished(self) -> list[Trial]:
        """List the trials that have not ended, those that got furthest first."""
        self._open = {name: trial for name, trial in self._open.items() if trial.status is None}
        return sorted(self._open.values(), key=lambda trial: -trial.tasks_seen)

    def running(self) -> list[Trial]:
        """List the trials that have not ended and do not wait, in the order they set out."""
        return list(self._running.values())

    def rung(self, algorithm: str, tasks_seen: int) -> list[Arrival]:
        """Return the rung table: who arrived at one rung, in order, without those that diverged."""
        return self._rungs.get((algorithm, tasks_seen), [])

    def task_scores(self, name: str, tasks_seen: int) -> list[float]:
        """Read the scores of single tasks that a trial reported at a rung; [] where they are gone.

        They stay in the trials' own files: in memory, and in the journal, they would outweigh all else.
        """
        scores = [line.get("val_scores", []) for line in self.made(name) if line["tasks_seen"] == tasks_seen]
        return scores[-1] if scores else []

    def made(self, name: str) -> list[dict[str, Any]]:
        """Read the reports that a trial's worker has written down; [] where they are gone."""
        work = self.folder / WORK / name
        remote.refresh(work, skip=lambda path: f"/{files.STATE}/" in path)
        try:
            return records.lines(work / files.REPORTS, models.REPORT)
        except MetabenchError:
            return []  # damaged: whoever goes on with that trial finds out, and makes them again

    def _add(self, event: dict[str, Any]) -> Trial:
        event = files.plain(event)
        files.append_line(self.folder / JOURNAL, event)
        trial = self._apply(event)
        self._finish(trial)
        return trial

    def _apply(self, event: dict[str, Any]) -> Trial:
        name = event["trial"]
        match event["event"]:
            case "proposed":
                self._begin(name, **event)
            case "report":
                trial, seen = self.trials[name], event["report"]["tasks_seen"]
                if trial.status is not None:
                    self._reopen(trial)  # for a larger budget than it once completed
                self._tasks[trial.algorithm] += seen - trial.tasks_seen
                before = {unit: models.spent(trial.reports, unit) for unit in SPENT}
                trial.reports.append(event["report"])
                for unit, spent in before.items():
                    self._spent[trial.algorithm, unit] += models.spent(trial.reports, unit) - spent
                if event["decision"] != DIVERGED:
                    self._rungs.setdefault((trial.algorithm, seen), []).append(
                        Arrival.of(name, event["report"])
                    )
                self._decide(trial, seen, event)
            case "doubted":
                self.trials[name].borderline[event["tasks_seen"]] = event["arrived"]
            case "settled" | "resumed":
                self._decide(self.trials[name], event["tasks_seen"], event)
            case "failed":
                self.trials[name].status = FAILED
                self.trials[name].error = event["error"]
                self._note(ENDED, self.trials[name])
        return self._count(self.trials[name], event["event"])

    def _begin(self, name: str, infeasible: str | None = None, **event: Any) -> None:
        fields = {key: value for key, value in event.items() if key not in ("event", "trial")}
        trial = self.trials[name] = self._open[name] = Trial(name, **fields)
        self._of.setdefault(trial.algorithm, []).append(trial)
        self._note(PROPOSED, trial)
        if infeasible is not None:
            trial.status, trial.error = INFEASIBLE, infeasible
            self.n_infeasible[trial.algorithm] += 1
            self._note(ENDED, trial)

    def _count(self, trial: Trial, event: str) -> Trial:
        """Keep up to date what depends on how many events there were, and who runs."""
        self.n_events[trial.algorithm] += 1
        self.n_scored[trial.algorithm] += event not in ("proposed", "doubted", "resumed")
        self._run(trial)
        return trial

    def _run(self, trial: Trial) -> None:
        if trial.status is None and not trial.is_waiting:
            self._running.setdefault(trial.name, trial)
        else:
            self._running.pop(trial.name, None)

    def _reopen(self, trial: Trial) -> None:
        trial.status = None
        self._open[trial.name] = trial
        self._run(trial)
        self.history.remove(Happened(ENDED, trial.name, trial.tasks_seen))

    def _note(self, what: str, trial: Trial) -> None:
        self.history.append(Happened(what, trial.name, trial.tasks_seen))

    def _decide(self, trial: Trial, seen: int, event: dict[str, Any]) -> None:
        trial.decisions[seen] = event["decision"]
        trial.details[seen] = event.get("basis", {})
        if event["decision"] == WAIT:
            self._note(WAITS, trial)
        elif event["decision"] != CONTINUE:
            trial.status = event["decision"]
            self._note(ENDED, trial)

    def _rank(self, trial: Trial) -> None:
        """Take an ended trial among the best of its algorithm, if it belongs there."""
        others = [other for other in self._best.get(trial.algorithm, []) if other is not trial]
        self._best[trial.algorithm] = self._candidates([*others, trial])[: self.keep]

    def _finish(self, trial: Trial) -> None:
        """Add an ended trial's line to trials.jsonl once; keep its state while it may still be confirmed."""
        if trial.status is None or trial.name in self._written:
            return
        state = Path(WORK) / trial.name / files.STATE
        self._rank(trial)
        if any(best is trial for best in self._best[trial.algorithm]):
            trial.checkpoint = str(state)
        else:
            remote.remove(self.folder / state)
        files.append_line(self.folder / files.TRIALS, trial.line(self.objective))
        self._written.add(trial.name)


def look(folder: Path, outside: Container[str] = ()) -> Ledger:
    """Read the journal of a search that somebody else may drive, without touching a file.

    Args:
        outside: trials whose settings the space has no longer.
    """
    return Ledger(
        folder, 0, place=lambda trial: None if trial.name in outside else trial.name, is_driver=False
    )
