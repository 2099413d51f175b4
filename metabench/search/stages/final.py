"""The final stage: chosen and published settings over several seeds, then meta-test, opened once for all."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metabench import PROTOCOL
from metabench.core import Objective, Splits, metrics, utc_now
from metabench.core.config import RunConfig, SearchSpace, TaskConfig
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import frozen
from metabench.data.tasks.frozen import FrozenTasks
from metabench.search import space as spaces
from metabench.search.folder import changes, is_of_workers
from metabench.search.progress.final_rows import FinalRows
from metabench.search.progress.finish import FINAL, Finish
from metabench.search.progress.watch import Watch
from metabench.search.ray import worker
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.jobs import run_all
from metabench.search.space.automatic import REPORTS
from metabench.storage import files, models, records, remote, tensors
from metabench.storage.files import Damaged
from metabench.training import evaluate
from metabench.training import run as runs


class Run(NamedTuple):
    """One final run; a published setting that was also chosen is trained once and copied."""

    name: str
    config: RunConfig
    copy_of: str | None


def plan(space: SearchSpace, chosen: dict[str, Any], seed: int) -> list[Run]:
    """List the final runs over the seeds: of every algorithm's tuned setting, and of its default if asked."""
    tasks = space.budget.tasks
    rungs = sorted({max(1, tasks * step // REPORTS) for step in range(1, REPORTS + 1)})
    planned = []
    for algorithm in space.algorithms:
        its = spaces.of(space, algorithm)
        published = its.resolve(its.published[0])
        tuned = chosen[algorithm] and chosen[algorithm]["hyperparameters"]
        for k in range(space.budget.seeds):
            for variant, values in (("tuned", tuned), ("default", published)):
                is_asked = variant == "tuned" or space.budget.default_runs
                if is_asked and values is not None:
                    config = spaces.run_config(space, algorithm, values, seed + k, rungs)
                    is_copy = variant == "default" and values == tuned
                    copy_of = f"{algorithm}-tuned-seed{k}" if is_copy else None
                    planned.append(Run(f"{algorithm}-{variant}-seed{k}", config, copy_of))
    return planned


def train_all(
    folder: Path, planned: list[Run], objective: Objective, cluster: Cluster, watch: Watch
) -> list[Run]:
    """Train the final runs that are not finished, and return those that are to be tested: all, as a rule.

    One that fails leaves its error and stops no other. Where what is left of them is to be left out, those
    that have ended are tested, of which there must be one.
    """
    final, finish = folder / files.FINAL, Finish(folder, watch.say)
    _set_aside(folder, planned, watch)
    trained = [run for run in planned if run.copy_of is None and _is_trained(final / run.name, objective)]
    ended = [run.name for run in trained]

    def is_cut() -> bool:
        return bool(ended) and finish.is_cut(FINAL)

    open_runs = [] if is_cut() else [run for run in planned if run.copy_of is None and run not in trained]
    settings = {
        run.name: {"algorithm": run.config.algorithm, **run.config.hyperparameters} for run in planned
    }
    watch.rows = FinalRows(folder, objective.metric, settings)
    place = remote.canonical_url(folder)
    jobs = {run.name: (run.config.model_dump(mode="json"), place, run.name) for run in open_runs}
    watch.terminal.enter("final runs", len(trained) + len(jobs), len(trained))
    watch.say(f"training {len(jobs)} final runs of {planned[0].config.tasks} tasks")

    def done(name: str, result: tuple[float | None, str]) -> None:
        ended.append(name)
        remote.remove(final / name / files.ERROR)
        count = f"[{len(ended) - len(trained)}/{len(jobs)}] "
        _tell(watch, name, result, count)

    progress = functools.partial(_n_reports, final, watch)
    for name, error in run_all(train_one, jobs, cluster, done, progress, watch.beside, is_cut).items():
        files.write_text(final / name / files.ERROR, error)
        watch.say(f"{name} failed: {error.splitlines()[-1]} (see {final / name / files.ERROR})")
    remote.refresh(folder, skip=is_of_workers)
    sources = {run.name: final / (run.copy_of or run.name) for run in planned}
    kept = [run for run in planned if not is_cut() or _is_trained(sources[run.name], objective)]
    for run in kept:
        if run.copy_of is not None and sources[run.name].exists() and not (final / run.name).exists():
            _copy(sources[run.name], final / run.name)
    return kept


def _tell(watch: Watch, name: str, result: tuple[float | None, str], count: str) -> None:
    """Say how a final run ended."""
    (score, note), metric = result, watch.objective.metric
    if note:
        watch.say(f"{name}: {note}")
    reached = (
        "diverged" if score is None else f"{metrics.tell(metric, metric.sign * score)} on meta-validation"
    )
    watch.say(f"{count}{name}: {reached}")


def _n_reports(final: Path, watch: Watch, name: str) -> int:
    remote.refresh(final / name, skip=is_of_workers)
    return len(records.recover(final / name / files.REPORTS, models.REPORT, watch.say, records.lines) or [])


def _is_trained(folder: Path, objective: Objective) -> bool:
    """Tell whether a run has ended, can predict, and was looked at closely where it has learnt something."""
    names = [files.INPUTS]
    if (folder / files.WEIGHTS).exists():
        names += [files.DIAGNOSTICS, *([files.CALIBRATION] if objective.metric.has_chance else [])]
    return runs.is_finished(folder) and all((folder / name).exists() for name in names)


def _set_aside(folder: Path, planned: list[Run], watch: Watch) -> None:
    """Move away the runs of a choice that was made before the search was extended, and what is damaged."""
    where = changes.earlier(folder)
    for run in planned:
        path = folder / files.FINAL / run.name
        records.recover(path / files.DIAGNOSTICS, models.DIAGNOSIS, watch.say)
        records.recover(path / files.INPUTS, models.INPUTS, watch.say)
        files.recover(path / files.CALIBRATION, watch.say, tensors.load)
        before = records.recover(path / files.CONFIG, models.RUN, watch.say)
        if where is not None and before is not None:
            wanted = json.loads(run.config.model_dump_json())
            if before["run"] != wanted:
                changes.move(folder, [f"{files.FINAL}/{run.name}"], where)


def train_one(config: dict[str, Any], place: str, name: str) -> tuple[float | None, str]:
    """Train one final run in a worker; return its best score, None if it diverged, and a note."""
    device = worker.prepare()
    run = RunConfig.model_validate(config)
    splits = worker.splits(run.task, run.network, place)
    folder = remote.work_in(place) / files.FINAL / name
    remote.refresh(folder)
    damaged: list[str] = []

    def train() -> None:
        runs.train_run(run, splits, folder, device=device, damaged=damaged.append)

    try:
        train()
    except Damaged as error:
        damaged.append(error.problem)
        runs.forget(folder)
        train()
    reports = records.lines(folder / files.REPORTS, models.REPORT)
    note = f"{'; '.join(damaged)}; trained again" if damaged else ""
    return max((line["val_score"] for line in reports if line["finite"]), default=None), note


def _copy(source: Path, target: Path) -> None:
    remote.refresh(source)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)
    remote.upload(target)


def test_all(
    folder: Path, space: SearchSpace, splits: Splits, planned: list[Run], cluster: Cluster, watch: Watch
) -> None:
    """Open meta-test for all final runs at once, and record that it was opened before looking."""
    final, n_tasks = folder / files.FINAL, space.budget.test_tasks
    tested = [run.name for run in planned if (final / run.name / files.WEIGHTS).exists()]
    tasks = frozen.frozen(splits, "meta_test", space.task, n_tasks, "test")
    record = {**_record(folder, space, splits, tasks.hash, tested), "gpus": cluster.gpus}
    files.write_json(folder / files.META_TEST, record)
    _write_baseline(final, splits, tasks)
    task, place = space.task.model_dump(mode="json"), remote.canonical_url(folder)
    jobs = {
        name: (task, place, name, n_tasks)
        for name in tested
        if (before := records.recover(final / name / files.TEST, models.TEST, watch.say)) is None
        or before["tasks_hash"] != tasks.hash
    }
    watch.terminal.enter("meta-test", len(tested), len(tested) - len(jobs))
    watch.say(f"testing {len(jobs)} final runs on {n_tasks} meta-test tasks")

    def done(name: str, note: str) -> None:
        if note:
            watch.say(f"{name}: {note}")

    errors = run_all(test_one, jobs, cluster, done, beside=watch.beside)
    for name, error in errors.items():
        watch.say(f"{name}: not tested: {error.splitlines()[-1]}")
    remote.refresh(folder, skip=is_of_workers)
    if not errors:
        files.write_json(
            folder / files.META_TEST, {**record, "finished": utc_now().isoformat(timespec="seconds")}
        )


def _write_baseline(final: Path, splits: Splits, tasks: FrozenTasks) -> None:
    """Score what learns nothing on the meta-test tasks: nearest mean, or predicting zero."""
    images = splits.meta_test.images
    if splits.kind == "classification":
        name, scores = files.NEAREST_MEAN, evaluate.nearest_mean(images, tasks).score.tolist()
    else:
        (group,) = tasks.groups  # functions have one shape
        y = frozen.gather(images, group.indices, group.shape).query.y  # [T, Q, 1]
        name, scores = files.ZERO, y.square().mean((1, 2)).tolist()
    baseline = {"protocol": PROTOCOL, "tasks_hash": tasks.hash}
    files.write_json(final / name, {**baseline, OBJECTIVES[splits.kind].metric: scores})


def test_one(task: dict[str, Any], place: str, name: str, n_tasks: int) -> str:
    """Test one final run in a worker; return a note."""
    device = worker.prepare()
    folder = remote.work_in(place) / files.FINAL / name
    remote.refresh(folder)
    network = runs.read_config(folder).network
    splits = worker.splits(TaskConfig.model_validate(task), network, place)
    note = ""
    try:
        runs.test_run(folder, splits, n_tasks, device)
    except Damaged as error:
        runs.forget(folder)
        train_one(runs.read_config(folder).model_dump(mode="json"), place, name)
        runs.test_run(folder, splits, n_tasks, device)
        note = f"{error.problem}; trained again"
    return note


def is_tested(folder: Path, say: Callable[[str], None] = lambda text: None) -> bool:
    """Tell whether meta-test was opened and every run was scored."""
    opened = records.recover(folder / files.META_TEST, models.META_TEST, say)
    return opened is not None and opened["finished"] is not None and _is_whole(folder)


def _is_whole(folder: Path) -> bool:
    """Tell whether all can be read that the board rests on; what cannot is made again by the stages."""
    final = folder / files.FINAL
    paths = [folder / files.CHOSEN, folder / files.TRIALS, *final.rglob("*.json"), *final.rglob("*.jsonl")]
    return all(map(records.is_whole, paths))


def _record(
    folder: Path, space: SearchSpace, splits: Splits, tasks_hash: str, names: list[str]
) -> dict[str, Any]:
    before = records.recover(folder / files.META_TEST, models.META_TEST) or {}
    earlier = list(folder.glob(f"{files.EARLIER}/*/{files.META_TEST}"))
    described = json.dumps(space.model_dump(mode="json"), sort_keys=True)
    return {
        "protocol": PROTOCOL,
        "opened": before.get("opened") or utc_now().isoformat(timespec="seconds"),
        "finished": None,
        "config_hash": hashlib.sha256(described.encode()).hexdigest(),
        "data_fingerprint": splits.fingerprint,
        "tasks": space.budget.test_tasks,
        "tasks_hash": tasks_hash,
        "times_opened": len(earlier) + 1,
        "runs": names,
        "code": files.code_hash(),
        **files.environment(),
    }
