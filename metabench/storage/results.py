"""What files of confirmations, baselines and meta-tests hold: figures of single tasks, and more."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # pydantic takes no other on Python 3.11

from metabench.core.metrics import METRICS
from metabench.storage.fields import ClassRows, Figures, Groups, Moment, Name, Real, Time, Whole, keys


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
class Diagnosis(TypedDict):
    tasks: Whole
    worst_tenth: Real | None
    calibration_error: Real | None
    over_steps: list[_Point] | None
    diverged: Real | None
    followed: NotRequired[Whole]


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
    groups: NotRequired[list[Groups]]
    groups_at_thresholds: NotRequired[list[Groups]]
    thresholds: NotRequired[Annotated[list[Real], Field(min_length=2, max_length=2)]]
    accuracy_one_at_a_time: NotRequired[Figures]
    error_one_at_a_time: NotRequired[Figures]
    return_one_at_a_time: NotRequired[Figures]
    classes: list[ClassRows]
    class_names: list[str]
    domains: NotRequired[list[str]]
    is_by_domain: NotRequired[bool]
    accuracy_zero_step: NotRequired[Figures]
    label_names: NotRequired[list[str]]
    of_labels: NotRequired[list[list[Whole]]]
    by_instance: NotRequired[list[Annotated[list[Real], Field(min_length=3, max_length=3)]]]
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
    diagnostics: NotRequired[Diagnosis]
    cost: NotRequired[dict[Literal["picture_seconds", "network_parameters"], Time]]


def _is_consistent(test: Any) -> Any:
    """Compare how much there is of what belongs together."""
    figures = [*METRICS, *(f"{metric}_one_at_a_time" for metric in METRICS)]
    figures += ["loss", "classes", "groups", "groups_at_thresholds"]
    figures += ["accuracy_without_unlabelled", "accuracy_without_distractors", "accuracy_zero_step"]
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
    counts = {**test.get("by_class", {}), "domains": test.get("domains", test["class_names"])}
    if any(len(counts[key]) != n_classes for key in counts if key in ("queries", "hits", "domains")):
        raise ValueError("there are counts or domains of other classes")
    square = test.get("of_labels", [])
    if any(len(one) != len(square) for one in [*square, test.get("label_names", square)]):
        raise ValueError("there are counts of other labels")
    if "by_class" in test and "confused" not in test:
        raise ValueError("there are counts of classes without their confusions")
    return test


Confirmed = Annotated[_Confirmed, AfterValidator(_is_scored)]
Baseline = Annotated[_Baseline, AfterValidator(_is_scored)]
Test = Annotated[_Test, AfterValidator(_is_scored), AfterValidator(_is_consistent)]
