"""The tasks of a run, as a user may write them: which data, and the shape of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_serializer, model_validator

from metabench.core.config.base import Model, Scalar

MOST_EXAMPLES = 10_000
"""Examples or classes of a task: more than a machine holds."""


class AugmentConfig(Model):
    """How far meta-train images are distorted at most where the setting `augment` asks for it."""

    flip: bool = Field(False, description="mirror every other image, left to right")
    rotate: float = Field(15, ge=0, le=180, description="degrees to either side")
    scale: float = Field(0.2, ge=0, le=2, description="of the logarithm of each side, up or down")
    shear: float = Field(0.2, ge=0, le=2, description="slant, as a share of the height")
    shift: float = Field(0.1, ge=0, le=1, description="share of a side, to either side")
    contrast: float = Field(0.0, ge=0, le=2, description="of the logarithm of the contrast, up or down")
    brightness: float = Field(0.0, ge=0, le=2, description="of the logarithm of the mean, up or down")
    padding: Literal["zeros", "border", "reflection"] = Field(
        "zeros", description="what comes in from beyond the border"
    )

    @property
    def moves(self) -> bool:
        """Tell whether any pixel may move."""
        return bool(self.flip or self.rotate or self.scale or self.shear or self.shift)

    @property
    def lights(self) -> bool:
        """Tell whether contrast or brightness may change."""
        return bool(self.contrast or self.brightness)


class Between(Model):
    """A whole number drawn for each task, each from low to high equally likely."""

    low: int = Field(ge=1, le=MOST_EXAMPLES)
    high: int = Field(ge=1, le=MOST_EXAMPLES)

    @model_validator(mode="after")
    def _bounds(self) -> Between:
        if not self.low < self.high:
            raise ValueError(
                f"low={self.low}, high={self.high}: low must be < high; for one number, write it"
            )
        return self

    def __str__(self) -> str:
        """Write it as it is typed."""
        return f"{self.low}-{self.high}"


Count = Annotated[
    Annotated[Between, Tag("<between>")] | Annotated[int, Field(ge=1, le=MOST_EXAMPLES), Tag("<count>")],
    Discriminator(lambda value: "<between>" if isinstance(value, Mapping | Between) else "<count>"),
]
"""A whole number from 1, or a range of which each task draws its own."""

COUNT = get_args(Count)[0]
"""Its type, as pydantic keeps it of a field."""


class TaskConfig(Model):
    """Which problems are learnt: a data set, its split and the shape of a task."""

    dataset: str = Field(description="name of a data set; see `metabench datasets`")
    split: str | None = Field(None, description="named split of the data set; empty for its default")
    options: dict[str, Scalar] = Field(default_factory=dict, description="settings of the data set itself")
    way: Count = Field(5, description="classes in a task; 1 for regression, where a task is one function")
    shot: Count = Field(1, description="support examples a class, or points of a function")
    query: int = Field(5, ge=1, le=MOST_EXAMPLES, description="query examples a class in meta-training")
    test_query: int = Field(
        15, ge=1, le=MOST_EXAMPLES, description="query examples a class in meta-validation and meta-test"
    )
    most_shots: int | None = Field(
        None,
        ge=2,
        le=MOST_EXAMPLES,
        description="unbalanced support: as many examples as `shot` a class would be, divided at random, at "
        "least one and at most this many a class",
    )
    unlabelled: int = Field(
        0,
        ge=0,
        le=MOST_EXAMPLES,
        description="images without a label beside the support set, of each class of the task",
    )
    distractors: int = Field(
        0,
        ge=0,
        le=MOST_EXAMPLES,
        description="classes outside the task that have as many unlabelled images each",
    )
    test_unlabelled: int | None = Field(
        None,
        ge=0,
        le=MOST_EXAMPLES,
        description="`unlabelled` of meta-validation and meta-test; empty for as in meta-training",
    )
    test_distractors: int | None = Field(
        None,
        ge=0,
        le=MOST_EXAMPLES,
        description="`distractors` of meta-validation and meta-test; empty for as in meta-training",
    )
    labelled: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of each meta-train class's examples that has a label, drawn once for each seed: "
        "support and query are of these, unlabelled images of the rest; 1: any may be either",
    )
    domains: Literal["any", "within", "across"] = Field(
        "any",
        description="classes come from any domain, all of a task from one, or support from one domain and "
        "query from another that has classes of the same names",
    )
    labels: Literal["shuffled", "fixed"] = Field(
        "shuffled",
        description="fixed: an output stands for the same class in every task, and there is one for each of "
        "the classes, those that a task lacks among them; for data whose splits have the same classes",
    )
    augment: AugmentConfig = AugmentConfig()

    @property
    def ways(self) -> tuple[int, int]:
        """Return the fewest and the most classes of a task."""
        return ends(self.way)

    @property
    def shots(self) -> tuple[int, int]:
        """Return the smallest and the largest shot of a task."""
        return ends(self.shot)

    @property
    def evaluated(self) -> TaskConfig:
        """Return the tasks of meta-validation and meta-test, as though those of meta-training were alike."""
        unlabelled = self.unlabelled if self.test_unlabelled is None else self.test_unlabelled
        distractors = self.distractors if self.test_distractors is None else self.test_distractors
        beside = {"unlabelled": unlabelled, "distractors": distractors if unlabelled else 0}
        return self.model_copy(update={**beside, **SEPARATE})

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # Tasks that do not use these fields read, and hash, as where there are none.
        return {key: value for key, value in handler(self).items() if key not in LATER or value != LATER[key]}

    @model_validator(mode="after")
    def _together(self) -> TaskConfig:
        setting, largest = f"most_shots={self.most_shots}", self.shots[1]
        if self.most_shots is not None and self.most_shots <= largest:
            advice = "raise it, or leave it out for equal shots"
            raise ValueError(f"{setting}: must be > shot={self.shot}, the mean; {advice}")
        if self.most_shots is not None and largest == 1:
            raise ValueError(f"{setting}: with shot=1 every class has its one example; raise shot")
        if self.distractors and not self.unlabelled:
            advice = "set unlabelled, or leave it out"
            raise ValueError(f"distractors={self.distractors}: have unlabelled images only; {advice}")
        if self.test_distractors and not self.evaluated.unlabelled:
            advice = "set test_unlabelled, or leave it out"
            raise ValueError(
                f"test_distractors={self.test_distractors}: have unlabelled images only; {advice}"
            )
        return self


SEPARATE = {"test_unlabelled": None, "test_distractors": None, "labelled": 1.0}
"""What may tell meta-training's tasks from others, with the values by which it does not."""

LATER = {**SEPARATE, "labels": "shuffled"}
"""Fields that tasks had not at first, with the values that mean what tasks were then."""


def ends(count: int | Between) -> tuple[int, int]:
    """Return the bounds of a number, or of a range."""
    return (count.low, count.high) if isinstance(count, Between) else (count, count)
