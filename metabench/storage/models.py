"""What each JSON file of a search or run folder holds: one model a kind.

A model has the keys that something reads; others stay as they are.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic takes no other on Python 3.11

from metabench.core.config import RunConfig, Scalar, SearchSpace
from metabench.core.metrics import METRICS
from metabench.storage import files

Model = TypeAdapter[Any]


def _moment(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("must be a time with its zone")
    return text


def as_text(config: Any) -> Any:
    """Write a configuration out, with the settings that there were not when it was recorded."""
    return config.model_dump(mode="json")


keys = with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))

Whole = Annotated[int, Field(ge=0, le=2**53)]
Time = Annotated[float, Field(ge=0, le=1e15)]
Real = Annotated[float, Field(ge=-1e300, le=1e300)]
Figures = Annotated[list[Real | None], Field(min_length=1)]
Moment = Annotated[str, AfterValidator(_moment)]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=200)]
"""Of a trial, which names a folder."""
Settings = dict[str, Scalar]
ClassRows = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]
"""The classes of a task, by their rows in the split."""


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
    price: NotRequired[Real | None]


Decision = Literal["continue", "wait", "complete", "pruned", "diverged"]
Status = Literal["complete", "pruned", "diverged", "failed"]


@keys
class _Trial(_Reported):
    trial: Name
    algorithm: str
    status: Status
    hyperparameters: Settings
    sampled: NotRequired[Settings]
    is_default: bool
    seed: NotRequired[int]
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
    space: Annotated[SearchSpace, AfterValidator(as_text)]
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


def _is_of_pictures(one: Any) -> Any:
    if len({len(one[key]) for key in ("moved", "one_at_a_time", "strata")}) > 1:
        raise ValueError("there are figures of more pictures than others")
    return one


def _is_scored(result: Any) -> Any:
    if not METRICS.keys() & result.keys():
        raise ValueError(f"neither of {', '.join(METRICS)} is there")
    return result


_Returns = TypedDict("_Returns", {"return": NotRequired[Figures]})  # a word that no class can have


@keys
class _Scores(_Returns):
    accuracy: NotRequired[Figures]
    error: NotRequired[Figures]


@keys
class _Confirmed(_Scores):
    trial: Name


@keys
class _ByPicture(TypedDict):
    moved: list[Real]
    one_at_a_time: list[Real]
    strata: list[Whole]
    repeats: Time
    classes: list[ClassRows]


@keys
class _Baseline(_Scores):
    protocol: int
    tasks_hash: str
    pictures: NotRequired[
        Annotated[list[Annotated[_ByPicture, AfterValidator(_is_of_pictures)]], Field(min_length=1)]
    ]


@keys
class _Point(TypedDict):
    step: Whole
    mean: Real | None
    ci_low: Real | None
    ci_high: Real | None


@keys
class _Diagnosis(TypedDict):
    tasks: Whole
    worst_tenth: Real | None
    calibration_error: Real | None
    over_steps: list[_Point] | None
    diverged: Real | None
    followed: NotRequired[Whole]


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
    rows: NotRequired[_Rows]


@keys
class _ByClass(TypedDict):
    queries: list[Time]
    hits: list[Time]


@keys
class _Calibration(TypedDict):
    temperature: Real
    calibration_error: Real | None
    level: Real
    coverage: list[Real]
    set_size: list[Real]


@keys
class _Unlabelled(TypedDict):
    of_each_class: Whole
    distractors: Whole
    taken: Real | None
    taken_distractors: Real | None
    auroc: Real | None


@keys
class _Test(_Baseline):
    accuracy_without_unlabelled: NotRequired[Figures]
    accuracy_without_distractors: NotRequired[Figures]
    unlabelled: NotRequired[_Unlabelled]
    loss: NotRequired[Figures]
    calibration: NotRequired[_Calibration]
    accuracy_one_at_a_time: NotRequired[Figures]
    error_one_at_a_time: NotRequired[Figures]
    return_one_at_a_time: NotRequired[Figures]
    classes: list[ClassRows]
    class_names: list[str]
    by_class: NotRequired[_ByClass]
    confused: NotRequired[list[Annotated[list[Whole], Field(min_length=4, max_length=4)]]]
    opened: Moment
    times_opened: Whole
    batch_norm: str | None
    config_hash: str
    code: str
    commit: str | None
    data_fingerprint: NotRequired[str]
    weights: NotRequired[dict[str, Real]]
    diagnostics: NotRequired[_Diagnosis]
    cost: NotRequired[dict[Literal["picture_seconds", "network_parameters"], Time]]


def _is_consistent(test: Any) -> Any:
    """Compare how much there is of what belongs together."""
    figures = [*METRICS, *(f"{metric}_one_at_a_time" for metric in METRICS), "loss", "classes"]
    figures += ["accuracy_without_unlabelled", "accuracy_without_distractors"]
    judged = [test["calibration"][key] for key in ("coverage", "set_size") if "calibration" in test]
    if len({*map(len, judged), *(len(test[key]) for key in figures if key in test)}) > 1:
        raise ValueError("there are figures of more tasks than others")
    n_classes = len(test["class_names"])
    pairs = test.get("confused", [])
    places = [int(place) for line in test["classes"] for place in line.split()]
    places += [place for pair in pairs for place in pair[:2]]
    if max(places, default=0) >= n_classes or not all(pair[3] for pair in pairs):
        raise ValueError("there are classes without a name, or confusions without a chance")
    if any(len(one["classes"]) != len(test["classes"]) for one in test.get("pictures", [])):
        raise ValueError("there are pictures of other tasks")
    by_class = test.get("by_class", {})
    if any(len(by_class[key]) != n_classes for key in by_class if key in ("queries", "hits")):
        raise ValueError("there are counts of other classes")
    if by_class and "confused" not in test:
        raise ValueError("there are counts of classes without their confusions")
    return test


SEARCH: Model = TypeAdapter(_Search)
RUN: Model = TypeAdapter(_Run)
REPORT: Model = TypeAdapter(Report)
TRIAL: Model = TypeAdapter(_Trial)
EVENT: Model = TypeAdapter(Event)
SNAPSHOT: Model = TypeAdapter(_Snapshot)
FINISH: Model = TypeAdapter(_Finish)
CHOSEN: Model = TypeAdapter(dict[str, _Chosen | None])
CONFIRMED: Model = TypeAdapter(Annotated[_Confirmed, AfterValidator(_is_scored)])
META_TEST: Model = TypeAdapter(_Opened)
BASELINE: Model = TypeAdapter(Annotated[_Baseline, AfterValidator(_is_scored)])
TEST: Model = TypeAdapter(Annotated[_Test, AfterValidator(_is_scored), AfterValidator(_is_consistent)])
DIAGNOSIS: Model = TypeAdapter(_Diagnosis)
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
