"""The driver's memory of a search: an append-only journal from which studies and rungs are rebuilt.

The journal, rather than Ray's pickled experiment state, is what a search resumes from. It is plain JSON
lines, each safe on disk before anybody acts on it, so a kill at any moment loses at most a decision that
nobody has heard yet; it holds what Ray forgets on restore (the rungs) and what it mixes up (pruned told as
complete); and it needs no unpickling. Ray's own folder can be thrown away at any time.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from metabench.core import MetabenchError, Objective
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.trial import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    FAILED,
    PRUNED,
    WAIT,
    Arrival,
    Trial,
    ranked,
)
from metabench.storage import files, remote

__all__ = [
    "COMPLETE",
    "CONTINUE",
    "DIVERGED",
    "ENDED",
    "FAILED",
    "JOURNAL",
    "PROPOSED",
    "PRUNED",
    "WAIT",
    "WAITS",
    "WORK",
    "Arrival",
    "Ledger",
    "Trial",
    "look",
    "ranked",
]

JOURNAL = "journal.jsonl"
WORK = "trials"
"""Folder of what the trials themselves write: their state and reports, one folder a trial."""

PROPOSED = "proposed"
WAITS = "waits"
ENDED = "ended"


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
        *,
        is_driver: bool = True,
    ) -> None:
        """Read what is there.

        Args:
            keep: how many trials of an algorithm keep their state on disk.
            tasks: the full budget; trials that completed a smaller one go on where their state was kept.
            is_driver: put right what a kill has left; who only looks must not touch a file.
        """
        self.folder = folder
        self.keep = keep
        self.objective = objective
        self.gpus: float | None = None  # of each trial that reports from now on
        self.trials: dict[str, Trial] = {}
        self.history: list[tuple[str, str]] = []  # PROPOSED, WAITS or ENDED, and which
        self._rungs: dict[tuple[str, int], list[Arrival]] = {}
        self._of: dict[str, list[Trial]] = {}
        self._open: dict[str, Trial] = {}  # not ended, and some who have since they were looked for
        self._best: dict[str, list[Trial]] = {}  # as many as keep their states
        self._tasks: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        lines = files.read_trials(folder)
        self._written = set(lines)
        for event in files.read_lines(folder / JOURNAL):
            self._apply(event)
        if not is_driver:
            return
        for name, line in lines.items():
            self.trials[name].checkpoint = line["checkpoint"]
        for trial in self.trials.values():
            is_shorter = tasks is not None and trial.tasks_seen < tasks
            if is_shorter and trial.status == COMPLETE and trial.checkpoint:
                trial.decisions[trial.tasks_seen] = CONTINUE
                self._reopen(trial)
                self._written.discard(trial.name)
        ended = [trial for trial in self.trials.values() if trial.status is not None]
        for trial in ended:
            self._rank(trial)
        for trial in ended:
            self._finish(trial)  # a kill may have come between the decision and its line

    def propose(
        self,
        algorithm: str,
        sampled: dict[str, Any],
        hyperparameters: dict[str, Any],
        is_default: bool,
        seed: int,
    ) -> Trial:
        """Write down a new trial before it starts."""
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
        return self._add(event)

    def record(self, name: str, report: dict[str, Any], decision: str, basis: dict[str, Any]) -> None:
        """Write down a report with what was decided on it and why, and the trial's end where it has come."""
        told = report if self.gpus is None else {**report, "gpus": self.gpus}
        event = {"event": "report", "trial": name, "report": told, "decision": decision, "basis": basis}
        trial = self._add(event)
        if trial.status is not None:
            self._finish(trial)

    def doubt(self, name: str, tasks_seen: int, arrived: int, basis: dict[str, Any]) -> None:
        """Write down that a trial is to be looked at again and judged among those who have arrived by now."""
        event = {"event": "doubted", "trial": name, "tasks_seen": tasks_seen, "arrived": arrived}
        self._add({**event, "basis": basis})

    def settle(self, name: str, decision: str, basis: dict[str, Any]) -> None:
        """Write down what was decided on a trial that has waited."""
        seen = self.trials[name].tasks_seen
        event = {"event": "settled", "trial": name, "tasks_seen": seen, "decision": decision, "basis": basis}
        trial = self._add(event)
        if trial.status is not None:
            self._finish(trial)

    def fail(self, name: str, error: str) -> None:
        """Write down that a trial failed for good; one that ended before, or waits, stays what it is."""
        if self.trials[name].status is None and not self.trials[name].is_waiting:
            self._finish(self._add({"event": "failed", "trial": name, "error": error}))

    def of(self, algorithm: str) -> list[Trial]:
        """List the trials of an algorithm in the order they were proposed."""
        return self._of.get(algorithm, [])

    def tasks(self, algorithm: str) -> int:
        """Return the tasks that an algorithm's trials have seen together."""
        return self._tasks[algorithm]

    def seconds(self, algorithm: str) -> float:
        """Return what an algorithm's trials have taken together up to their last reports."""
        return self._seconds.get(algorithm, 0.0)

    def unfinished(self) -> list[Trial]:
        """List the trials that have not ended, those that got furthest first."""
        self._open = {name: trial for name, trial in self._open.items() if trial.status is None}
        return sorted(self._open.values(), key=lambda trial: -trial.tasks_seen)

    def rung(self, algorithm: str, tasks_seen: int) -> list[Arrival]:
        """Return the rung table: who arrived at one rung, in order, without those that diverged."""
        return self._rungs.get((algorithm, tasks_seen), [])

    def task_scores(self, name: str, tasks_seen: int) -> list[float]:
        """Read the scores of single tasks that a trial reported at a rung; [] where they are gone.

        They stay in the trials' own files: in memory, and in the journal, they would outweigh all else.
        """
        work = self.folder / WORK / name
        remote.refresh(work, skip=lambda path: f"/{files.STATE}/" in path)
        try:
            lines = files.read_lines(work / files.REPORTS)
        except MetabenchError:
            return []  # damaged: whoever goes on with that trial finds out, and makes them again
        found = [line.get("val_scores", []) for line in lines if line["tasks_seen"] == tasks_seen]
        return found[-1] if found else []

    def _add(self, event: dict[str, Any]) -> Trial:
        event = files.plain(event)
        files.append_line(self.folder / JOURNAL, event)
        return self._apply(event)

    def _apply(self, event: dict[str, Any]) -> Trial:
        name = event["trial"]
        match event["event"]:
            case "proposed":
                fields = {key: value for key, value in event.items() if key not in ("event", "trial")}
                trial = self.trials[name] = self._open[name] = Trial(name, **fields)
                self._of.setdefault(trial.algorithm, []).append(trial)
                self.history.append((PROPOSED, name))
            case "report":
                trial, seen = self.trials[name], event["report"]["tasks_seen"]
                if trial.status is not None:
                    self._reopen(trial)  # for a larger budget than it once completed
                self._spend(trial, event["report"])
                trial.reports.append(event["report"])
                if event["decision"] != DIVERGED:
                    arrival = Arrival(
                        name, event["report"]["val_score"], event["report"].get("borderline_score")
                    )
                    self._rungs.setdefault((trial.algorithm, seen), []).append(arrival)
                self._decide(trial, seen, event)
            case "doubted":
                self.trials[name].doubts[event["tasks_seen"]] = event["arrived"]
            case "settled":
                self._decide(self.trials[name], event["tasks_seen"], event)
            case "failed":
                self.trials[name].status = FAILED
                self.trials[name].error = event["error"]
                self.history.append((ENDED, name))
        return self.trials[name]

    def _spend(self, trial: Trial, report: dict[str, Any]) -> None:
        """Add what a trial has spent since its last report."""
        before = trial.reports[-1]["seconds"] if trial.reports else 0.0
        self._tasks[trial.algorithm] += report["tasks_seen"] - trial.tasks_seen
        self._seconds[trial.algorithm] = self.seconds(trial.algorithm) + report["seconds"] - before

    def _reopen(self, trial: Trial) -> None:
        trial.status = None
        self._open[trial.name] = trial
        self.history.remove((ENDED, trial.name))

    def _decide(self, trial: Trial, seen: int, event: dict[str, Any]) -> None:
        trial.decisions[seen] = event["decision"]
        trial.bases[seen] = event.get("basis", {})
        if event["decision"] == WAIT:
            self.history.append((WAITS, trial.name))
        elif event["decision"] != CONTINUE:
            trial.status = event["decision"]
            self.history.append((ENDED, trial.name))

    def _rank(self, trial: Trial) -> None:
        """Take an ended trial among the best of its algorithm, if it belongs there."""
        others = [other for other in self._best.get(trial.algorithm, []) if other is not trial]
        self._best[trial.algorithm] = ranked([*others, trial])[: self.keep]

    def _finish(self, trial: Trial) -> None:
        """Add the trial's line to trials.jsonl once; keep its state only while it may still be confirmed."""
        if trial.name in self._written:
            return
        state = Path(WORK) / trial.name / files.STATE
        self._rank(trial)
        if any(best is trial for best in self._best[trial.algorithm]):
            trial.checkpoint = str(state)
        else:
            remote.remove(self.folder / state)
        files.append_line(self.folder / files.TRIALS, trial.line(self.objective))
        self._written.add(trial.name)


def look(folder: Path) -> Ledger:
    """Read the journal of a search that somebody else may drive, without touching a file."""
    try:
        return Ledger(folder, keep=0, is_driver=False)
    except (KeyError, TypeError) as error:
        raise MetabenchError(f"{folder / JOURNAL}: is no journal of a search ({error!r})") from error
