"""What a user may write, as pydantic models; every problem of a file is reported together."""

from metabench.core.config.base import Model, Scalar
from metabench.core.config.problems import (
    field_types,
    nearest,
    parse_settings,
    parse_value,
    problems,
    setting_problem,
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
    "field_types",
    "nearest",
    "parse_settings",
    "parse_value",
    "problems",
    "setting_problem",
]
