"""Computing inner steps again: the same gradients, and the memory of one step for any number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import grad, vmap

from metabench import algorithms, nets
from metabench.algorithms import _checkpoint as recompute
from metabench.core import (
    GroupedQuery,
    GroupedSupport,
    MetabenchError,
    Query,
    Support,
    Task,
    Tree,
    seeds,
    trees,
)
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from metabench.training.graphs.trace import TraceCache
from tests.support.counting import held_at_most

SECOND = ["maml", "anil", "boil", "meta_sgd", "alpha_maml", "maml_pp", "proto_maml", "maml_semi", "fair_maml"]


def problem(
    name: str, norm: str, again: bool, steps: int = 3, shot: int = 2, **how: Any
) -> Callable[..., Tree]:
    """Return the meta-gradient of a few tasks, to be called with traces or without."""
    net = nets.build(NetworkConfig(width=4, norm=norm), 3, (1, 16, 16), OBJECTIVES["classification"], 9)
    algorithm = algorithms.get(name)
    h = algorithms.hparams(name, {"inner_steps": steps, "recompute": again, **how})
    generator = seeds.generator("recompute")
    meta, buffers = algorithm.init(net, h, generator)
    x = [torch.rand(2, 3 * n, 1, 16, 16, generator=generator) for n in (shot, 2)]
    y = [torch.arange(3).repeat(n).expand(2, -1) for n in (shot, 2)]
    halves: list[Any] = [Support(x[0], y[0]), Query(x[1], y[1])]
    if name == "fair_maml":
        groups = [torch.randint(2, one.shape, generator=generator) for one in y]
        halves = [GroupedSupport(*halves[0], groups[0]), GroupedQuery(*halves[1], groups[1])]
    tasks = Task(halves[0], halves[1], torch.zeros(2, 3, dtype=torch.int64))

    def call(traces: TraceCache | None = None, progress: float = 0.5) -> Tree:
        result = vectorise.meta_gradient(
            vectorise.Model(algorithm, net, meta, buffers, h), tasks, progress, 2, traces
        )
        return {"gradient": result[0], "loss": result[1], "buffers": result[3]}

    return call


def assert_close(left: Tree, right: Tree) -> None:
    for (name, mine), (_, theirs) in zip(trees.items(left), trees.items(right), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=name)


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_second_order_learner_has_the_setting_and_no_other_takes_it() -> None:
    fields = {name: algorithms.get(name).hparams.__dataclass_fields__ for name in algorithms.names()}
    assert {name for name in fields if algorithms.get(name).has_recompute} == set(SECOND)
    without = {name for name in fields if "recompute" in fields[name]} - set(SECOND)
    assert without == {"fomaml", "imaml", "reptile"}
    for name in without:
        with pytest.raises(MetabenchError, match=f"{name}: recompute=true: has no effect"):
            algorithms.hparams(name, {"recompute": True})


@pytest.mark.parametrize(
    "norm", ["batch", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("group", "none"))]
)
@pytest.mark.parametrize("name", SECOND)
def test_the_meta_gradient_is_the_same(name: str, norm: str) -> None:
    assert_close(problem(name, norm, again=True)(), problem(name, norm, again=False)())


@pytest.mark.parametrize("how", [{"per_step_statistics": True}, {"adapt_norm": True, "inner_clip": 0.01}])
def test_it_is_the_same_with_running_moments_and_limits(how: dict[str, Any]) -> None:
    name = "maml_pp" if "per_step_statistics" in how else "maml"
    assert_close(problem(name, "batch", True, **how)(), problem(name, "batch", False, **how)())


def test_a_replayed_step_computes_again_too() -> None:
    call, traces = problem("maml", "batch", again=True), TraceCache()
    call(traces)
    assert_close(call(traces), problem("maml", "batch", again=False)())
    assert len(traces.recorded) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maml", "maml_pp"])
def test_ten_steps_take_the_memory_of_one(name: str) -> None:
    peaks = {
        (steps, again): held_at_most(problem(name, "batch", again, steps, shot=20))
        for steps, again in ((1, False), (20, False), (10, True), (20, True))
    }
    assert peaks[10, True] <= 2 * peaks[1, False]
    assert peaks[20, True] <= 2 * peaks[1, False]
    assert peaks[20, False] > 4 * peaks[1, False]  # or there was nothing to save


def test_what_is_whole_or_not_used_has_no_gradient() -> None:
    def function(x: torch.Tensor, label: torch.Tensor, unused: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x.sin() * label, "z": x.detach()}

    def loss(x: torch.Tensor, unused: torch.Tensor, again: bool) -> torch.Tensor:
        chosen = recompute.checkpoint(function) if again else function
        outputs = chosen(x, torch.tensor(3), unused)
        return (outputs["y"] + 0 * outputs["z"]).sum()

    x = torch.rand(5, 2)
    for argnums in (0, 1):
        mine, theirs = (
            vmap(grad(loss, argnums=argnums), (0, 0, None))(x, x, again) for again in (True, False)
        )
        torch.testing.assert_close(mine, theirs)
