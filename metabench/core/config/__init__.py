"""What a user may write, as pydantic models; every problem of a file is reported together."""

from metabench.core.config.base import Model, Scalar
from metabench.core.config.problems import (
    allowed,
    attempt,
    field_types,
    flatten,
    nearest,
    parse_pairs,
    parse_settings,
    problems,
    refusal,
    setting_problem,
    validated,
)
from metabench.core.config.space import (
    BudgetConfig,
    Choices,
    NetworkConfig,
    Parameter,
    Range,
    RunConfig,
    SearchSpace,
)
from metabench.core.config.task import AugmentConfig, Between, TaskConfig

__all__ = [
    "AugmentConfig",
    "Between",
    "BudgetConfig",
    "Choices",
    "Model",
    "NetworkConfig",
    "Parameter",
    "Range",
    "RunConfig",
    "Scalar",
    "SearchSpace",
    "TaskConfig",
    "allowed",
    "attempt",
    "field_types",
    "flatten",
    "nearest",
    "parse_pairs",
    "parse_settings",
    "problems",
    "refusal",
    "setting_problem",
    "validated",
]
