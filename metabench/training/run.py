"""The run folder: training into it, resuming from it, reopening its weights, and the one meta-test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metabench import PROTOCOL, __version__, algorithms, nets, stats
from metabench.core import MetabenchError, Objective, Report, Splits, trees, utc_now
from metabench.core import device as memory
from metabench.core.config import RunConfig, attempt, refusal, validated
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import frozen, sampling
from metabench.storage import files, models, records, remote, tensors
from metabench.storage.files import Damaged
from metabench.storage.tensorboard import INNER_RATES, Events, inner_rates
from metabench.training import (
    calibration,
    diagnostics,
    inputs,
    loop,
    mosaic,
    others,
    resume,
    testing,
)
from metabench.training.graphs.trace import TraceCache
from metabench.training.inputs import Inputs
from metabench.training.vectorise import Model


class Run(NamedTuple):
    """A finished or running run, with the weights of its best meta-validation report."""

    config: RunConfig
    model: Model
    record: Mapping[str, Any]  # tasks seen and meta-validation accuracy or error of those weights


def config_hash(config: RunConfig) -> str:
    """Hash everything that a run's numbers depend on, by its configuration."""
    return hashlib.sha256(json.dumps(config.model_dump(), sort_keys=True).encode()).hexdigest()


def is_finished(folder: Path) -> bool:
    """Tell whether a run reached its budget, or diverged; reports that are damaged are made again."""
    try:
        reports = records.lines(folder / files.REPORTS, models.REPORT)
    except Damaged:
        return False
    if not reports or files.is_missing(folder / files.CONFIG):
        return False
    budget = records.read(folder / files.CONFIG, models.RUN)["run"]["tasks"]
    return reports[-1]["tasks_seen"] >= budget or not reports[-1]["finite"]


def train_run(
    config: RunConfig,
    splits: Splits,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: loop.Listener = lambda tasks_seen, means: None,
    reported: Callable[[Report], None] = lambda report: None,
    tensorboard: Path | None = None,
    damaged: Callable[[str], None] = lambda problem: None,
    traces: TraceCache | None = None,
) -> None:
    """Train into a folder; continue where an interrupted run of the same configuration stopped.

    Args:
        progress: called with tasks seen and running means, about fifty times a run.
        reported: called with each Report once it is on disk.
        tensorboard: folder of the event files; `tb` in the run folder where it is not given.
        damaged: called with each file that is not what was written, and that is trained again.
        traces: of earlier runs in this process, whatever they were.
    """
    claim(config, splits, folder)
    board = tensorboard or folder / files.TENSORBOARD
    if not is_finished(folder):
        _train(config, splits, folder, board, device, progress, reported, damaged, traces)
    if (folder / files.WEIGHTS).exists() and not (folder / files.DIAGNOSTICS).exists():
        _diagnose(splits, folder, board, device, traces)
    if (folder / files.WEIGHTS).exists() and splits.kind == "classification":
        _calibrate(splits, folder, device, damaged)


def _train(
    config: RunConfig,
    splits: Splits,
    folder: Path,
    board: Path,
    device: torch.device | str,
    progress: loop.Listener,
    reported: Callable[[Report], None],
    damaged: Callable[[str], None],
    traces: TraceCache | None,
) -> None:
    token = resume.FencingToken(folder)
    state, kept, damages = resume.resume(config, splits, folder, device)
    for damage in damages:
        damaged(damage)
    best = max((line["val_score"] for line in kept if line["finite"]), default=-math.inf)
    objective, metric = OBJECTIVES[splits.kind], OBJECTIVES[splits.kind].metric
    events = Events(board, resume_step=0 if state is None else state.tasks_seen)

    def listen(tasks_seen: int, means: Mapping[str, float]) -> None:
        events.scalars(tasks_seen, dict(means))
        progress(tasks_seen, means)

    try:
        for report, new_state in loop.train(
            config, splits, device=device, state=state, listen=listen, traces=traces
        ):
            token.check()
            if report.finite and report.val_score > best:
                best = report.val_score
                record = {"tasks_seen": str(report.tasks_seen), f"val_{metric}": repr(metric.sign * best)}
                learnt = {"meta": new_state.meta, "buffers": new_state.buffers}
                tensors.save(folder / files.WEIGHTS, learnt, record)
            files.append_line(folder / files.REPORTS, report._asdict())
            write_report(events, report, objective)
            events.flush()
            loop.save_state(folder / files.STATE, new_state)
            reported(report)
    finally:
        events.close()


def forget(folder: Path) -> None:
    """Remove what a run has learnt, so that it is trained anew."""
    for name in (files.REPORTS, files.STATE, files.WEIGHTS, files.DIAGNOSTICS, files.CALIBRATION):
        remote.remove(folder / name)


def _diagnose(
    splits: Splits, folder: Path, board: Path, device: torch.device | str, traces: TraceCache | None
) -> None:
    """Look closely at the kept weights on meta-validation; TensorBoard shows it over inner steps."""
    run = open_run(folder, splits, device)
    tasks = frozen.frozen(splits, "meta_validation", run.config.task, diagnostics.TASKS, "search")
    split = splits.meta_validation._replace(images=splits.meta_validation.images.to(device))
    diagnosis = diagnostics.diagnose(run.model, split.images, tasks, traces)
    events = Events(board)  # whose tags are no others: their steps are inner steps
    for step, values in diagnostics.scalars(diagnosis, run.model.net.objective.metric):
        events.scalars(step, values)
    if split.has_pictures or split.pictures is not None:
        mosaic.show(events, run.model, split, tasks)
    events.close()
    files.write_json(folder / files.DIAGNOSTICS, diagnosis)


def _calibrate(
    splits: Splits, folder: Path, device: torch.device | str, damaged: Callable[[str], None]
) -> None:
    """Keep how sure the kept weights are on meta-validation, unless that is there."""
    if files.recover(folder / files.CALIBRATION, damaged, lambda _: calibration.read(folder)) is None:
        run = open_run(folder, splits, device)
        calibration.write(folder, run.model, splits, run.config.task, device)


def write_report(events: Events, report: Report, objective: Objective) -> None:
    """Show a report in TensorBoard: its figures, and how the learned inner rates are spread."""
    figure, prefix = objective.metric.sign * report.val_score, "meta_validation"
    low, high = stats.bounds(figure, report.val_ci, objective.metric.scale)
    shown = {
        f"{prefix}/{objective.metric}": figure,
        f"{prefix}/{objective.metric}/low": low,
        f"{prefix}/{objective.metric}/high": high,
        f"{prefix}/loss": report.val_loss,
        **{name: value for name, value in report.logs.items() if name.startswith(prefix)},
        "system/seconds": report.seconds,
        "system/peak_memory_bytes": report.peak_memory,
    }
    events.scalars(report.tasks_seen, shown)
    if len(rates := inner_rates(report.logs)) > 1:
        events.histogram(report.tasks_seen, INNER_RATES, rates)


def claim(config: RunConfig, splits: Splits, folder: Path) -> None:
    """Describe a new run in its folder, or check that the folder holds this very run."""
    path = folder / files.CONFIG
    if (before := records.optional(path, models.RUN)) is not None:
        wanted = with_defaults(json.loads(json.dumps(config.model_dump())))
        recorded = with_defaults(before["run"])
        different = [key for key, value in wanted.items() if recorded.get(key) != value]
        if before["data_fingerprint"] != splits.fingerprint:
            different.append("data_fingerprint")
        if before.get("network_digest", "") != nets.digest(config.network):
            different.append("network_digest: other weights, or another module by that name")
        if different:
            raise MetabenchError(
                f"{folder}: holds a run with other settings ({', '.join(different)}); choose another folder"
            )
        inputs.write(folder, splits)
        return
    files.check_writable(folder)
    inputs.write(folder, splits)
    record = {"protocol": PROTOCOL, "version": __version__, "run": config.model_dump()}
    record["metric"] = OBJECTIVES[splits.kind].metric._asdict()
    record |= {"config_hash": config_hash(config), "data_fingerprint": splits.fingerprint}
    if digest := nets.digest(config.network):
        record["network_digest"] = digest
    files.write_json(path, record | files.environment())


def with_defaults(run: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a recorded run with the settings that its algorithm got since, which mean their default."""
    if not algorithms.is_known(run["algorithm"]):
        return dict(run)
    fields = dataclasses.fields(algorithms.get(run["algorithm"]).hparams)
    defaults = {one.name: one.default for one in fields if one.default is not dataclasses.MISSING}
    return {**run, "hyperparameters": {**defaults, **run["hyperparameters"]}}


def open_run(folder: Path, splits: Splits, device: torch.device | str = "cpu") -> Run:
    """Rebuild the learner of a run folder with the weights of its best meta-validation report."""
    others.refuse_backbone(folder, splits)
    run = open_weights(folder, inputs.of(splits), device)
    if torch.device(device).type != "cpu":
        images = splits.meta_train.images.to(device)
        config, part = run.config, splits.meta_train._replace(images=images)
        source = sampling.training_pool(part, config.task, config.seed)
        loop.check_kernels(config, run.model, source)
    return run


def open_weights(folder: Path, about: Inputs, device: torch.device | str = "cpu") -> Run:
    """Do the same without the data, of which no more is asked than `inputs.read` knows."""
    config = read_config(folder)
    if not (folder / files.WEIGHTS).exists():
        raise MetabenchError(
            f"{folder}: has no {files.WEIGHTS}: it was stopped before its first report, or diverged; the "
            "command that trains it goes on, or take another run"
        )
    learner = loop.build_for(_with_constants(config, folder), about)
    fresh = loop.model(learner, loop.start(config, learner, device))
    flat, record = tensors.load(folder / files.WEIGHTS, device)
    if _shapes(fresh) != {name: leaf.shape for name, leaf in flat.items()}:
        raise Damaged(folder / files.WEIGHTS, f"are of another network than {files.CONFIG} describes")
    model = fresh._replace(**trees.fill({"meta": fresh.meta, "buffers": fresh.buffers}, flat))
    return Run(config, model, {key: float(value) for key, value in record.items()})


def _with_constants(config: RunConfig, folder: Path) -> RunConfig:
    """Describe a run by what its own weights do not hold, which must be the very same."""
    network = config.network
    if nets.is_all_learnt(network):
        return config.model_copy(update={"network": network.model_copy(update={"weights": None})})
    expected = records.read(folder / files.CONFIG, models.RUN).get("network_digest", "")
    if network.freeze != "all" and nets.digest(network) != expected:
        raise MetabenchError(
            f"{folder}: network.weights={network.weights!r}: others than it was trained with; put those back"
        )
    return config


def _shapes(model: Model) -> dict[str, torch.Size]:
    """Return the shapes of what a model has learnt."""
    return {name: leaf.shape for name, leaf in trees.items({"meta": model.meta, "buffers": model.buffers})}


def read_config(place: Path) -> RunConfig:
    """Read the configuration of a run from its folder, or from a file of its own."""
    path = place if place.is_file() else place / files.CONFIG
    if files.is_missing(path):
        raise MetabenchError(
            f"{place}: is no run folder (no {files.CONFIG}); give one that `metabench train` made"
        )
    record = files.read_json(path)  # which a person may have written
    if not isinstance(record, dict) or not {"protocol", "run"} <= record.keys():
        raise MetabenchError(f"{path}: does not describe a run; give one that `metabench train` made")
    if record["protocol"] != PROTOCOL:
        raise MetabenchError(f"{place}: was made under protocol {record['protocol']}; this is {PROTOCOL}")
    wrong: list[str] = []
    if (config := attempt(wrong, validated, RunConfig, record["run"])) is None:
        raise refusal(path, wrong)
    filled = with_defaults(config.model_dump())["hyperparameters"]
    return config.model_copy(update={"hyperparameters": filled})


def test_run(
    folder: Path,
    splits: Splits,
    n_tasks: int,
    device: torch.device | str = "cpu",
    tasks: frozen.FrozenTasks | None = None,
    other: Splits | None = None,
    traces: TraceCache | None = None,
    is_diagnosed: bool = True,
) -> dict[str, Any]:
    """Score a run on frozen meta-test tasks and record that the split was opened, and how often.

    Args:
        n_tasks: how many of the run's own kind, where no others are given.
        tasks: others, of the data that are tested on; of more ways than the run was trained for only where
            its weights do not depend on their number.
        other: data to be tested on, in place of the run's own.
        traces: of earlier runs in this process, whatever they were.
        is_diagnosed: look closely at these tasks, too, as training has at those of meta-validation.

    What is not the run's own test stands in a file of its own, named by the data and the tasks' hash.
    """
    memory.raise_malloc_thresholds()
    run = open_run(folder, splits, device)
    tested = other or splits
    _refuse_others(folder, splits, tested)
    is_own = _is_own_test(run.config, tasks, splits, tested)
    tasks = tasks or frozen.frozen(tested, "meta_test", run.config.task, n_tasks, "test")
    tested = _on(device, others.as_trained(splits, tested))
    most = max(group.shape.n_labels for group in tasks.groups)
    model = for_ways(folder, run, inputs.of(splits), most)
    run = run._replace(model=model._replace(net=model.net._replace(environment=tested.environment)))
    result = opened(folder, splits, tested)
    result |= testing.scored(run.model, run.config, splits, tested, tasks, calibration.of([folder]))
    if is_diagnosed:
        result["diagnostics"] = diagnostics.diagnose(run.model, tested.meta_test.images, tasks, traces)
    result |= {"config_hash": config_hash(run.config), "weights": dict(run.record)}
    files.write_json(folder / (files.TEST if is_own else _result_name(tasks, splits, tested)), result)
    return result


def _on(device: torch.device | str, splits: Splits) -> Splits:
    """Move what is tested to a device."""
    return splits._replace(meta_test=splits.meta_test._replace(images=splits.meta_test.images.to(device)))


def opened(folder: Path, splits: Splits, tested: Splits) -> dict[str, Any]:
    """Describe the opening of data's meta-test: which, when, for what time, and by which code."""
    before = [_read_opening(path) for path in folder.glob("test*.json")]
    before += files.read_lines(folder / files.LABELLED)
    same = [one for one in before if one.get("data_fingerprint", splits.fingerprint) == tested.fingerprint]
    return {
        "protocol": PROTOCOL,
        "data": tested.name,
        "data_fingerprint": tested.fingerprint,
        "opened": utc_now().isoformat(timespec="seconds"),
        "times_opened": max((one["times_opened"] for one in same), default=0) + 1,
        "code": files.code_hash(),
        **files.environment(),
    }


def _is_own_test(config: RunConfig, tasks: frozen.FrozenTasks | None, splits: Splits, tested: Splits) -> bool:
    """Tell whether tasks, or those of the run where there are none, are what its test is of."""
    if tasks is None or tested.fingerprint != splits.fingerprint:
        return tested.fingerprint == splits.fingerprint
    n_tasks = sum(len(group.positions) for group in tasks.groups)
    return tasks.hash == frozen.frozen(tested, "meta_test", config.task, n_tasks, "test").hash


def _result_name(tasks: frozen.FrozenTasks, splits: Splits, tested: Splits) -> str:
    """Name the file of a result that is not of the run's own test."""
    is_other = tested.fingerprint != splits.fingerprint
    of_data = f"{tested.name.replace('/', '-')}-" if is_other else ""
    return f"test-{of_data}{tasks.hash[:12]}.json"


def _refuse_others(folder: Path, splits: Splits, tested: Splits) -> None:
    """Refuse data that are not the run's own, and others that it cannot be tested on."""
    refuse_other_data(folder, splits)
    others.refuse_shape(folder, splits, tested)
    if read_config(folder).task.labels == "fixed":
        others.refuse_labels(folder, splits, tested)
    others.refuse_backbone(folder, tested)


def for_ways(folder: Path, run: Run, about: Inputs, most: int) -> Model:
    """Return a run's learner for so many ways; refuse it where its weights are of fewer."""
    model = run.model
    if most <= model.net.outputs:  # a function has one way and one output
        return model
    config = run.config.model_copy(update={"task": run.config.task.model_copy(update={"way": most})})
    learner = loop.build_for(config, about)
    if _shapes(loop.model(learner, loop.start(config, learner))) == _shapes(model):
        return model._replace(net=learner.net)
    raise MetabenchError(
        f"{folder}: was trained for {model.net.outputs} ways, here are up to {most}, and its weights hold "
        f"outputs for each way; take at most {model.net.outputs} classes, train with `way` {most}, or take a "
        "learner that compares with prototypes"
    )


def _read_opening(path: Path) -> dict[str, Any]:
    """Read an earlier result; one that is damaged was opened all the same."""
    try:
        return dict(records.read(path, models.TEST))
    except Damaged:
        return {"times_opened": 1}


def refuse_other_data(place: Path, splits: Splits) -> None:
    """Refuse data that are not those of a run, which is named as for `read_config`."""
    expected = files.read_json(place if place.is_file() else place / files.CONFIG).get("data_fingerprint")
    if expected not in (None, splits.fingerprint):
        raise MetabenchError(
            f"{place}: was trained on other data (fingerprint {str(expected)[:12]}, here "
            f"{splits.fingerprint[:12]}); point METABENCH_DATA at the data it was trained on"
        )
