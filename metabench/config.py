"""What a user may write, as pydantic models; every problem of a file is reported together."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

Scalar = bool | int | float | str


class Model(BaseModel):
    """A frozen model that refuses unknown keys, values of another type, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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


class TaskConfig(Model):
    """Which problems are learnt: a data set, its split and the shape of a task."""

    dataset: str = Field(description="name of a data set; see `metabench datasets`")
    split: str | None = Field(None, description="named split of the data set; empty for its default")
    options: dict[str, Scalar] = Field(default_factory=dict, description="settings of the data set itself")
    way: int = Field(5, ge=1, description="classes in a task; 1 for regression, where a task is one function")
    shot: int = Field(1, ge=1, description="support examples a class, or points of a function")
    query: int = Field(5, ge=1, description="query examples a class in meta-training")
    test_query: int = Field(15, ge=1, description="query examples a class in meta-validation and meta-test")
    augment: AugmentConfig = AugmentConfig()


class NetworkConfig(Model):
    """The network that is adapted, and where batch norm takes a query's moments from."""

    name: str = Field("conv4", description="name of a network: conv4, resnet12 or mlp")
    width: int = Field(
        32,
        ge=1,
        description="channels of each conv4 layer, of resnet12's first block, or units of an mlp layer",
    )
    depth: int = Field(2, ge=1, description="hidden layers of an mlp")
    norm: Literal["batch", "group", "none"] = Field("batch", description="normalisation after each layer")
    groups: int = Field(4, ge=1, description="groups of channels of group norm; must divide width")
    batch_norm: Literal["transductive", "support_stats", "with_support"] = Field(
        "transductive",
        description="queries are normalised by their own moments (as is usual), by the support's, "
        "or each by those of the support and itself",
    )
    shrink: Literal["pool", "stride"] = Field(
        "pool", description="conv4 halves an image by max pooling or by stride 2"
    )
    readout: Literal["flatten", "mean"] = Field(
        "flatten",
        description="conv4's head sees every pixel's features, or, as resnet12's, their mean over pixels",
    )


class BudgetConfig(Model):
    """How much compute is spent on each algorithm, and how the best setting is confirmed."""

    tasks: int = Field(ge=1, description="meta-train tasks of a full run")
    trials: int = Field(ge=1, description="hyperparameter settings tried an algorithm")
    grace: int = Field(ge=1, description="tasks seen before a trial may be stopped: the lowest rung")
    reduction_factor: int = Field(3, ge=2, description="one in this many trials passes a rung")
    validation_tasks: int = Field(200, ge=2, description="frozen meta-validation tasks at each rung")
    confirm_top: int = Field(3, ge=1, description="settings an algorithm that are confirmed on fresh tasks")
    confirm_tasks: int = Field(600, ge=2, description="fresh meta-validation tasks of the confirmation")
    seeds: int = Field(3, ge=1, description="full runs of the confirmed setting, one a seed")
    test_tasks: int = Field(1000, ge=2, description="frozen meta-test tasks")

    @model_validator(mode="after")
    def _grace_within_tasks(self) -> BudgetConfig:
        if self.grace > self.tasks:
            raise ValueError(f"grace={self.grace}: must be <= tasks={self.tasks}")
        return self


When = dict[str, Scalar | list[Scalar]]
WHEN = Field(None, description="only sampled when these other hyperparameters have these values")


class Range(Model):
    """Numbers between two bounds; whole numbers when both bounds are whole and the setting is."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="sample the logarithm uniformly")
    step: int | float | None = Field(None, gt=0, description="grid spacing; not with log")
    default: int | float = Field(description="published value, tried first")
    when: When | None = WHEN

    @model_validator(mode="after")
    def _bounds(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: the range is empty; low must be < high")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low}: must be > 0 where log is true")
        if self.log and self.step is not None:
            raise ValueError("step: not allowed where log is true")
        if not self.low <= self.default <= self.high:
            raise ValueError(f"default={self.default}: must lie in [{self.low}, {self.high}]")
        return self


class Choices(Model):
    """One of a few values."""

    choices: list[Scalar] = Field(min_length=1)
    default: Scalar = Field(description="published value, tried first")
    when: When | None = WHEN

    @model_validator(mode="after")
    def _default_is_a_choice(self) -> Choices:
        if self.default not in self.choices:
            raise ValueError(f"default={self.default!r}: must be one of {self.choices}")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<choices>" if "choices" in value else "<range>"
    return next((tag for tag, kind in KINDS.items() if isinstance(value, kind)), "<constant>")


KINDS: dict[str, type[Model]] = {"<range>": Range, "<choices>": Choices}
SCALARS = {"bool": "a number, a word, true or false", "int": "a finite number"}  # the first member of a union
TAGS = {*KINDS, "<constant>", "bool", "int", "float", "str"}  # pydantic's names of a union's members

Parameter = Annotated[
    Annotated[Range, Tag("<range>")]
    | Annotated[Choices, Tag("<choices>")]
    | Annotated[Scalar, Tag("<constant>")],
    Discriminator(_kind),
]
"""A range, a list of choices, or a constant."""


class SearchSpace(Model):
    """A search: the task, the network, the budget, and each algorithm's hyperparameters."""

    task: TaskConfig
    network: NetworkConfig = NetworkConfig()
    budget: BudgetConfig
    shared: dict[str, Parameter] = Field(
        default_factory=dict, description="hyperparameters of all algorithms that have them"
    )
    algorithms: dict[str, dict[str, Parameter]] = Field(
        min_length=1,
        description="algorithms to compare, each with its own hyperparameters; "
        "NAME.LABEL is one more row of NAME, with settings of its own",
    )
    also: list[dict[str, Scalar]] = Field(
        default_factory=list,
        description="other published settings, tried after the defaults; what is left out keeps its default",
    )


class RunConfig(Model):
    """One training run, resolved: everything that its numbers depend on."""

    algorithm: str
    hyperparameters: dict[str, Scalar]  # every setting of the algorithm, defaults filled in
    task: TaskConfig
    network: NetworkConfig
    tasks: int = Field(ge=1)  # full budget; schedules run towards it
    rungs: list[int]  # tasks seen at which a Report is due, ascending; the last is `tasks`
    validation_tasks: int = Field(200, ge=2)
    seed: int = 0


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for a typo, or ''."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn pydantic's errors into one line each: where, what was given, what is allowed."""
    lines: dict[str, str] = {}  # by place: a union reports each of its members
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part not in TAGS]
        where = ".".join(path)
        if item["type"] == "extra_forbidden":
            known = list(_holder(model, item["loc"]).model_fields)
            line = f"{where}: unknown key.{nearest(path[-1], known)} Allowed: {', '.join(known)}"
        elif item["type"] == "missing":
            line = f"{where}: missing"
        elif item["type"] == "value_error":
            line = f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
        elif item["loc"] and item["loc"][-1] in SCALARS:
            line = f"{where}={item['input']!r}: must be {SCALARS[str(item['loc'][-1])]}"
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}".removeprefix("input ")
            line = f"{where}={item['input']!r}: {message}"
        lines.setdefault(where, line)
    return list(lines.values())


def _holder(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model that should have had the last key of an error's place."""
    current: Any = model
    for part in loc[:-1]:
        if part in KINDS:
            current = KINDS[str(part)]
        elif isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[str(part)].annotation
    return current


KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}


def setting_problem(settings: type, name: str, value: Any, where: str | None = None) -> str | None:
    """Say what is wrong with one setting of a dataclass of settings, or return None.

    Args:
        settings: dataclass whose fields were declared by `core.setting`.
        where: what to call the value in the message; its name, if not given.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    where = where or name
    if name not in fields:
        return f"{where}: unknown setting.{nearest(name, fields)} Allowed: {', '.join(fields)}"
    kind = get_type_hints(settings)[name]
    limits = fields[name].metadata
    if not _is_a(value, kind):
        return f"{where}={value!r}: must be {KIND_NAMES[kind]}"
    if limits["choices"] is not None and value not in limits["choices"]:
        return f"{where}={value!r}: must be one of {', '.join(map(str, limits['choices']))}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where}={value!r}: must be finite"
    if limits["minimum"] is not None and value < limits["minimum"]:
        return f"{where}={value!r}: must be >= {limits['minimum']}"
    if limits["above"] is not None and value <= limits["above"]:
        return f"{where}={value!r}: must be > {limits['above']}"
    if limits["maximum"] is not None and value > limits["maximum"]:
        return f"{where}={value!r}: must be <= {limits['maximum']}"
    return None


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)
