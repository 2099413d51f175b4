"""The final stage: chosen and published settings over several seeds, then meta-test, opened once for all."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metabench import PROTOCOL, data
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
from metabench.training import evaluate, rollouts
from metabench.training import run as runs


class Run(NamedTuple):
    """One final run; a published setting that was also chosen is trained once and copied."""

    name: str
    config: RunConfig
    copy_of: str | None


def plan(space: SearchSpace, chosen: dict[str, Any], seed: int) -> list[Run]:
    """List the final runs over the seeds: of every algorithm's tuned setting, and of its default if asked.

    Of pictures that are cut into folds, the runs take the folds in turn.
    """
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
                    config = config.model_copy(update={"task": data.of_fold(space.task, k)})
                    is_copy = variant == "default" and values == tuned
                    copy_of = f"{algorithm}-tuned-seed{k}" if is_copy else None
                    planned.append(Run(f"{algorithm}-{variant}-seed{k}", config, copy_of))
    return planned


def train_all(
    folder: Path, planned: list[Run], objective: Objective, cluster: Cluster, watch: Watch
) -> list[Run]:
    """Train the final runs that are not finished, and return those that are to be tested: all, as a rule.

    One that fails leaves its error and stops no other. Once one has ended, the others may be left out.
    """
    final, finish = folder / files.FINAL, Finish(folder, watch.say)
    _set_aside(folder, planned, watch)
    trained = [run for run in planned if run.copy_of is None and _is_trained(final / run.name, objective)]
    ended, was_cut = [run.name for run in trained], False

    def is_cut() -> bool:
        nonlocal was_cut
        was_cut = was_cut or (bool(ended) and finish.is_cut(FINAL))
        return was_cut

    open_runs = [] if is_cut() else [run for run in planned if run.copy_of is None and run not in trained]
    watch.rows = FinalRows(folder, objective.metric, {run.name: run.config for run in planned})
    place = remote.canonical_url(folder)
    jobs = {run.name: (run.config.model_dump(mode="json"), place, run.name) for run in open_runs}
    watch.terminal.enter("final runs", len(trained) + len(jobs), len(trained))
    watch.say(f"training {len(jobs)} final runs of {planned[0].config.tasks} tasks")

    def done(name: str, result: tuple[float | None, str]) -> None:
        ended.append(name)
        remote.remove(final / name / files.ERROR)
        _tell(watch, name, result, f"[{len(ended) - len(trained)}/{len(jobs)}] ")

    def beside(running: list[str], n_ended: int) -> bool:
        return watch.beside(running, n_ended) and not is_cut()

    progress = functools.partial(_n_reports, final, watch)
    for name, error in run_all(train_one, jobs, cluster, done, progress, beside).items():
        files.write_text(final / name / files.ERROR, error)
        watch.say(f"{name} failed: {error.splitlines()[-1]} (see {final / name / files.ERROR})")
    remote.refresh(folder, skip=is_of_workers)
    return _with_copies(final, planned, objective if was_cut else None)


def _with_copies(final: Path, planned: list[Run], objective: Objective | None) -> list[Run]:
    """Copy what is trained once for two rows, and return what to test: with an objective, who is trained."""
    kept = []
    for run in planned:
        source = final / (run.copy_of or run.name)
        if objective is None or _is_trained(source, objective):
            kept.append(run)
            if source.exists() and not (final / run.name).exists():
                _copy(source, final / run.name)
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
            if runs.with_defaults(before["run"]) != runs.with_defaults(wanted):
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
        runs.train_run(
            run,
            splits,
            folder,
            device=device,
            damaged=damaged.append,
            traces=worker.traces(),
        )

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
    tested = {run.name: run.config.task for run in planned if (final / run.name / files.WEIGHTS).exists()}
    cuts = _cuts(space, splits)
    record = {**_record(folder, space, splits, _hash(cuts), [*tested]), "gpus": cluster.gpus}
    files.write_json(folder / files.META_TEST, record)
    _write_baseline(final, cuts)
    place = remote.canonical_url(folder)
    jobs = {
        name: (task.model_dump(mode="json"), place, name, n_tasks)
        for name, task in tested.items()
        if (before := records.recover(final / name / files.TEST, models.TEST, watch.say)) is None
        or before["tasks_hash"] != cuts[int(task.options["fold"]) if len(cuts) > 1 else 0][1].hash
    }
    watch.terminal.enter("meta-test", len(tested), len(tested) - len(jobs))
    of_each = " of each fold" if len(cuts) > 1 else ""
    watch.say(f"testing {len(jobs)} final runs on {n_tasks} meta-test tasks{of_each}")

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


Cuts = list[tuple[Splits, FrozenTasks]]
"""The data and the meta-test tasks of each fold, or of the one cut that there is."""


def _cuts(space: SearchSpace, splits: Splits) -> Cuts:
    n_tasks = space.budget.test_tasks
    return [
        (one, frozen.frozen(one, "meta_test", task, n_tasks, "test"))
        for task, one in data.cuts(space.task, splits)
    ]


def _hash(cuts: Cuts) -> str:
    """Return the hash of the tasks; of several folds, that of theirs."""
    hashes = [tasks.hash for _, tasks in cuts]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _write_baseline(final: Path, cuts: Cuts) -> None:
    """Score what learns nothing on the meta-test tasks: nearest mean, zero, or acting by chance."""
    kind, scores, pictures = cuts[0][0].kind, [], []
    for splits, tasks in cuts:
        images = splits.meta_test.images
        if kind == "classification":
            tested = evaluate.nearest_mean(images, tasks)
            scores += tested.score.tolist()
            pictures += [evaluate.by_picture(tested, tasks, splits.meta_test)] * splits.shares_classes
            continue
        (group,) = tasks.groups  # functions and environments have one shape
        if splits.environment is not None:
            drawn = frozen.gather(images, group.indices, group.shape)
            scores += rollouts.by_chance(splits.environment, drawn).tolist()
            continue
        y = frozen.gather(images, group.indices, group.shape).query.y  # [T, Q, 1]
        scores += y.square().mean((1, 2)).tolist()
    name = files.NEAREST_MEAN if kind == "classification" else files.ZERO
    baseline = {"protocol": PROTOCOL, "tasks_hash": _hash(cuts), OBJECTIVES[kind].metric: scores}
    files.write_json(final / name, {**baseline, **({"pictures": pictures} if pictures else {})})


def test_one(task: dict[str, Any], place: str, name: str, n_tasks: int) -> str:
    """Test one final run in a worker; return a note."""
    device = worker.prepare()
    folder = remote.work_in(place) / files.FINAL / name
    remote.refresh(folder)
    network = runs.read_config(folder).network
    splits = worker.splits(TaskConfig.model_validate(task), network, place)
    note = ""
    # Training has looked closely, at meta-validation; a board of many rows asks it of each once.
    test = functools.partial(runs.test_run, folder, splits, n_tasks, device, is_diagnosed=False)
    try:
        test(traces=worker.traces())
    except Damaged as error:
        runs.forget(folder)
        train_one(runs.read_config(folder).model_dump(mode="json"), place, name)
        test(traces=worker.traces())
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
        "tasks": space.budget.test_tasks * data.n_folds(space.task),
        "tasks_hash": tasks_hash,
        "times_opened": len(earlier) + 1,
        "runs": names,
        "code": files.code_hash(),
        **files.environment(),
    }
