"""What runs in a worker process: one trial, from its last state on, reporting at every rung."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from metabench import data, memory, runs, spaces, storage, store, train
from metabench.config import RunConfig, SearchSpace, TaskConfig
from metabench.core import Splits
from metabench.events import Events
from metabench.objectives import OBJECTIVES
from metabench.search import cluster
from metabench.search.borderline import Answers, Desk, look_again
from metabench.search.ledger import WORK


def prepare() -> str:
    """Keep to one thread and to a share of a GPU, as trials beside each other need; return the device."""
    torch.set_num_threads(1)
    cluster.settle()
    if not ray.get_gpu_ids():
        return "cpu"
    memory.cap(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))
    return "cuda"


def splits(task: TaskConfig) -> Splits:
    """Load a task's data once a process."""
    return _load(task.model_dump_json())


@functools.lru_cache(maxsize=1)
def _load(task: str) -> Splits:
    return data.load(TaskConfig.model_validate_json(task))


def run_trial(
    config: dict[str, Any], place: str, space: dict[str, Any], desk: Desk | Answers | None = None
) -> None:
    """Train one setting, telling Tune of every rung; Tune stops it from within `tune.report`.

    What was reported before a restart is reported again: the driver answers as it did then, so a rung that it
    never heard of is still judged, and none is judged twice. At the desk, where there is one, it asks whether
    to make a report again with more validation tasks.
    """
    device = prepare()
    whole_space = SearchSpace.model_validate(space)
    rungs = spaces.rungs(whole_space.budget)
    run = spaces.run_config(
        whole_space, config["algorithm"], config["hyperparameters"], config["seed"], rungs
    )
    folder = storage.work_in(place)
    work = folder / WORK / config["trial"]
    loaded = splits(run.task)
    state, reports = _resume(work, run, loaded, device)
    board = folder / store.TENSORBOARD / config["algorithm"] / config["trial"]
    events = Events(board, resume_step=0 if state is None else state.tasks_seen)
    events.hparams_run(_shown(whole_space, config), config["trial"])
    n_tasks = whole_space.budget.borderline_tasks or 0
    again = functools.partial(look_again, run, loaded, device, n_tasks)
    settle = functools.partial(_settle, desk, work, again)
    try:
        reports = [settle(line, state) for line in reports]
        if reports and not reports[-1]["finite"]:
            return
        training = train.train(run, loaded, device=device, state=state, listen=_listener(events))
        for report, new_state in training:
            # The state comes last: a report without its state is made again, a state without its report
            # would be a rung that nobody judges.
            line = store.plain(report._asdict())
            line["seconds"] += sum(before.get("borderline_seconds", 0.0) for before in reports)
            store.append_line(work / store.REPORTS, line)
            runs.write_report(events, report, OBJECTIVES[loaded.kind])
            train.save_state(work / store.STATE, new_state)
            events.flush()
            reports.append(settle(line, new_state))
    finally:
        events.close()
        storage.forget(work)


def _resume(
    work: Path, run: RunConfig, loaded: Splits, device: str
) -> tuple[train.State | None, list[dict[str, Any]]]:
    """Read the last state and the reports up to it; nothing is left of what came after it."""
    storage.refresh(work)
    if not (work / store.STATE / "state.safetensors").exists():
        storage.remove(work)
        return None, []
    state = train.load_state(work / store.STATE, run, loaded, device)
    reports = [
        line for line in store.read_lines(work / store.REPORTS) if line["tasks_seen"] <= state.tasks_seen
    ]
    store.write_lines(work / store.REPORTS, reports)
    return state, reports


def _shown(space: SearchSpace, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the space says of a trial; what its conditions exclude is left out."""
    values = config["hyperparameters"]
    given = spaces.parameters(space, config["algorithm"])
    active = [name for name, parameter in given.items() if spaces.is_active(parameter, values)]
    return {"algorithm": config["algorithm"], **{name: values[name] for name in active}}


def _listener(events: Events) -> Any:
    def listen(tasks_seen: int, means: Mapping[str, float]) -> None:
        events.scalars(tasks_seen, dict(means))

    return listen


def _settle(
    desk: Desk | Answers | None,
    work: Path,
    again: Callable[[train.State, dict[str, Any]], dict[str, Any]],
    line: dict[str, Any],
    state: train.State | None,
) -> dict[str, Any]:
    """Tell a report, and once more with more tasks where the driver wants them; return the last."""
    _tell(line)
    if desk is None or state is None or not desk.ask(work.name, line["tasks_seen"]):
        return line
    line = store.plain(again(state, line))
    store.write_lines(work / store.REPORTS, [*store.read_lines(work / store.REPORTS)[:-1], line])
    _tell(line)
    return line


def _tell(line: Mapping[str, Any]) -> None:
    # As text: Tune flattens nested metrics, and NaN has become null.
    tune.report({"tasks_seen": line["tasks_seen"], "report": json.dumps(line)})
