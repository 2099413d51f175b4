"""Every algorithm keeps the contract with every norm and kind of data, on each device, in each precision.

Algorithms are found by name, so that a new one is held to it from its first day.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, NamedTuple

import pytest
import torch

from metabench import algorithms
from metabench.core import GROUPED, Algorithm, MetabenchError, Net, Task, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

PROGRESS = 0.5
SHORT = {"inner_steps": 2, "eval_steps": 3}  # where an algorithm has them
# float64: the same sums in another order. float32: as loose as a pixel that wins a max pool by rounding is.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-2}
NORMS = [
    ("batch", "transductive"),
    ("batch", "support_stats"),
    ("batch", "with_support"),
    ("group", "transductive"),
    ("none", "transductive"),
    ("torch", "with_support"),
]


TYPES = [torch.float32, torch.float64]
CASES = [
    pytest.param(
        *pair,
        dtype,
        id="-".join([*pair, str(dtype).removeprefix("torch.")]),
        # In float32 the same is computed, and compared less closely.
        marks=[pytest.mark.slow] if dtype == torch.float32 and pair != ("batch", "support_stats") else [],
    )
    for pair in NORMS
    for dtype in TYPES
]


def able(kind: str) -> list[str]:
    return [name for name in algorithms.names() if kind in algorithms.get(name).kinds]


def usual(name: str, device: str = "cpu") -> tuple[Net, Task]:
    """Return a network and two tasks of pictures, or of what else an algorithm learns alone."""
    if algorithms.get(name).kinds == ("control",):
        return problems.acted(name, "bandit", device, **SHORT)
    return problems.network("support_stats"), problems.tasks(2, device)


class Start(NamedTuple):
    """An algorithm on a small problem, before its first meta-update."""

    algorithm: Algorithm
    net: Net
    h: Any
    meta: Tree
    buffers: Tree
    tasks: Task


def begin(
    name: str, net: Net, tasks: Task, device: str = "cpu", dtype: torch.dtype = torch.float32, **values: Any
) -> Start:
    fields = {field.name for field in dataclasses.fields(algorithms.get(name).hparams)}
    short = {key: value for key, value in SHORT.items() if key in fields}
    algorithm, h, meta, buffers = problems.start(name, net, device, **{**short, **values})
    tasks = problems.grouped(tasks) if GROUPED in algorithm.kinds else tasks
    meta, buffers = (trees.map(lambda leaf: leaf.to(dtype), tree) for tree in (meta, buffers))
    return Start(algorithm, net, h, meta, buffers, problems.cast(tasks, dtype))


def types(tree: Tree) -> list[tuple[Any, ...]]:
    return [(name, leaf.shape, leaf.dtype, leaf.device.type) for name, leaf in trees.items(tree)]


def meta_gradient(s: Start, chunk: int) -> tuple[Tree, torch.Tensor, Any, Tree]:
    return vectorise.meta_gradient(
        vectorise.Model(s.algorithm, s.net, s.meta, s.buffers, s.h), s.tasks, PROGRESS, chunk
    )


def looped(s: Start) -> tuple[list[torch.Tensor], torch.Tensor, Tree]:
    """Do the same with torch's own autograd, one task at a time."""
    leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), s.meta)
    n_tasks = len(s.tasks.classes)
    scheduled = s.algorithm.schedule(s.h, PROGRESS)
    results = [
        s.algorithm.task_loss(s.net, leaves, s.buffers, problems.one(s.tasks, index), s.h, scheduled)
        for index in range(n_tasks)
    ]
    loss = torch.stack([loss for loss, _ in results]).mean()
    buffers = trees.map(lambda *each: torch.stack(each).mean(0), *(aux.buffers for _, aux in results))
    if not s.algorithm.is_trained:
        return [torch.zeros_like(leaf) for leaf in trees.leaves(s.meta)], loss, buffers
    gradient = torch.autograd.grad(loss, trees.leaves(leaves), allow_unused=True, materialize_grads=True)
    return list(gradient), loss.detach(), buffers


def is_near(left: torch.Tensor, right: torch.Tensor) -> bool:
    difference, size = float((left - right).norm()), float(right.norm())
    return difference <= TOLERANCE[left.dtype] * (1 + size)


def check_training(s: Start) -> None:
    gradient, loss, logs, buffers = meta_gradient(s, chunk=2)
    assert bool(loss.isfinite())
    assert bool(trees.is_finite(gradient))
    assert s.net.objective.metric.name in logs
    assert types(gradient) == types(s.meta)
    assert types(buffers) == types(s.buffers)

    by_loop, loop_loss, loop_buffers = looped(s)
    assert all(is_near(a, b) for a, b in zip(trees.leaves(gradient), by_loop, strict=True))
    assert is_near(loss, loop_loss)
    assert all(is_near(a, b) for a, b in zip(trees.leaves(buffers), trees.leaves(loop_buffers), strict=True))

    again, *_ = meta_gradient(s, chunk=2)
    assert all(torch.equal(a, b) for a, b in zip(trees.leaves(gradient), trees.leaves(again), strict=True))
    check_update(s, gradient)


def check_update(s: Start, gradient: Tree) -> None:
    optimizer = s.algorithm.optimizer(s.h)
    state, meta = optimizer.init(s.meta), s.meta
    for _ in range(2):
        before = types(state)
        meta, state, _ = optimizer.update(gradient, state, meta, PROGRESS)
        assert types(meta) == types(s.meta)
        assert types(state) == before
    assert bool(trees.is_finite(meta))


def check_evaluation(s: Start, is_independent: bool) -> None:
    def outputs(task: Task) -> Tree:
        learner = s.algorithm.adapt(s.net, s.meta, s.buffers, task.support, s.h)
        predictions = {"together": s.algorithm.predict(s.net, learner, task.query.x)}
        if is_independent:
            predictions["alone"] = s.algorithm.predict(s.net, learner, task.query.x[:1])
        return predictions

    vectorised, single = vectorise.per_task(outputs, s.tasks), outputs(problems.one(s.tasks, 0))
    query = s.tasks.query
    together = single["together"]
    assert together.shape == (query.x.shape[1], s.net.outputs)
    assert (together.dtype, together.device) == (query.x.dtype, query.x.device)
    assert bool(together.isfinite().all())
    assert is_near(vectorised["together"][0], together)
    if is_independent:
        assert is_near(single["alone"], together[:1])


@pytest.mark.parametrize(("norm", "batch_norm", "dtype"), CASES)
@pytest.mark.parametrize("name", [*able("classification"), *able(GROUPED)])
def test_classification(name: str, norm: str, batch_norm: str, dtype: torch.dtype, device: str) -> None:
    net = problems.network(batch_norm, norm)
    s = begin(name, net, problems.tasks(2, device), device, dtype)
    check_training(s)
    check_evaluation(s, is_independent=norm != "batch" or batch_norm != "transductive")


@pytest.mark.parametrize("dtype", TYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", able("regression"))
def test_regression(name: str, dtype: torch.dtype, device: str) -> None:
    s = begin(name, problems.point_network(), problems.points(2, device=device), device, dtype)
    check_training(s)
    check_evaluation(s, is_independent=True)


@pytest.mark.parametrize("dtype", TYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", able("control"))
def test_control(name: str, dtype: torch.dtype, device: str) -> None:
    net, tasks = problems.acted(name, "bandit", device, eval_steps=3)
    s = begin(name, net, problems.cast(tasks, dtype), device, dtype)
    check_training(s)
    check_evaluation(s, is_independent=True)


def is_allowed(name: str, values: dict[str, Any]) -> bool:
    """Tell whether settings go together."""
    try:
        algorithms.hparams(name, values)
    except MetabenchError:
        return False
    return True


def variants() -> list[Any]:
    """List every other choice and every turned switch of every algorithm."""
    cases = []
    for name in algorithms.names():
        for field in dataclasses.fields(algorithms.get(name).hparams):
            choices = field.metadata["choices"] or ((False, True) if isinstance(field.default, bool) else ())
            cases += [
                pytest.param(name, {field.name: value}, id=f"{name}-{field.name}-{value}")
                for value in choices
                if value != field.default and is_allowed(name, {field.name: value})
            ]
    return cases


@pytest.mark.parametrize(("name", "values"), variants())
def test_every_choice_and_switch_keeps_shapes_and_precision(name: str, values: dict[str, Any]) -> None:
    s = begin(name, *usual(name), **values)
    gradient, loss, *_ = meta_gradient(s, chunk=2)
    assert bool(loss.isfinite())
    assert types(gradient) == types(s.meta)
    check_update(s, gradient)
    check_evaluation(s, is_independent=True)


@pytest.mark.parametrize("name", algorithms.names())
def test_adaptation_is_shown_the_support_set_and_no_query(name: str) -> None:
    parameters = list(inspect.signature(algorithms.get(name).adapt).parameters.values())
    assert [parameter.name for parameter in parameters[:5]] == ["net", "meta", "buffers", "support", "h"]
    assert all(parameter.default is not parameter.empty for parameter in parameters[5:])


@pytest.mark.parametrize("name", algorithms.names())
def test_traits_are_those_of_the_settings_and_of_what_is_learnt(name: str) -> None:
    algorithm, h = algorithms.get(name), algorithms.hparams(name, {})
    fields = set(algorithm.hparams.__dataclass_fields__)
    assert set(algorithm.inner_steps) == {"eval_steps", "inner_steps"} & fields
    assert not algorithm.has_recompute or "recompute" in fields
    meta, _ = algorithm.init(problems.network(), h, seeds.generator("conformance"))
    if (rates := algorithm.inner_rates) is not None:
        first = torch.tensor(getattr(h, rates.first))
        assert all(bool((leaf == first).all()) for leaf in trees.leaves(meta[rates.entry]))


@pytest.mark.parametrize("name", algorithms.names())
def test_the_same_seed_starts_alike_and_in_full_precision(name: str) -> None:
    net, algorithm = problems.network(), algorithms.get(name)
    h = algorithms.hparams(name, {})
    one, same = (algorithm.init(net, h, seeds.generator("conformance")) for _ in range(2))
    for left, right in zip(one, same, strict=True):
        assert types(left) == types(right)
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(left), trees.leaves(right), strict=True))
    assert all(leaf.dtype == torch.float32 for leaf in trees.leaves(one[0]))


@pytest.mark.parametrize("name", algorithms.names())
def test_autocast_is_refused_by_name(name: str, device: str) -> None:
    s = begin(name, *usual(name, device), device)
    with torch.autocast(device, dtype=torch.bfloat16), pytest.raises(MetabenchError, match="autocast"):
        meta_gradient(s, chunk=1)
    with torch.autocast(device, dtype=torch.bfloat16), pytest.raises(MetabenchError, match="autocast"):
        check_evaluation(s, is_independent=False)
