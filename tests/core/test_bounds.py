"""Whole numbers that a user may write have a maximum; a network is refused by its size, not built."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from metabench import algorithms, data, nets
from metabench.core import MetabenchError
from metabench.core.config import (
    BudgetConfig,
    NetworkConfig,
    RunConfig,
    SearchSpace,
    TaskConfig,
    field_types,
    setting_problem,
    validated,
)

SETTINGS = [
    *((f"algorithm {name}", algorithms.get(name).hparams) for name in algorithms.names()),
    *((f"data set {name}", data.get(name).options) for name in data.names()),
]


@pytest.mark.parametrize("kind", [kind for _, kind in SETTINGS], ids=[name for name, _ in SETTINGS])
def test_a_whole_number_of_a_dataclass_has_a_maximum(kind: type) -> None:
    counts = [name for name, one in field_types(kind).items() if one is int]
    assert all(setting_problem(kind, name, 2**63) for name in counts)


FIELDS = [
    (model, name)
    for model in (TaskConfig, NetworkConfig, BudgetConfig, RunConfig)
    for name, field in model.model_fields.items()
    if int in (field.annotation, *get_args(field.annotation)) and name != "rungs"  # which end with `tasks`
]


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[name for _, name in FIELDS])
def test_a_whole_number_of_a_model_has_a_maximum(model: Any, name: str) -> None:
    with pytest.raises(MetabenchError, match=rf"(?m)^{name}=\d+: (should|must) be less than"):
        validated(model, {name: 10**19})


@pytest.mark.parametrize("name", ["way", "shot"])
@pytest.mark.parametrize("value", [10**9, {"low": 2, "high": 10**9}])
def test_ways_and_shots_have_a_maximum(name: str, value: Any) -> None:
    with pytest.raises(MetabenchError, match="less than or equal to 10000"):
        validated(TaskConfig, {"dataset": "glyphs", name: value})


@pytest.mark.parametrize(("name", "width"), [("resnet12", 16_384), ("conv4", 16_384), ("mlp", 16_384)])
def test_a_network_that_no_machine_holds_is_refused_without_being_built(name: str, width: int) -> None:
    depth = {"depth": 256} if name == "mlp" else {}
    with pytest.raises(MetabenchError, match=r"network.width=16384: makes [\d,]+ parameters; lower it"):
        nets.build(NetworkConfig(name=name, width=width, **depth), 5, (1, 28, 28))


@pytest.mark.parametrize("value", [{"pause": False}, {"borderline_tasks": 500}])
def test_what_asha_alone_has_means_asha(value: dict[str, Any]) -> None:
    budget = {"tasks": 100, "trials": 3, "grace": 10}
    assert BudgetConfig.model_validate({**budget, **value}).scheduler == "asha"
    assert BudgetConfig.model_validate(budget).scheduler == "freeze_thaw"


def test_a_range_in_a_networks_place_is_told_in_its_keys() -> None:
    with pytest.raises(MetabenchError, match=r"network\.when\.nothing: unknown key"):
        validated(SearchSpace, {"network": {"when": {"nothing": 1}}})
