"""What runs in a worker process: one trial, from its last state on, reporting at every rung."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from metabench import __version__, data
from metabench.core import MetabenchError, OutOfOrder, Splits, device, out_of_memory
from metabench.core.config import NetworkConfig, SearchSpace, TaskConfig
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import WORK
from metabench.search.ray import cluster
from metabench.search.ray.reevaluation import Answers, ReevaluationActor, reevaluate
from metabench.search.ray.scheduler import FATAL, NOTE, PROBLEM
from metabench.storage import files, models, records, remote
from metabench.storage.tensorboard import Events
from metabench.training import features, loop, resume
from metabench.training import run as runs
from metabench.training.graphs.trace import TraceCache

TRACE = "METABENCH_TRACE"
"""Variable that may name a file: each trial then tells there where it starts, and how far it is."""


def prepare() -> str:
    """Keep to one thread and to a share of a GPU, as trials beside each other need; return the device."""
    torch.set_num_threads(1)
    cluster.adopt_driver_folders()
    if not ray.get_gpu_ids():
        return "cpu"
    device.cap(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))
    return "cuda"


def splits(task: TaskConfig, network: NetworkConfig, place: str) -> Splits:
    """Load a task's data once a process; raise OutOfOrder where they are not those of a search."""
    try:
        loaded, record = _load(task.model_dump_json(), features.source(network)), _record(place)
    except (OSError, MetabenchError) as error:  # what this node lacks: its data, its disk, the storage
        raise OutOfOrder(str(error)) from error
    searched = data.of_fold(task, record["space"]["task"]["options"].get("fold", 0))
    here = {"data_fingerprint": _fingerprint(searched.model_dump_json()), "code": files.code_hash()}
    for key, value in here.items():
        if record[key] != value:
            root = os.environ.get("METABENCH_DATA", "")
            raise OutOfOrder(
                f"not the search's {key}: {value[:12]} there, {record[key][:12]} in {files.SEARCH}; "
                f"METABENCH_DATA={root!r} and metabench {__version__} there"
            )
    return loaded


@functools.cache
def traces() -> TraceCache:
    """Return what this process has recorded, in earlier trials too."""
    return TraceCache()


@functools.lru_cache(maxsize=2)
def _load(task: str, network: str | None) -> Splits:
    if network is None:
        return data.load(TaskConfig.model_validate_json(task))
    described = TaskConfig.model_validate_json(task)
    return features.embedded(_load(task, None), described, NetworkConfig.model_validate_json(network))


@functools.lru_cache(maxsize=1)
def _fingerprint(task: str) -> str:
    return _load(task, None).fingerprint


@functools.lru_cache(maxsize=1)
def _record(place: str) -> dict[str, Any]:
    path = remote.work_in(place) / files.SEARCH
    record: dict[str, Any] = json.loads(remote.read(path) or b"null")
    if record is None:
        raise OutOfOrder(f"{path}: is not seen from there; choose a folder on a file system that all share")
    return record


def run_trial(
    config: dict[str, Any],
    place: str,
    space: dict[str, Any],
    reevaluation: ReevaluationActor | Answers | None = None,
) -> None:
    """Train one setting, telling Tune of every rung; Tune stops it from within `tune.report`.

    What was reported before a restart is reported again: the driver answers as it did then, so a rung that it
    never heard of is still judged, and none is judged twice. With `reevaluation` it asks there whether to
    make a report again with more validation tasks.
    """
    try:
        _run(config, place, SearchSpace.model_validate(space), reevaluation)
    except (OSError, OutOfOrder) as error:
        # Reported, not raised: it is no failure of the trial, which may do better on another node.
        node = ray.get_runtime_context().get_node_id()
        tune.report({"tasks_seen": 0, PROBLEM: str(error), "node": node})
    except (MetabenchError, MemoryError, RuntimeError) as error:
        # Of our errors the plain one says that the settings make no trial; the others pass.
        reason = str(error) if type(error) is MetabenchError else out_of_memory(error)
        if not reason:
            raise
        tune.report({"tasks_seen": 0, FATAL: reason})


def _run(
    config: dict[str, Any], place: str, space: SearchSpace, reevaluation: ReevaluationActor | Answers | None
) -> None:
    device, rungs = prepare(), spaces.rungs(space.budget)
    run = spaces.run_config(space, config["algorithm"], config["hyperparameters"], config["seed"], rungs)
    loaded, folder = splits(run.task, run.network, place), remote.work_in(place)
    work = folder / WORK / config["trial"]
    remote.refresh(work)
    token = resume.FencingToken(work)
    state, earlier, damaged = resume.resume(run, loaded, work, device)
    start = 0 if state is None else state.tasks_seen
    _trace(work.name, start=start, damaged=damaged)
    events = Events(folder / files.TENSORBOARD / config["algorithm"] / config["trial"], resume_step=start)
    events.hparams_run(_searched_settings(space, config), config["trial"])
    origin = f"{start} tasks" if start else "the beginning"
    note = f"{'; '.join(damaged)}; trained again from {origin}" if damaged else ""
    again = functools.partial(reevaluate, run, loaded, device, space.budget.borderline_tasks or 0, traces())
    reporter = _Reporter(work, reevaluation, again, note)
    try:
        reports = [reporter.report(line, state) for line in earlier]
        if reports and not reports[-1]["finite"]:
            return
        listen = _listener(events, work.name)
        for report, new_state in loop.train(
            run, loaded, device=device, state=state, listen=listen, traces=traces()
        ):
            token.check()
            # The state comes last: a report without its state is made again, a state without its report
            # would be a rung that nobody judges.
            line = files.plain(report._asdict())
            line["seconds"] += sum(before.get("borderline_seconds", 0.0) for before in reports)
            files.append_line(work / files.REPORTS, line)
            runs.write_report(events, report, OBJECTIVES[loaded.kind])
            events.flush()
            loop.save_state(work / files.STATE, new_state)
            reports.append(reporter.report(line, new_state))
    finally:
        events.close()
        if token.is_valid():  # else another worker of this machine may go on there
            remote.evict(work)


def _searched_settings(space: SearchSpace, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the space says of a trial; what its conditions exclude is left out."""
    its = spaces.of(space, config["algorithm"])
    values = {**its.defaults, **config["hyperparameters"]}
    active = [name for name, parameter in its.parameters.items() if spaces.is_active(parameter, values)]
    return {"algorithm": config["algorithm"], **{name: values[name] for name in active}}


def _listener(events: Events, trial: str) -> Any:
    def listen(tasks_seen: int, means: Mapping[str, float]) -> None:
        events.scalars(tasks_seen, dict(means))
        _trace(trial, at=tasks_seen)

    return listen


def _trace(trial: str, **what: Any) -> None:
    path = os.environ.get(TRACE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial, "pid": os.getpid(), "time": time.time(), **what}) + "\n")


@dataclasses.dataclass
class _Reporter:
    """Reports to Tune, and makes a report again with more validation tasks where the driver wants them."""

    work: Path
    reevaluation: ReevaluationActor | Answers | None
    again: Callable[[loop.State, dict[str, Any]], dict[str, Any]]
    note: str  # goes with the first report

    def report(self, line: dict[str, Any], state: loop.State | None) -> dict[str, Any]:
        """Report once, or twice; return the last report."""
        self._send(line)
        if self.reevaluation is None or state is None:
            return line
        if not self.reevaluation.ask(self.work.name, line["tasks_seen"]):
            return line
        line = files.plain(self.again(state, line))
        path = self.work / files.REPORTS
        files.write_lines(path, [*records.lines(path, models.REPORT)[:-1], line])
        self._send(line)
        return line

    def _send(self, line: Mapping[str, Any]) -> None:
        note = {NOTE: self.note} if self.note else {}
        self.note = ""
        # As text: Tune flattens nested metrics, and NaN has become null.
        tune.report({"tasks_seen": line["tasks_seen"], "report": json.dumps(line), **note})
