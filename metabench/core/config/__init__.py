"""What a user may write, as pydantic models, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from metabench.core import MetabenchError, printable
from metabench.core.config.base import Model as Model
from metabench.core.config.base import Scalar as Scalar
from metabench.core.config.network import NetworkConfig as NetworkConfig
from metabench.core.config.network_space import NODES as NODES
from metabench.core.config.network_space import OF_CELL as OF_CELL
from metabench.core.config.network_space import PREFIX as PREFIX
from metabench.core.config.network_space import NetworkSpace as NetworkSpace
from metabench.core.config.network_space import of_algorithm as of_algorithm
from metabench.core.config.parameters import KINDS as KINDS
from metabench.core.config.parameters import Choices as Choices
from metabench.core.config.parameters import Parameter as Parameter
from metabench.core.config.parameters import Range as Range
from metabench.core.config.parameters import in_order as in_order
from metabench.core.config.parameters import is_active as is_active
from metabench.core.config.parameters import wanted as wanted
from metabench.core.config.settings import allowed as allowed
from metabench.core.config.settings import field_types as field_types
from metabench.core.config.settings import flatten as flatten
from metabench.core.config.settings import folded as folded
from metabench.core.config.settings import nearest as nearest
from metabench.core.config.settings import parse_pairs as parse_pairs
from metabench.core.config.settings import parse_settings as parse_settings
from metabench.core.config.settings import setting_problem as setting_problem
from metabench.core.config.task import COUNT as COUNT
from metabench.core.config.task import SEPARATE as SEPARATE
from metabench.core.config.task import AugmentConfig as AugmentConfig
from metabench.core.config.task import Between as Between
from metabench.core.config.task import Count as Count
from metabench.core.config.task import TaskConfig as TaskConfig
from metabench.core.config.task import ends as ends

MOST_DRAWN, MOST_TASKS = 1_000_000, 10**12
"""What is drawn beforehand, meta-train tasks: more than a machine holds."""


WHOLE = 10
"""Amounts from here on are written without a fraction."""

SPENT = ("seconds", "environment_steps")
"""Units of which an algorithm has so many, however many trials that are."""


class BudgetConfig(Model):
    """How much compute is spent on each algorithm, and how the best setting is confirmed."""

    tasks: int = Field(ge=1, le=MOST_TASKS, description="meta-train tasks of a full run")
    trials: int = Field(
        ge=1,
        le=MOST_DRAWN,
        description="hyperparameter settings tried an algorithm; at most, where these are not the unit",
    )
    grace: int = Field(
        ge=1, le=MOST_TASKS, description="tasks seen before a trial may be stopped: the lowest rung"
    )
    reduction_factor: int = Field(3, ge=2, le=MOST_DRAWN, description="one in this many trials passes a rung")
    sampler: Literal["tpe", "random", "gp", "cma-es", "qmc"] = Field(
        "tpe",
        description="Optuna's sampler that proposes settings, with freeze_thaw the first; random is the "
        "control",
    )
    scheduler: Literal["asha", "freeze_thaw", "none", "top_k"] = Field(
        "freeze_thaw",
        description="who goes on: the best at each rung as they arrive; whom a model of all learning curves "
        "expects most of, which also proposes; all; or, when all have seen `grace` tasks, the best one in "
        "`reduction_factor`, to the full budget",
    )
    pause: bool = Field(
        True,
        description="with asha: who is not among the best at a rung waits, and goes on once it is; "
        "else it is stopped for good, and the first to arrive always goes on",
    )
    validation_tasks: int = Field(
        200, ge=2, le=MOST_DRAWN, description="frozen meta-validation tasks at each rung"
    )
    borderline_tasks: int | None = Field(
        None,
        ge=2,
        le=MOST_DRAWN,
        description="as many, those of `validation_tasks` among them, before a decision within their noise",
    )
    confirm_top: int = Field(
        3, ge=1, le=1_000, description="settings an algorithm that are confirmed on fresh tasks"
    )
    confirm_tasks: int = Field(
        600, ge=2, le=MOST_DRAWN, description="fresh meta-validation tasks of the confirmation"
    )
    seeds: int = Field(3, ge=1, le=1_000, description="full runs of the confirmed setting, one a seed")
    max_parameters: int | None = Field(
        None,
        ge=1,
        le=MOST_TASKS,
        description="numbers that a setting may learn across tasks; one that would learn more is not trained",
    )
    default_runs: bool = Field(
        True, description="whether the published setting, too, has its full runs and a row on the board"
    )
    test_tasks: int = Field(1000, ge=2, le=MOST_DRAWN, description="frozen meta-test tasks")
    unit: Literal["tasks", "seconds", "environment_steps"] = Field(
        "tasks",
        description="what is the same for all algorithms: trials and their tasks, seconds, or steps in "
        "environments",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        description="of training and validation, all trials of an algorithm together; with unit=seconds",
    )
    environment_steps: int | None = Field(
        None,
        ge=1,
        le=MOST_TASKS,
        description="of training, all trials of an algorithm together; with unit=environment_steps",
    )
    stop_when: float | None = Field(
        None,
        gt=0,
        description="with freeze_thaw: an algorithm tries no more once another hour of a worker is expected "
        "to gain less, in points of accuracy, or in units of the error",
    )
    rungs: list[int] | None = Field(
        None,
        description="tasks seen at which a trial may be stopped, the last being `tasks`; "
        "else `grace`, and times `reduction_factor` from there on",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_asha(cls, values: Any) -> Any:
        """Take that rule where it is not named, and what it alone has is."""
        is_said = isinstance(values, dict) and (
            values.get("pause") is False or values.get("borderline_tasks") is not None
        )
        return {"scheduler": "asha", **values} if is_said else values

    @model_validator(mode="after")
    def _together(self) -> BudgetConfig:
        rungs, more, unit = self.rungs, self.borderline_tasks, self.unit
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
            f"unit={unit}: needs `{unit}`, the budget of each algorithm": unit in SPENT
            and limit(self) is None,
            f"unit={unit}: scheduler=top_k needs to know how many trials there are; take tasks": unit in SPENT
            and self.scheduler == "top_k",
            f"stop_when={self.stop_when}: scheduler={self.scheduler} has no model of what is to come; leave "
            "it out, or take freeze_thaw": self.stop_when is not None and self.scheduler != "freeze_thaw",
            **{
                f"{name}={getattr(self, name)}: counts with unit={name} only; set it, or leave this out": True
                for name in SPENT
                if unit != name and getattr(self, name) is not None
            },
        }
        for problem, is_so in wrong.items():
            if is_so:
                raise ValueError(problem)
        return self


def limit(budget: BudgetConfig) -> float | None:
    """Return what an algorithm may spend of the budget's unit; None where trials and tasks are counted."""
    return getattr(budget, budget.unit) if budget.unit in SPENT else None


def amount(spent: float, unit: str = "") -> str:
    """Write so many of a unit in words."""
    return f"{f'{spent:,.0f}' if spent >= WHOLE else f'{spent:g}'} {unit.replace('_', ' ')}".strip()


def n_variants(budget: BudgetConfig) -> int:
    """Count the settings of an algorithm that have full runs: the tuned one, and perhaps the published."""
    return 1 + budget.default_runs


def rungs(budget: BudgetConfig) -> list[int]:
    """List the tasks seen at which a trial reports, ascending; the last is the full budget."""
    if budget.rungs is not None:
        return budget.rungs
    if budget.scheduler == "top_k":
        return sorted({budget.grace, budget.tasks})
    steps = []
    rung = budget.grace
    while rung < budget.tasks:
        steps.append(rung)
        rung *= budget.reduction_factor
    return [*steps, budget.tasks]


def allowance(budget: BudgetConfig, n_trials: int) -> float:
    """Return the tasks that so many trials see where one in `reduction_factor` passes each rung."""
    ascending = rungs(budget)
    return sum(
        max(1.0, n_trials / budget.reduction_factor**k) * (rung - before)
        for k, (rung, before) in enumerate(zip(ascending, [0, *ascending], strict=False))
    )


class SearchSpace(Model):
    """A search: the task, the network, the budget, and each algorithm's hyperparameters."""

    task: TaskConfig
    network: NetworkSpace = NetworkSpace()
    networks: dict[str, NetworkSpace] = Field(
        default_factory=dict,
        description="other networks, by the label of the rows that have them: NAME.LABEL takes that of LABEL",
    )
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

    def network_of(self, algorithm: str) -> NetworkSpace:
        """Return the networks of an algorithm's rows."""
        return self.networks.get(algorithm.partition(".")[2], self.network)


class RunConfig(Model):
    """One training run, resolved: everything that its numbers depend on."""

    algorithm: str = Field(description="name of an algorithm; see `metabench algorithms`")
    hyperparameters: dict[str, Scalar]  # every setting of the algorithm, defaults filled in
    task: TaskConfig
    network: NetworkConfig
    tasks: int = Field(
        10_000, ge=1, le=MOST_TASKS, description="meta-train tasks, towards which schedules run"
    )
    rungs: list[int]  # tasks seen at which a Report is due, ascending; the last is `tasks`
    validation_tasks: int = Field(
        200, ge=2, le=MOST_DRAWN, description="frozen meta-validation tasks at each report"
    )
    seed: int = Field(0, ge=-(2**63), lt=2**63, description="seed of everything that is drawn")


T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
SCALARS = {
    "bool": "a number, a word, true or false",  # the first member of a union
    "int": "a finite number",
    "<count>": "a whole number, or a range: 3-10 as a flag, {low: 3, high: 10} in a file",
}
LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""Of pydantic's types of errors, those that tell best themselves what is allowed."""

MOST_LINES = 40
"""Problems of one file that are told one by one."""

LONGEST_LINE = 600
"""Characters of one of them, where allowed names take the most."""

TAGS = {*KINDS, "<constant>", "<count>", "bool", "int", "float", "str"}
"""Pydantic's names of a union's members."""


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn pydantic's errors into one line each: where, what was given, what is allowed."""
    lines: dict[str, str] = {}  # by place: a union reports each of its members
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part not in TAGS]
        where = ".".join(path)
        if item["type"] == "extra_forbidden":
            line = f"{where}: unknown key.{allowed(path[-1], _holder(model, item['loc']).model_fields)}"
        elif item["type"] == "missing":
            line = f"{where}: missing"
        elif item["type"] == "value_error":
            line = f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
        elif item["loc"] and item["loc"][-1] in SCALARS and item["type"] not in LIMITS:
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
        elif part in getattr(current, "model_fields", {}):
            current = current.model_fields[str(part)].annotation
        elif get_origin(current) is dict:
            current = get_args(current)[1]
    return current


def validated(model: type[M], values: Mapping[str, Any], prefix: str = "") -> M:
    """Build a model, or say all that is wrong with its values, each line after what they stand under."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise MetabenchError("\n".join(f"{prefix}{line}" for line in problems(error, model))) from None


def attempt(wrong: list[str], function: Callable[..., T], *args: Any) -> T | None:
    """Call a function; add the lines of a MetabenchError to a list and return None."""
    try:
        return function(*args)
    except MetabenchError as error:
        wrong += str(error).splitlines()
        return None


def refusal(source: object, wrong: Sequence[str]) -> MetabenchError:
    """Say where problems were and how many, and list them."""
    count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
    more = [f"and {len(wrong) - MOST_LINES} more"] if len(wrong) > MOST_LINES else []
    return MetabenchError("\n  ".join([f"{source}: {count}", *map(_short, wrong[:MOST_LINES]), *more]))


def _short(line: str) -> str:
    """Return a line that can be shown, whatever a user's words hold: no control characters, and no page."""
    shown = (
        line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    )
    return printable(shown, "")
