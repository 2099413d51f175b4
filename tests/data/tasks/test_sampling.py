"""Tasks of every kind: ways and shots that vary, unbalanced support, unlabelled images, domains, weights."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabench import algorithms, data
from metabench.core import MetabenchError, SemiSupport, Split, Support, Task, seeds, trees
from metabench.core.config import Between, TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.sampling import Indices, Pool, Shape
from metabench.training import evaluate, loop, vectorise
from tests.support import small

RANGES = small.TASK.model_copy(update={"way": Between(low=2, high=4), "shot": Between(low=1, high=3)})


def table(n_classes: int = 12, n_examples: int = 20, domains: int = 1, **changes: object) -> Split:
    """Make a split whose images say which they are: pixel 0 is the class, pixel 1 the example."""
    images = torch.zeros(n_classes, n_examples, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = torch.arange(n_classes, dtype=torch.uint8)[:, None, None, None]
    images[..., 1] = torch.arange(n_examples, dtype=torch.uint8)[None, :, None, None]
    each = n_classes // domains
    homes = tuple(f"domain{row // each}" for row in range(n_classes))
    names = tuple(f"{home}/class{row % each}" for row, home in enumerate(homes))
    return Split(images, names, homes)._replace(**changes)


def identity(x: torch.Tensor) -> list[tuple[int, int]]:
    """Read which images [n, 1, 1, 2] are."""
    return [(round(float(c) * 255), round(float(e) * 255)) for c, e in x[:, 0, 0]]


def draw(shape: Shape, source: Pool | None = None, n_tasks: int = 20, seed: int = 0) -> tuple[Indices, Task]:
    source = source or sampling.pool(table(), TaskConfig(dataset="small"))
    indices = sampling.sample(seeds.generator("draw", seed), source, shape, n_tasks)
    return indices, frozen.gather(source.split.images, indices, shape)


def one(tasks: Task, index: int) -> Task:
    support, query = (type(half)(*(leaf[index] for leaf in half)) for half in tasks[:2])  # type: ignore[arg-type]
    return Task(support, query, tasks.classes[index])


@settings(max_examples=40)
@given(
    way=st.integers(2, 5),
    shot=st.integers(2, 4),
    extra=st.integers(1, 3),
    query=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_unbalanced_support_has_the_whole_size_and_keeps_every_bound(
    way: int, shot: int, extra: int, query: int, seed: int
) -> None:
    shape = Shape(way, shot, query, most_shots=shot + extra)
    indices, tasks = draw(shape, n_tasks=4, seed=seed)
    assert tasks.support.x.shape[:2] == (4, way * shot)
    for index in range(4):
        task = one(tasks, index)
        counts = Counter(task.support.y.tolist())
        assert set(counts) == set(range(way))
        assert max(counts.values()) <= shot + extra
        support, query_images = identity(task.support.x), identity(task.query.x)
        assert len(set(support + query_images)) == way * (shot + query)
        rows = indices.classes[index].tolist()
        assert [rows[label] for label in task.support.y.tolist()] == [c for c, _ in support]
        assert [rows[label] for label in task.query.y.tolist()] == [c for c, _ in query_images]


def test_unbalanced_shots_are_spread_as_random_throws_into_classes_with_room() -> None:
    shape = Shape(2, 3, 1, most_shots=5)
    indices, _ = draw(shape, n_tasks=4000)
    assert indices.shots is not None
    # Four throws after one each; 5 is all of them and 4 more fit, so the first count is 1 + Binomial(4, 1/2).
    shares = torch.bincount(indices.shots[:, 0], minlength=6)[1:] / 4000
    expected = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    assert float((shares - expected).abs().max()) < 0.03  # standard deviations are at most 0.008


def test_a_task_of_equal_shots_is_drawn_as_before_there_were_others() -> None:
    split = table()
    generator = seeds.generator("plain")
    classes = torch.rand(5, 12, generator=generator).topk(3).indices
    examples = torch.rand(5, 3, 20, generator=generator).topk(4).indices
    source = sampling.pool(split, TaskConfig(dataset="small"))
    indices = sampling.sample(seeds.generator("plain"), source, Shape(3, 1, 3), 5)
    assert torch.equal(indices.classes, classes)
    assert torch.equal(indices.examples, examples)


def test_unlabelled_images_are_of_the_tasks_classes_and_the_distractors_shuffled_and_new() -> None:
    shape = Shape(3, 2, 2, unlabelled=4, distractors=2)
    indices, tasks = draw(shape)
    assert isinstance(tasks.support, SemiSupport)
    assert indices.distractors is not None
    orders = set()
    for index in range(20):
        task = one(tasks, index)
        beside = identity(task.support.unlabelled)  # type: ignore[attr-defined]
        counts = Counter(c for c, _ in beside)
        of_task, others = indices.classes[index].tolist(), indices.distractors[index].tolist()
        assert counts == dict.fromkeys(of_task + others, 4)
        assert not set(of_task) & set(others)
        assert not set(beside) & set(identity(task.support.x) + identity(task.query.x))
        assert len(set(beside)) == 20
        orders.add(tuple((of_task + others).index(c) for c, _ in beside))
    assert len(orders) == 20  # their order tells no class


def test_ways_and_shots_of_a_range_all_occur_equally_often() -> None:
    groups = sampling.shapes(RANGES, 2, 9000, seeds.generator("shapes"))
    assert [(shape.way, shape.shot) for shape, _ in groups] == [(w, s) for w in (2, 3, 4) for s in (1, 2, 3)]
    # 1000 each, with a standard deviation of 30
    assert all(850 < len(positions) < 1150 for _, positions in groups)
    together = torch.cat([positions for _, positions in groups])
    assert torch.equal(together.sort().values, torch.arange(9000))


def test_within_a_domain_all_classes_are_of_one_and_domains_count_by_their_classes() -> None:
    split = table(12, domains=3)
    uneven = split._replace(domains=("a",) * 6 + ("b",) * 4 + ("c",) * 2)
    source = sampling.pool(uneven, TaskConfig(dataset="small", way=3, domains="within"))
    indices, _ = draw(Shape(3, 1, 1), source, 3000)
    homes = [{uneven.domains[row] for row in task} for task in indices.classes.tolist()]
    assert all(len(home) == 1 for home in homes)
    share = sum(home == {"a"} for home in homes) / 3000
    assert abs(share - 0.6) < 0.05  # c is too small for a task; standard deviation 0.009
    assert {"c"} not in homes


def test_across_domains_support_and_query_are_of_two_and_classes_have_the_same_name() -> None:
    split = table(12, domains=3)
    source = sampling.pool(split, TaskConfig(dataset="small", way=3, domains="across"))
    indices, tasks = draw(Shape(3, 2, 2), source, 60)
    seen = set()
    for index in range(60):
        task = one(tasks, index)
        support, query = ([c for c, _ in identity(half.x)] for half in (task.support, task.query))
        first, second = ({split.domains[row] for row in rows} for rows in (support, query))
        assert len(first) == len(second) == 1
        assert first != second
        seen.add((*first, *second))
        names = {int(y): row % 4 for y, row in zip(task.support.y, support, strict=True)}
        assert all(names[int(y)] == row % 4 for y, row in zip(task.query.y, query, strict=True))
    assert len(seen) == 6
    assert indices.query_classes is not None


def test_weights_make_classes_likelier_in_their_proportion() -> None:
    weights = torch.tensor([1.0] * 6 + [3.0] * 6)
    source = sampling.pool(table(weights=weights), TaskConfig(dataset="small"))
    indices, _ = draw(Shape(1, 1, 1), source, 8000)
    share = float((indices.classes >= 6).float().mean())
    assert abs(share - 0.75) < 0.025  # standard deviation 0.005


def test_domains_that_cannot_make_a_task_are_refused() -> None:
    split = table(12, domains=3)
    with pytest.raises(MetabenchError, match="no domain has the 5 classes of a task; the largest has 4"):
        sampling.pool(split, TaskConfig(dataset="small", way=5, domains="within"))
    alone = split._replace(classes=tuple(f"class{row}" for row in range(12)))
    with pytest.raises(MetabenchError, match="the most that two share is 0"):
        sampling.pool(alone, TaskConfig(dataset="small", way=3, domains="across"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"most_shots": 2, "shot": 2}, "most_shots=2: must be > shot=2"),
        ({"distractors": 1}, "distractors=1: have unlabelled images only"),
        ({"way": {"low": 4, "high": 4}}, "low must be < high"),
        ({"way": {"low": 0, "high": 4}}, "way.low=0"),
        ({"way": "many"}, "way='many'"),
        ({"shot": 0}, "shot=0"),
        ({"way": {"low": 2, "hihg": 4}}, "Did you mean 'high'"),
    ],
)
def test_a_wrong_kind_of_task_is_told_in_one_line(values: dict[str, object], message: str) -> None:
    from pydantic import ValidationError

    from metabench.core.config import problems

    with pytest.raises(ValidationError) as caught:
        TaskConfig.model_validate({"dataset": "glyphs", **values})
    assert message in "\n".join(problems(caught.value, TaskConfig))


def test_what_a_data_set_has_too_little_of_is_named() -> None:
    splits = small.splits()
    wanted = {"way": Between(low=2, high=5), "shot": 2, "most_shots": 4, "unlabelled": 2, "distractors": 2}
    task = small.TASK.model_copy(update=wanted)
    with pytest.raises(MetabenchError) as caught:
        data.check(task, splits)
    assert "way=5 and distractors=2: meta_train of small has only 6 classes" in str(caught.value)
    assert "most_shots=4 and query=2 and unlabelled=2 need 8 examples a class" in str(caught.value)


def test_frozen_tasks_of_a_range_come_in_the_order_of_their_positions() -> None:
    splits = small.splits(n_examples=8)
    many = frozen.frozen(splits, "meta_test", RANGES, 30, "test")
    assert len(many.groups) > 3
    few = frozen.between(many, 0, 7)
    again = frozen.frozen(splits, "meta_test", RANGES, 7, "test")
    for mine, theirs in zip(few.groups, again.groups, strict=True):
        assert mine.shape == theirs.shape
        assert torch.equal(mine.positions, theirs.positions)
        assert torch.equal(mine.indices.examples, theirs.indices.examples)

    def sizes(model: vectorise.Model, task: Task) -> trees.Tree:
        return {"way": task.support.y.max() + 1, "n": torch.ones(()) * len(task.support.y)}

    config = small.config().model_copy(update={"task": RANGES})
    learner = loop.build(config, splits)
    model = loop.model(learner, loop.start(config, learner))
    results = evaluate.over(sizes, model, splits.meta_test.images, many)
    for group in many.groups:
        for position in group.positions.tolist():
            assert results["way"][position] == group.shape.way
            assert results["n"][position] == group.shape.way * group.shape.shot


LEARNERS = algorithms.names("classification")


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"way": Between(low=2, high=4), "shot": Between(low=1, high=3)},
        {"shot": 2, "most_shots": 4},
        {"unlabelled": 1, "distractors": 1},
        {"domains": "within"},
    ],
    ids=["ranges", "unbalanced", "unlabelled", "within"],
)
def test_every_algorithm_learns_from_every_kind_of_task(name: str, changes: dict[str, object]) -> None:
    splits = small.splits(n_examples=9)
    task = small.TASK.model_copy(update=changes)
    fields = algorithms.get(name).hparams.__dataclass_fields__
    values = {key: value for key, value in {"task_batch_size": 6, "inner_steps": 2}.items() if key in fields}
    config = small.config(name).model_copy(update={"task": task, "hyperparameters": values, "tasks": 6})
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    if learner.algorithm.is_trained:
        state, logs = loop.meta_step(config, learner, sampling.pool(splits.meta_train, task), state, 6)
        assert bool(torch.isfinite(logs["loss"]))
        assert bool(trees.is_finite(state.meta))
    tasks = frozen.frozen(splits, "meta_test", task, 8, "test")
    results = evaluate.evaluate(loop.model(learner, state), splits.meta_test.images, tasks)
    assert results.score.shape == (8,)
    assert ((results.score >= 0) & (results.score <= 1)).all()


@pytest.mark.parametrize("name", ["maml", "maml_pp", "protonet", "r2d2", "snail", "reptile"])
def test_tasks_of_several_shapes_give_the_mean_of_their_gradients(name: str) -> None:
    splits = small.splits(n_examples=9)
    task = small.TASK.model_copy(update={"way": Between(low=2, high=4)})
    config = small.config(name).model_copy(update={"task": task, "hyperparameters": {}})
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    source = sampling.pool(splits.meta_train, task)
    groups = []
    for shape, n_tasks in ((Shape(2, 1, 2), 3), (Shape(4, 1, 2), 1)):
        indices = sampling.sample(seeds.generator("groups", shape.way), source, shape, n_tasks)
        groups.append(frozen.gather(source.split.images, indices, shape))
    model = loop.model(learner, state)
    whole, loss, *_ = vectorise.grouped_meta_gradient(model, groups, 0.5)
    parts = [vectorise.grouped_meta_gradient(model, [group], 0.5)[:2] for group in groups]
    expected = trees.map(lambda a, b: 0.75 * a + 0.25 * b, parts[0][0], parts[1][0])
    for mine, theirs in zip(trees.leaves(whole), trees.leaves(expected), strict=True):
        torch.testing.assert_close(mine, theirs)  # float32: the order of a sum
    torch.testing.assert_close(loss, 0.75 * parts[0][1] + 0.25 * parts[1][1])


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "boil", "meta_sgd", "alpha_maml"])
def test_a_task_of_fewer_ways_sees_a_network_cut_to_its_ways(name: str) -> None:
    splits = small.splits(n_examples=9)
    config = small.config(name)
    learner = loop.build(config.model_copy(update={"task": small.TASK.model_copy(update={"way": 5})}), splits)
    state = loop.start(config, learner)
    shape = Shape(3, 1, 2)
    source = sampling.pool(splits.meta_train, small.TASK)
    indices = sampling.sample(seeds.generator("cut"), source, shape, 2)
    tasks = frozen.gather(source.split.images, indices, shape)
    gradient, loss, *_ = vectorise.grouped_meta_gradient(loop.model(learner, state), [tasks], 0.5)
    head = gradient["theta"]["head"]
    assert not head["weight"][3:].any()
    assert not head["bias"][3:].any()
    assert head["weight"][:3].any() or name == "boil"
    narrow = loop.build(config, splits)

    def cut(tree: trees.Tree) -> trees.Tree:
        return {
            key: (trees.map(lambda leaf: leaf[:3], value) if key == "head" else cut(value))
            if isinstance(value, dict)
            else value
            for key, value in tree.items()
        }

    expected, small_loss, *_ = vectorise.meta_gradient(
        vectorise.Model(narrow.algorithm, narrow.net, cut(state.meta), state.buffers, narrow.h), tasks, 0.5, 8
    )
    torch.testing.assert_close(loss, small_loss)
    for mine, theirs in zip(trees.leaves(cut(gradient)), trees.leaves(expected), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_support_alone_is_what_adaptation_sees_of_plain_tasks() -> None:
    _, tasks = draw(Shape(3, 1, 1))
    assert type(tasks.support) is Support
