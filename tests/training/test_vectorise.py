"""How many tasks are computed at once changes no number, and a memory that is too small costs time alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metabench import data, nets
from metabench.core import Task, seeds, trees
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import frozen as episodes
from metabench.data.tasks import sampling
from metabench.training import evaluate, loop, vectorise
from metabench.training.graphs.trace import TraceCache
from tests.algorithms import problems
from tests.support import small


class Room:
    """A device that holds so many tasks at once, and no more."""

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks
        self.tried: list[int] = []

    def limit(self, n_tasks: int) -> None:
        """Do as torch does where memory is too small."""
        self.tried.append(n_tasks)
        if n_tasks > self.n_tasks:
            raise torch.OutOfMemoryError(f"no room for {n_tasks} tasks")


class Small(TraceCache):
    """A traces whose device has little room."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room

    def run(self, name: Any, function: Callable[..., Any], *args: Any) -> Any:
        """Refuse what does not fit."""
        self.room.limit(len(args[-1].classes))
        return function(*args)


@pytest.mark.parametrize(("fits", "tried"), [(8, [8]), (3, [8, 4, 2, 2, 2, 2]), (1, [8, 4, 2, *[1] * 8])])
def test_tasks_that_do_not_fit_are_halved_and_have_the_same_gradient(fits: int, tried: list[int]) -> None:
    step = prepared(8)
    room = Room(fits)
    traces = Small(room)
    halved, expected = step(traces), step(None)
    assert room.tried == tried
    assert trees.norm(trees.map(torch.sub, halved[0], expected[0])) < 1e-5 * trees.norm(expected[0])
    room.tried.clear()
    step(traces)
    assert room.tried == tried[-(8 // tried[-1]) :]  # what fitted is tried first from then on


def test_parts_are_as_few_as_may_be_and_alike() -> None:
    def sizes(n_tasks: int, size: int) -> list[int]:
        return vectorise.in_parts(lambda part: part.stop - part.start, n_tasks, size)[0]

    assert sizes(32, 25) == [16, 16]
    assert sizes(25, 25) == [25]
    assert sizes(10, 4) == [4, 3, 3]
    assert sizes(3, 8) == [3]


def test_a_task_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1 tasks"):
        prepared(8)(Small(Room(0)))


def test_evaluation_goes_on_with_fewer_tasks_where_memory_is_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits, config = small.splits(), small.config("maml")
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    frozen = episodes.frozen(splits, "meta_validation", config.task, 7, "search")
    model = loop.model(learner, state)
    expected = evaluate.evaluate(model, splits.meta_validation.images, frozen)
    room, per_task = Room(2), vectorise.per_task

    def limited(function: Callable[..., Any], tasks: Task, *shared: Any, **options: Any) -> Any:
        room.limit(len(tasks.classes))
        return per_task(function, tasks, *shared, **options)

    monkeypatch.setattr(vectorise, "per_task", limited)
    with_fewer = evaluate.evaluate(model, splits.meta_validation.images, frozen)
    assert max(room.tried) > 2 >= room.tried[-1]
    torch.testing.assert_close(
        torch.tensor(with_fewer.loss), torch.tensor(expected.loss), rtol=1e-5, atol=1e-6
    )
    assert (with_fewer.score == expected.score).all()


@pytest.mark.parametrize(
    ("width", "size", "expected"), [(8, 16, 32), (20, 28, 27), (64, 28, 8), (32, 84, 4), (128, 84, 4)]
)
def test_a_processor_takes_as_many_tasks_at_once_as_its_cache_has_room_for(
    width: int, size: int, expected: int
) -> None:
    net = nets.build(
        NetworkConfig(width=width, batch_norm="transductive"),
        5,
        (1, size, size),
        OBJECTIVES["classification"],
    )
    assert vectorise.at_once(net, torch.device("cpu")) == expected
    assert vectorise.at_once(net, torch.device("cuda")) == vectorise.MOST
    assert vectorise.at_once(net, torch.device("cpu"), 3) == 3


@pytest.mark.parametrize(("dataset", "times"), [("bandit", 100), ("tabular", 10), ("navigation", 1)])
def test_more_tasks_are_computed_at_once_the_shorter_their_environment(dataset: str, times: int) -> None:
    task = TaskConfig(dataset=dataset, way=1)
    environment = data.load(task).environment
    assert environment is not None
    net = problems.point_network()._replace(environment=environment)
    for name in ("cpu", "cuda"):
        assert vectorise.at_once(net, torch.device(name)) == times * vectorise.MOST
        assert vectorise.at_once(net, torch.device(name), 3) == times * 3


def prepared(n_tasks: int) -> Callable[[TraceCache | None], Any]:
    """Return a meta-gradient of so many tasks at once, by a traces."""
    splits = small.splits()
    config = small.config("maml").model_copy(update={"network": NetworkConfig(width=4)})
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    drawn = sampling.sample(
        seeds.generator("at once"),
        sampling.pool(splits.meta_train, config.task),
        sampling.Shape(3, 1, 2),
        n_tasks,
    )
    tasks = episodes.gather(splits.meta_train.images, drawn, sampling.Shape(3, 1, 2))
    model = loop.model(learner, state)
    return lambda traces: vectorise.meta_gradient(model, tasks, 0.0, n_tasks, traces)
