"""What a search is: network, budget and hyperparameters; and what one run is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from metabench.core.config.base import Model, Scalar
from metabench.core.config.task import TaskConfig


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
    trials: int = Field(
        ge=1, description="hyperparameter settings tried an algorithm; at most, where seconds are the unit"
    )
    grace: int = Field(ge=1, description="tasks seen before a trial may be stopped: the lowest rung")
    reduction_factor: int = Field(3, ge=2, description="one in this many trials passes a rung")
    sampler: Literal["tpe", "random", "gp", "cma-es", "qmc"] = Field(
        "tpe", description="Optuna's sampler that proposes settings; random is the control"
    )
    scheduler: Literal["asha", "none", "top_k"] = Field(
        "asha",
        description="who goes on: the best at each rung as they arrive; all; or, when all have seen `grace` "
        "tasks, the best one in `reduction_factor`, to the full budget",
    )
    validation_tasks: int = Field(200, ge=2, description="frozen meta-validation tasks at each rung")
    borderline_tasks: int | None = Field(
        None,
        ge=2,
        description="as many, those of `validation_tasks` among them, before a decision within their noise",
    )
    confirm_top: int = Field(3, ge=1, description="settings an algorithm that are confirmed on fresh tasks")
    confirm_tasks: int = Field(600, ge=2, description="fresh meta-validation tasks of the confirmation")
    seeds: int = Field(3, ge=1, description="full runs of the confirmed setting, one a seed")
    test_tasks: int = Field(1000, ge=2, description="frozen meta-test tasks")
    unit: Literal["tasks", "seconds"] = Field(
        "tasks", description="what is the same for all algorithms: trials and their tasks, or seconds"
    )
    seconds: float | None = Field(
        None,
        gt=0,
        description="of training and validation, all trials of an algorithm together; with unit=seconds",
    )
    rungs: list[int] | None = Field(
        None,
        description="tasks seen at which a trial may be stopped, the last being `tasks`; "
        "else `grace`, and times `reduction_factor` from there on",
    )

    @model_validator(mode="after")
    def _together(self) -> BudgetConfig:
        rungs, more, is_timed = self.rungs, self.borderline_tasks, self.unit == "seconds"
        ascend = rungs is None or (
            rungs == sorted({*rungs, self.tasks}) and rungs[0] >= 1 and rungs[-1] == self.tasks
        )
        wrong = {
            f"grace={self.grace}: must be <= tasks={self.tasks}": self.grace > self.tasks,
            f"rungs={rungs}: must ascend from 1 or more to tasks={self.tasks}": not ascend,
            f"borderline_tasks={more}: must be > validation_tasks={self.validation_tasks}": more is not None
            and more <= self.validation_tasks,
            f"borderline_tasks={more}: with scheduler={self.scheduler} no decision is made while a trial "
            "runs; leave it out, or take asha": more is not None and self.scheduler != "asha",
            "unit=seconds: needs `seconds`, the budget of each algorithm": is_timed and self.seconds is None,
            "unit=seconds: scheduler=top_k needs to know how many trials there are; take tasks": is_timed
            and self.scheduler == "top_k",
            f"seconds={self.seconds}: counts with unit=seconds only; set it, or leave this out": not is_timed
            and self.seconds is not None,
        }
        for problem, is_so in wrong.items():
            if is_so:
                raise ValueError(problem)
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

    algorithm: str = Field(description="name of an algorithm; see `metabench algorithms`")
    hyperparameters: dict[str, Scalar]  # every setting of the algorithm, defaults filled in
    task: TaskConfig
    network: NetworkConfig
    tasks: int = Field(10_000, ge=1, description="meta-train tasks, towards which schedules run")
    rungs: list[int]  # tasks seen at which a Report is due, ascending; the last is `tasks`
    validation_tasks: int = Field(200, ge=2, description="frozen meta-validation tasks at each report")
    seed: int = Field(0, description="seed of everything that is drawn")
