"""What each JSON file of a search or run folder holds: one model a kind.

A model has the keys that something reads; others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes no other on Python 3.11

from metabench.core.config import RunConfig, SearchSpace
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.core.metrics import METRICS
from metabench.storage import files, results
from metabench.storage.fields import (
    Moment,
    Name,
    Real,
    Settings,
    Time,
    Whole,
    keys,
)

Model = TypeAdapter[Any]


def as_text(config: Any) -> Any:
    """Write a configuration out, with the settings that there were not when it was recorded."""
    return config.model_dump(mode="json")


def as_recorded(space: Any) -> Any:
    """Say of a search that was recorded without a word on it who went on: `asha` was the only rule then."""
    if isinstance(space, dict) and isinstance(budget := space.get("budget"), dict):
        return {**space, "budget": {"scheduler": "asha", **budget}}
    return space


def _is_judged(report: Any) -> Any:
    if report["finite"] and report["val_score"] is None:
        raise ValueError("finite is true and val_score is not there")
    return report


@keys
class _Reported(TypedDict):
    val_accuracy: NotRequired[Real | None]
    val_error: NotRequired[Real | None]
    val_return: NotRequired[Real | None]
    val_ci: NotRequired[Real | None]
    val_loss: NotRequired[Real | None]
    val_scores: NotRequired[list[Real | None]]
    val_tasks: NotRequired[Whole]
    borderline_score: NotRequired[Real | None]
    borderline_seconds: NotRequired[Time]
    train_accuracy: NotRequired[Real | None]
    train_loss: NotRequired[Real | None]
    peak_memory: NotRequired[Whole]
    gpus: NotRequired[Time | None]
    logs: NotRequired[dict[str, Real | None]]


@keys
class _Report(_Reported):
    tasks_seen: Whole
    finite: bool
    val_score: Real | None
    seconds: Time


Report = Annotated[_Report, AfterValidator(_is_judged)]


def spent(reports: Sequence[Mapping[str, Any]], unit: str) -> float:
    """Return what a training has taken up to the last of its reports: seconds, or steps in environments.

    A report that does not count steps says nothing of them.
    """
    if unit == "seconds":
        return float(reports[-1]["seconds"]) if reports else 0.0
    counts = ((report.get("logs") or {}).get(ENVIRONMENT_STEPS) for report in reversed(reports))
    return float(next(filter(None, counts), 0.0))


@keys
class _Basis(TypedDict):
    doubtful: NotRequired[bool]
    margin: NotRequired[Real | None]
    cutoff: NotRequired[Real | None]
    paired_se: NotRequired[Real | None]
    tasks: NotRequired[Whole | None]
    rung: NotRequired[Whole | None]
    rank: NotRequired[Whole | None]
    arrived: NotRequired[Whole | None]
    against: NotRequired[str | None]
    expected: NotRequired[Real | None]
    promise: NotRequired[Real | None]


Decision = Literal["continue", "wait", "complete", "pruned", "diverged"]
Status = Literal["complete", "pruned", "diverged", "failed", "infeasible"]


@keys
class _Trial(_Reported):
    trial: Name
    algorithm: str
    status: Status
    hyperparameters: Settings
    sampled: NotRequired[Settings]
    is_default: bool
    seed: NotRequired[int]
    parameters: NotRequired[Whole]
    tasks_seen: Whole
    seconds: Time
    reports: NotRequired[list[Report]]
    checkpoint: NotRequired[str | None]
    error: NotRequired[str | None]


@keys
class _Proposed(TypedDict):
    event: Literal["proposed"]
    trial: Name
    algorithm: str
    number: Whole
    sampled: Settings
    hyperparameters: Settings
    is_default: bool
    seed: int
    parameters: NotRequired[Whole]
    infeasible: NotRequired[str]


@keys
class _Arrived(TypedDict):
    event: Literal["report"]
    trial: Name
    report: Report
    decision: Decision
    basis: NotRequired[_Basis]


@keys
class _Doubted(TypedDict):
    event: Literal["doubted"]
    trial: Name
    tasks_seen: Whole
    arrived: Whole
    basis: NotRequired[_Basis]


@keys
class _Settled(TypedDict):
    event: Literal["settled", "resumed"]
    trial: Name
    tasks_seen: Whole
    decision: Decision
    basis: NotRequired[_Basis]


@keys
class _Failed(TypedDict):
    event: Literal["failed"]
    trial: Name
    error: str


Event = Annotated[_Proposed | _Arrived | _Doubted | _Settled | _Failed, Field(discriminator="event")]


@keys
class _Earlier(TypedDict):
    trial: NotRequired[str]
    sampled: Settings
    scores: Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,15}$")], Real], Field(min_length=1)]


@keys
class _Metric(TypedDict):
    name: Literal[tuple(METRICS)]  # type: ignore[valid-type]


@keys
class _Timing(TypedDict):
    """What a search within a time was chosen by."""

    busy: Time  # how many times as long as on an idle machine choosing took
    seconds: Time
    paces: dict[
        str, Annotated[list[Time], Field(min_length=2, max_length=2)]
    ]  # seconds a task of training and of evaluation, by algorithm


@keys
class _Recorded(TypedDict):
    protocol: int
    data_fingerprint: str
    network_digest: NotRequired[str]  # of a torch module: its weights and how it is made
    metric: NotRequired[_Metric]
    version: NotRequired[str]
    code: NotRequired[str]
    commit: NotRequired[str | None]


@keys
class _Finish(TypedDict):
    stage: Literal["search", "final runs"]


@keys
class _Search(_Recorded):
    seed: NotRequired[int]
    space: Annotated[SearchSpace, BeforeValidator(as_recorded), AfterValidator(as_text)]
    created: NotRequired[Moment]
    warm_start: NotRequired[str | None]
    known: NotRequired[dict[str, list[_Earlier]]]
    planned: NotRequired[dict[str, Whole]]  # trials, by algorithm
    timing: NotRequired[_Timing]
    outside: NotRequired[list[str]]  # trials whose settings the space has no longer
    changes: NotRequired[list[dict[str, Any]]]
    finish: NotRequired[list[_Finish]]


@keys
class _Run(_Recorded):
    run: Annotated[RunConfig, AfterValidator(as_text)]


@keys
class _Node(TypedDict):
    address: str
    cpus: Time
    gpus: Time


@keys
class _Running(_Reported):
    algorithm: str
    tasks_seen: NotRequired[Whole]
    finite: NotRequired[bool]
    val_score: NotRequired[Real | None]
    seconds: NotRequired[Time]
    hyperparameters: NotRequired[Settings]


@keys
class _Leader(TypedDict):
    trial: Name
    hourly_gain: Real | None


@keys
class _Snapshot(TypedDict):
    updated: NotRequired[Moment]
    stage: NotRequired[str]
    elapsed: NotRequired[Time]
    until: NotRequired[Moment | None]
    phases: NotRequired[dict[str, dict[str, Whole | Time]]]
    workers: NotRequired[list[dict[str, str | Whole | Time]]]
    slots: NotRequired[Whole | None]
    nodes: NotRequired[list[_Node]]
    trials: dict[str, _Running]
    leaders: NotRequired[dict[str, _Leader]]


@keys
class _Chosen(TypedDict):
    trial: Name
    hyperparameters: Settings
    is_default: NotRequired[bool]
    val_accuracy: NotRequired[Real | None]
    val_error: NotRequired[Real | None]
    val_return: NotRequired[Real | None]
    confirm_accuracy: NotRequired[Real | None]
    confirm_error: NotRequired[Real | None]
    confirm_return: NotRequired[Real | None]


@keys
class _Opened(TypedDict):
    finished: Moment | None
    opened: NotRequired[Moment]
    config_hash: str
    times_opened: Whole
    gpus: NotRequired[Time | None]


@keys
class _Pictures(TypedDict):
    background: Literal["white", "black"]
    black: Real
    white: Real
    has_scaled_bytes: bool
    resize: Literal["box", "nearest", "bilinear", "hamming", "bicubic", "lanczos"]
    is_inverted: bool


@keys
class _Rows(TypedDict):
    names: list[str]
    mean: list[Real]
    scale: list[Real]


@keys
class _Inputs(TypedDict):
    data: str
    kind: Literal["classification", "regression", "control"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(min_length=1, max_length=3)]
    n_classes: Whole
    pictures: _Pictures | None
    picture_shape: NotRequired[list[Whole]]
    backbone: NotRequired[str]
    has_group: NotRequired[bool]
    rows: NotRequired[_Rows]
    shared: NotRequired[list[str]]


SEARCH: Model = TypeAdapter(_Search)
RUN: Model = TypeAdapter(_Run)
REPORT: Model = TypeAdapter(Report)
TRIAL: Model = TypeAdapter(_Trial)
EVENT: Model = TypeAdapter(Event)
SNAPSHOT: Model = TypeAdapter(_Snapshot)
FINISH: Model = TypeAdapter(_Finish)
CHOSEN: Model = TypeAdapter(dict[str, _Chosen | None])
CONFIRMED: Model = TypeAdapter(results.Confirmed)
META_TEST: Model = TypeAdapter(_Opened)
BASELINE: Model = TypeAdapter(results.Baseline)
TEST: Model = TypeAdapter(results.Test)
DIAGNOSIS: Model = TypeAdapter(results.Diagnosis)
INPUTS: Model = TypeAdapter(_Inputs)
ORIGIN: Model = TypeAdapter(dict[str, Any])
ANYTHING: Model = TypeAdapter(Any)

BY_NAME = {
    files.CHOSEN: CHOSEN,
    files.TRIALS: TRIAL,
    files.CONFIG: RUN,
    files.REPORTS: REPORT,
    files.TEST: TEST,
    files.DIAGNOSTICS: DIAGNOSIS,
    files.INPUTS: INPUTS,
    files.NEAREST_MEAN: BASELINE,
    files.ZERO: BASELINE,
}
"""Models of the files that a board rests on, and of the runs that it is of."""
