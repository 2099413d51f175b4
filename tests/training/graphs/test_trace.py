"""A recorded step gives the very numbers of the step it was recorded from, for any later tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.core import Splits, Task, Tree, seeds, trees
from metabench.core.config import NetworkConfig, RunConfig
from metabench.data.tasks import frozen as episodes
from metabench.data.tasks import sampling
from metabench.data.tasks.sampling import Shape
from metabench.training import evaluate, loop, vectorise
from metabench.training.graphs.record import record
from metabench.training.graphs.trace import TraceCache
from tests.support import small

TRAINED = [name for name in algorithms.names("classification") if algorithms.get(name).is_trained]


CONVOLVED = ("maml", "maml_pp", "protonet")
"""What is recorded with convolutions and batch norm, too; recording those takes seconds."""


SHORT = {"task_batch_size": 4, "inner_steps": 1, "eval_steps": 1}


def configure(name: str, **values: Any) -> RunConfig:
    fields = algorithms.get(name).hparams.__dataclass_fields__
    chosen = {key: value for key, value in SHORT.items() if key in fields}
    network = NetworkConfig(width=4) if name in CONVOLVED else NetworkConfig(name="mlp", width=8, norm="none")
    changes = {"hyperparameters": chosen | values, "network": network}
    return small.config(name).model_copy(update=changes)


def draw(splits: Splits, seed: int, way: int = 3) -> Task:
    shape = Shape(way, 1, 2)
    source = sampling.pool(splits.meta_train, small.TASK)
    drawn = sampling.sample(seeds.generator("replay", seed), source, shape, 4)
    return episodes.gather(source.split.images, drawn, shape)


def assert_identical(left: Tree, right: Tree) -> None:
    for (name, mine), (other, theirs) in zip(trees.items(left), trees.items(right), strict=True):
        assert name == other
        assert torch.equal(mine, theirs), name


OWN = NetworkConfig(module="tests.support.own_networks:conv4", head="17")


@pytest.mark.parametrize(("name", "network"), [*((name, None) for name in TRAINED), ("protonet", OWN)])
def test_replaying_gives_the_same_bits_for_new_tasks_parameters_buffers_and_settings(
    name: str, network: NetworkConfig | None, device: str
) -> None:
    splits, config = small.splits(), configure(name)
    config = config.model_copy(update={"network": network}) if network else config
    images = splits.meta_train.images.to(device)
    splits = splits._replace(meta_train=splits.meta_train._replace(images=images))
    learner = loop.build(config, splits)
    state = loop.start(config, learner, device)
    traces = TraceCache()
    for step in range(3):
        meta, buffers = (moved(tree, step) for tree in (state.meta, state.buffers))
        h = other_numbers(learner.h, step)
        model = loop.model(loop.build(config, splits), state)._replace(meta=meta, buffers=buffers, h=h)
        args = (model, draw(splits, step), 0.9 + 0.01 * step, 8)
        replayed, expected = vectorise.meta_gradient(*args, traces), vectorise.meta_gradient(*args)
        for mine, theirs in zip(replayed, expected, strict=True):
            assert_identical({"": mine}, {"": theirs})
    assert len(traces.recorded) == 1


@pytest.mark.parametrize("name", algorithms.names("classification"))
def test_replayed_evaluation_gives_the_same_bits_for_whatever_was_learnt(name: str, device: str) -> None:
    splits, config = small.splits(), configure(name)
    learner = loop.build(config, splits)
    state = loop.start(config, learner, device)
    images = splits.meta_validation.images.to(device)
    frozen = episodes.frozen(splits, "meta_validation", config.task, 6, "search")
    traces = TraceCache()
    for step in range(3):
        meta, buffers = (moved(tree, step) for tree in (state.meta, state.buffers))
        h = other_numbers(learner.h, step)
        model = loop.model(loop.build(config, splits), state)._replace(meta=meta, buffers=buffers, h=h)
        args = (model, images, frozen)
        replayed, expected = evaluate.evaluate(*args, traces), evaluate.evaluate(*args)
        assert (replayed.loss == expected.loss).all()
        assert (replayed.score == expected.score).all()
    assert len(traces.recorded) == 1


def other_numbers(h: Any, step: int) -> Any:
    """Return settings all of whose numbers are others, as of another trial; what is off stays off."""
    numbers = {name: value for name, value in vars(h).items() if type(value) is float}
    return dataclasses.replace(h, **{name: value * (1 + 0.1 * step) for name, value in numbers.items()})


def moved(tree: Tree, step: int) -> Tree:
    generator = seeds.generator("moved", step)
    return trees.map(lambda leaf: leaf + 0.01 * torch.rand(leaf.shape, generator=generator).to(leaf), tree)


class Composing(TraceCache):
    """Records nothing."""

    def run(self, name: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Compose."""
        return function(*args)


def test_training_is_the_same_whether_or_not_it_is_recorded() -> None:
    config, splits = configure("alpha_maml").model_copy(update={"tasks": 24}), small.splits()
    states = []
    for traces in (Composing(), TraceCache()):
        states.append([state for _, state in loop.train(config, splits, traces=traces)])
    for plain, replayed in zip(*states, strict=True):
        for mine, theirs in zip(plain[:3], replayed[:3], strict=True):
            assert_identical(mine, theirs)


def test_every_phase_of_maml_pp_and_every_shape_has_a_recording_of_its_own() -> None:
    fractions = {"multi_step_fraction": 0.2, "first_order_fraction": 0.5}
    four, mlp = small.TASK.model_copy(update={"way": 4}), NetworkConfig(name="mlp", width=8, norm="none")
    config = configure("maml_pp", **fractions, inner_steps=2)
    config, splits = config.model_copy(update={"task": four, "network": mlp}), small.splits()
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    traces = TraceCache()
    for progress, way in ((0.0, 4), (0.1, 4), (0.15, 4), (0.3, 4), (0.4, 4), (0.6, 4), (0.9, 4), (0.9, 3)):
        tasks = draw(splits, 0, way)
        args = (loop.model(learner, state), [tasks], progress)
        replayed = vectorise.grouped_meta_gradient(*args, traces)
        assert_identical(replayed[0], vectorise.grouped_meta_gradient(*args)[0])
    assert len(traces.recorded) == 4  # weighed steps; first order; second order; fewer ways


def test_a_second_trial_of_the_same_static_settings_composes_nothing() -> None:
    splits, traces, composed, reports = small.splits(), TraceCache(), [], []
    fractions = {"multi_step_fraction": 0.4, "derivative_annealing": False, "inner_steps": 2}
    for trial in range(2):
        rates = {"inner_lr": 0.1 + 0.2 * trial, "outer_lr": 1e-3 * (1 + trial)}
        config = configure("maml_pp", **fractions, **rates).model_copy(update={"tasks": 24, "seed": trial})
        reports.append([report.val_score for report, _ in loop.train(config, splits, traces=traces)])
        alone = [report.val_score for report, _ in loop.train(config, splits, traces=Composing())]
        assert reports[-1] == alone
        composed.append(traces.n_composed)
    assert composed[0] == composed[1] > 0
    assert reports[0] != reports[1]


def test_settings_that_python_decides_by_are_composed_each_time() -> None:
    def decides(row: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if row[0] > 1 else -x

    traces, x = TraceCache(), torch.ones(2)
    for number in (0.5, 2.0, 0.5):
        row = torch.tensor([number])
        assert torch.equal(traces.run("decides", decides, row, x), decides(row, x))
    assert traces.n_composed == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda row, x: (torch.tensor([row[0], 1.0]) * x).sum(),
        lambda row, x: x.new_tensor([row[0], 1.0])[0] * x,
        lambda row, x: torch.tensor([1.0, 2.0]).mul_(row) * x,
        lambda row, x: torch.zeros(2).new_tensor([0.0, 0.0]).add_(x),
    ],
)
def test_tensors_made_inside_are_made_anew_each_time(function: Callable[..., torch.Tensor]) -> None:
    traces, x = TraceCache(), torch.ones(2)
    for number in (0.5, 2.0, 3.0):
        row = torch.tensor([number])
        assert torch.equal(traces.run("makes", function, row, x), function(row, x))


def test_one_tensor_in_two_places_may_become_two() -> None:
    def function(both: dict[str, torch.Tensor]) -> torch.Tensor:
        return 3 * both["a"] + 5 * both["b"]

    traces, shared = TraceCache(), torch.zeros(2)
    for both in ({"a": shared, "b": shared}, {"a": torch.ones(2), "b": torch.full((2,), 10.0)}):
        assert torch.equal(traces.run("shares", function, both), function(both))


def test_the_latest_recordings_are_kept_up_to_a_bound() -> None:
    traces = TraceCache(most_operations=5)
    for name in (2, 3, 2, 4):
        traces.run(name, lambda x, name=name: sum((x.sin() for _ in range(name - 1)), x.sin()), torch.ones(2))
    assert [key[0] for key in traces.recorded] == [4]
    assert traces.n_operations() == 7
    assert traces.n_composed == 4


def test_a_replayed_step_leaves_no_graph_behind() -> None:
    weight = torch.ones(3, requires_grad=True)
    _, recording = record(lambda w: w.sin(), weight.detach())
    traces = TraceCache()
    assert not traces.run("sin", torch.sin, weight.detach()).requires_grad
    assert not traces.run("sin", torch.sin, weight).requires_grad
    assert torch.equal(recording(weight.detach()), weight.detach().sin())
