"""The confirmation: the best settings of each algorithm meet fresh meta-validation tasks, and one is chosen.

The figures that a search has selected for are too good by the selection itself; those on fresh tasks are not.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from metabench.core import MetabenchError, Objective, Splits
from metabench.core.config import RunConfig, SearchSpace
from metabench.data.tasks import frozen
from metabench.search import space as spaces
from metabench.search.journal.ledger import WORK, Ledger, Trial
from metabench.search.progress.watch import Watch
from metabench.search.ray import worker
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.jobs import run_all
from metabench.storage import files, models, records, remote
from metabench.storage.files import Damaged
from metabench.training import evaluate, loop


def choose(
    folder: Path, space: SearchSpace, ledger: Ledger, cluster: Cluster, watch: Watch
) -> dict[str, Any]:
    """Confirm the candidates that are not confirmed yet, and return and write down the setting to go on with.

    Candidates are the settings of the space whose trials reached the highest rung, best meta-validation score
    first, each once. An algorithm of which no trial was ever judged has no chosen setting: None.
    """
    before = records.recover(folder / files.CHOSEN, models.CHOSEN, watch.say)
    if before is not None and before.keys() == space.algorithms.keys():
        return dict(before)
    candidates = {a: ledger.candidates(a)[: space.budget.confirm_top] for a in space.algorithms}
    described = space.model_dump(mode="json")
    jobs = {
        trial.name: (remote.canonical_url(folder), described, trial.algorithm, trial.line(ledger.objective))
        for trials in candidates.values()
        for trial in trials
        if records.recover(folder / files.CONFIRM / f"{trial.name}.json", models.CONFIRMED, watch.say) is None
    }
    n_all = sum(map(len, candidates.values()))
    watch.terminal.enter("confirmation", n_all, n_all - len(jobs))
    watch.say(f"confirming {len(jobs)} settings on {space.budget.confirm_tasks} fresh meta-validation tasks")

    def done(name: str, result: dict[str, Any]) -> None:
        if note := result.pop("note"):
            watch.say(f"{name}: {note}")
        files.write_json(folder / files.CONFIRM / f"{name}.json", result)

    errors = run_all(confirm_trial, jobs, cluster, done, beside=watch.beside)
    if errors:
        listed = "\n".join(f"  {name}: {error.splitlines()[-1]}" for name, error in errors.items())
        raise MetabenchError(
            f"{folder}: not confirmed, so nothing is chosen; the same command tries again\n{listed}"
        )
    chosen = {a: _best(folder, space, trials, ledger.objective) for a, trials in candidates.items()}
    files.write_json(folder / files.CHOSEN, chosen)
    return chosen


def confirm_trial(place: str, space: dict[str, Any], algorithm: str, line: dict[str, Any]) -> dict[str, Any]:
    """Score a trial's last state on the confirmation's tasks, in a worker."""
    device = worker.prepare()
    parsed = SearchSpace.model_validate(space)
    rungs = spaces.rungs(parsed.budget)
    run = spaces.run_config(parsed, algorithm, line["hyperparameters"], line["seed"], rungs)
    splits = worker.splits(run.task, run.network, place)
    # Not among the best before a change, a trial has no state any more: it is trained again.
    checkpoint = remote.work_in(place) / (line["checkpoint"] or f"{WORK}/{line['trial']}/{files.STATE}")
    remote.refresh(checkpoint)
    state, note = _state(run, splits, checkpoint, line["tasks_seen"], device)
    remote.evict(checkpoint)
    model = loop.model(loop.build(run, splits), state)
    tasks = frozen.frozen(splits, "meta_validation", run.task, parsed.budget.confirm_tasks, "confirm")
    images = splits.meta_validation.images.to(device)
    score = evaluate.evaluate(model, images, tasks, worker.traces())
    return {
        "trial": line["trial"],
        "algorithm": algorithm,
        "hyperparameters": line["hyperparameters"],
        model.net.objective.metric.name: score.score.tolist(),
        "tasks_hash": tasks.hash,
        "note": note,
    }


def _state(
    run: RunConfig, splits: Splits, checkpoint: Path, tasks_seen: int, device: str
) -> tuple[loop.State, str]:
    """Read a trial's last state, or train it again from what is whole, and say so."""
    damaged, before = [], None
    for name in loop.STATES:
        try:
            before = loop.load_state(checkpoint, run, splits, device, name)
        except FileNotFoundError:
            damaged.append(f"{checkpoint / name}: is gone")
        except Damaged as error:
            damaged.append(error.problem)
        else:
            break
    if before is not None and before.tasks_seen == tasks_seen:
        return before, ""
    for _, state in loop.train(run, splits, device=device, state=before, traces=worker.traces()):
        if state.tasks_seen == tasks_seen:
            loop.save_state(checkpoint, state)
            return state, f"{'; '.join(damaged)}; trained again"
    raise AssertionError(f"{checkpoint}: trained again, it does not come to {tasks_seen} tasks")


def _best(
    folder: Path, space: SearchSpace, trials: list[Trial], objective: Objective
) -> dict[str, Any] | None:
    """Return the candidate with the best confirmed mean; of equals, the one ranked first."""
    metric, sign = objective.metric, objective.metric.sign
    means = {}
    for trial in trials:
        figures = records.read(folder / files.CONFIRM / f"{trial.name}.json", models.CONFIRMED)[metric.name]
        # null, as a number that is not finite is written, makes the mean NaN
        means[trial.name] = statistics.fmean(math.nan if figure is None else figure for figure in figures)
    # A candidate that is not finite on some fresh task stands behind all others.
    order = {name: sign * mean if math.isfinite(mean) else -math.inf for name, mean in means.items()}
    best = max(trials, key=lambda trial: order[trial.name], default=None)
    if best is None or best.score is None:
        return None
    its = spaces.of(space, best.algorithm)
    return {
        "trial": best.name,
        "hyperparameters": best.hyperparameters,
        "is_default": best.hyperparameters == its.resolve(its.published[0]),
        f"val_{metric}": sign * best.score,
        f"confirm_{metric}": means[best.name],
    }
