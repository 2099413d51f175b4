"""What runs in a worker process: one trial, from its last state on, reporting at every rung."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from metabench import __version__, data
from metabench.core import MetabenchError, OutOfOrder, Splits, device
from metabench.core.config import SearchSpace, TaskConfig
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import WORK
from metabench.search.ray import cluster
from metabench.search.ray.asha import NOTE, PROBLEM
from metabench.search.ray.reevaluation import Answers, Desk, look_again
from metabench.storage import files, remote
from metabench.storage.tensorboard import Events
from metabench.training import loop, resume
from metabench.training import run as runs

TRACE = "METABENCH_TRACE"
"""Variable that may name a file: each trial then tells there where it starts, and how far it is."""


def prepare() -> str:
    """Keep to one thread and to a share of a GPU, as trials beside each other need; return the device."""
    torch.set_num_threads(1)
    cluster.settle()
    if not ray.get_gpu_ids():
        return "cpu"
    device.cap(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))
    return "cuda"


def splits(task: TaskConfig, place: str) -> Splits:
    """Load a task's data once a process; raise OutOfOrder where they are not those of a search."""
    with of_this_node():
        loaded, record = _load(task.model_dump_json()), _record(place)
    here = {"data_fingerprint": loaded.fingerprint, "code": files.code_hash()}
    for key, found in here.items():
        if record[key] != found:
            root = os.environ.get("METABENCH_DATA", "")
            raise OutOfOrder(
                f"not the search's {key}: {found[:12]} there, {record[key][:12]} in {files.SEARCH}; "
                f"METABENCH_DATA={root!r} and metabench {__version__} there"
            )
    return loaded


@functools.lru_cache(maxsize=1)
def _load(task: str) -> Splits:
    return data.load(TaskConfig.model_validate_json(task))


@functools.lru_cache(maxsize=1)
def _record(place: str) -> dict[str, Any]:
    path = remote.work_in(place) / files.SEARCH
    record: dict[str, Any] = json.loads(remote.read(path) or b"null")
    if record is None:
        raise OutOfOrder(f"{path}: is not seen from there; give --out on a file system that all share")
    return record


@contextlib.contextmanager
def of_this_node() -> Iterator[None]:
    """Raise OutOfOrder for what this node lacks: its data, its disk, its way to the storage."""
    try:
        yield
    except (OSError, MetabenchError) as error:
        raise OutOfOrder(str(error)) from error


def run_trial(
    config: dict[str, Any], place: str, space: dict[str, Any], desk: Desk | Answers | None = None
) -> None:
    """Train one setting, telling Tune of every rung; Tune stops it from within `tune.report`.

    What was reported before a restart is reported again: the driver answers as it did then, so a rung that it
    never heard of is still judged, and none is judged twice. At the desk, where there is one, it asks whether
    to make a report again with more validation tasks.
    """
    try:
        _run(config, place, SearchSpace.model_validate(space), desk)
    except (OSError, OutOfOrder) as error:
        # Told, not raised: it is no failure of the trial, which may do better on another node.
        node = ray.get_runtime_context().get_node_id()
        tune.report({"tasks_seen": 0, PROBLEM: str(error), "node": node})


def _run(config: dict[str, Any], place: str, space: SearchSpace, desk: Desk | Answers | None) -> None:
    device = prepare()
    rungs = spaces.rungs(space.budget)
    run = spaces.run_config(space, config["algorithm"], config["hyperparameters"], config["seed"], rungs)
    loaded = splits(run.task, place)
    folder = remote.work_in(place)
    work = folder / WORK / config["trial"]
    remote.refresh(work)
    turn = resume.Turn(work)
    state, known, damaged = resume.resume(run, loaded, work, device)
    _trace(work.name, start=0 if state is None else state.tasks_seen, damaged=damaged)
    tell = _Teller(damaged, state)
    board = folder / files.TENSORBOARD / config["algorithm"] / config["trial"]
    events = Events(board, resume_step=0 if state is None else state.tasks_seen)
    events.hparams_run(_shown(space, config), config["trial"])
    again = functools.partial(look_again, run, loaded, device, space.budget.borderline_tasks or 0)
    settle = functools.partial(_settle, tell, desk, work, again)
    try:
        reports = [settle(line, state) for line in known]
        if reports and not reports[-1]["finite"]:
            return
        training = loop.train(run, loaded, device=device, state=state, listen=_listener(events, work.name))
        for report, new_state in training:
            turn.check()
            # The state comes last: a report without its state is made again, a state without its report
            # would be a rung that nobody judges.
            line = files.plain(report._asdict())
            line["seconds"] += sum(before.get("borderline_seconds", 0.0) for before in reports)
            files.append_line(work / files.REPORTS, line)
            runs.write_report(events, report, OBJECTIVES[loaded.kind])
            events.flush()
            loop.save_state(work / files.STATE, new_state)
            reports.append(settle(line, new_state))
    finally:
        events.close()
        remote.forget(work)


def _shown(space: SearchSpace, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the space says of a trial; what its conditions exclude is left out."""
    values = config["hyperparameters"]
    given = spaces.parameters(space, config["algorithm"])
    active = [name for name, parameter in given.items() if spaces.is_active(parameter, values)]
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


def _settle(
    tell: _Teller,
    desk: Desk | Answers | None,
    work: Path,
    again: Callable[[loop.State, dict[str, Any]], dict[str, Any]],
    line: dict[str, Any],
    state: loop.State | None,
) -> dict[str, Any]:
    """Tell a report, and once more with more tasks where the driver wants them; return the last."""
    tell(line)
    if desk is None or state is None or not desk.ask(work.name, line["tasks_seen"]):
        return line
    line = files.plain(again(state, line))
    files.write_lines(work / files.REPORTS, [*files.read_lines(work / files.REPORTS)[:-1], line])
    tell(line)
    return line


class _Teller:
    """Tells Tune of reports, and with the first one what was found damaged before it."""

    def __init__(self, damaged: Sequence[str], state: loop.State | None) -> None:
        start = "the beginning" if state is None else f"{state.tasks_seen} tasks"
        self.note = f"{'; '.join(damaged)}; trained again from {start}" if damaged else ""

    def __call__(self, line: Mapping[str, Any]) -> None:
        note = {NOTE: self.note} if self.note else {}
        self.note = ""
        # As text: Tune flattens nested metrics, and NaN has become null.
        tune.report({"tasks_seen": line["tasks_seen"], "report": json.dumps(line), **note})
