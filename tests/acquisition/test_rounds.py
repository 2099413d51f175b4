"""Asking in rounds: what is revealed, what the learner is given, and what no acquisition can see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from metabench import acquisition, algorithms
from metabench.acquisition import NO_CLASS, REFERENCE, rounds
from metabench.acquisition import pools as pooling
from metabench.acquisition.config import LabelConfig, in_pool
from metabench.acquisition.pools import Block
from metabench.acquisition.rounds import HIDDEN, Labelled
from metabench.core import SemiSupport, Splits, Support
from metabench.core.config import NetworkConfig
from metabench.training import evaluate
from metabench.training.vectorise import Model
from tests.acquisition import tasks

BLIND = [name for name in acquisition.names() if name != "oracle"]
CLASSIFIERS = algorithms.names("classification")
BATCH = NetworkConfig(width=4, norm="batch", batch_norm="transductive")


@pytest.fixture(scope="module")
def splits() -> Splits:
    """Make classes of twelve examples each."""
    from tests.support import small

    return small.splits(n_examples=12)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Draw networks and cut pictures in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def ask(
    splits: Splits, names: Sequence[str], config: LabelConfig = tasks.CONFIG, model: Model | None = None
) -> dict[str, Labelled]:
    """Let acquisitions ask in small tasks."""
    model = model or tasks.untrained("protonet", splits)
    rules = {name: tasks.rule(name) for name in names}
    return dict(rounds.label(model, splits.meta_test.images, tasks.drawn(splits, config), rules, config))


def block_of(splits: Splits, model: Model, config: LabelConfig = tasks.CONFIG) -> tuple[Model, Block]:
    """Return the learner, and the only block of small tasks, as it is given to it."""
    model, blocks = pooling.blocks(model, splits.meta_test.images, tasks.drawn(splits, config), config)
    (block,) = blocks()
    return model, block


@pytest.mark.parametrize("network", [tasks.GROUP, BATCH], ids=["group", "batch"])
def test_with_the_whole_pool_labelled_all_acquisitions_are_equal(
    splits: Splits, network: NetworkConfig
) -> None:
    """Moments of batch norm that came from the labelled would differ by what was asked for first."""
    config = tasks.CONFIG.model_copy(update={"pool": 2, "distractors": 1, "rounds": 4, "batch": 2})
    labelled = ask(splits, acquisition.names(), config, tasks.untrained("protonet", splits, network))
    for name, each in labelled.items():
        assert np.array_equal(each.accuracy[:, 0], labelled[REFERENCE].accuracy[:, 0]), name
        assert np.array_equal(each.accuracy[:, -1], labelled[REFERENCE].accuracy[:, -1]), name
        assert (each.wasted[:, -1] == 2).all()
        assert [sorted(row) for row in each.picked.tolist()] == [list(range(8))] * 6


@pytest.mark.parametrize("start", [1, 2])
def test_before_the_first_label_the_learner_is_the_one_that_a_test_scores(splits: Splits, start: int) -> None:
    config = tasks.CONFIG.model_copy(update={"start": start, "rounds": 0})
    for name in ("protonet", "maml"):
        model = tasks.untrained(name, splits)
        plain = evaluate.evaluate(model, splits.meta_test.images, tasks.drawn(splits, config))
        assert np.allclose(ask(splits, ["random"], config, model)["random"].accuracy[:, 0], plain.score)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_learner_goes_with_labels_and_distractors_and_classes_without_any(
    splits: Splits, name: str
) -> None:
    config = tasks.CONFIG.model_copy(update={"start": 0, "rounds": 2, "batch": 2, "tasks": 3})
    network = NetworkConfig(name="mlp", width=4, norm="batch")
    (labelled,) = ask(splits, ["random"], config, tasks.untrained(name, splits, network)).values()
    assert np.allclose(labelled.accuracy[:, 0], 1 / 3)
    assert np.isfinite(labelled.accuracy).all()
    # Of a class without a label no query is right.
    assert (labelled.accuracy <= np.maximum(labelled.classes / 3, 1 / 3) + 1e-9).all()


@pytest.mark.parametrize("name", [one for one in CLASSIFIERS if algorithms.get(one).is_of_features])
@pytest.mark.parametrize("network", [tasks.GROUP, BATCH], ids=["group", "batch"])
def test_a_learner_of_features_says_the_same_of_pictures(
    splits: Splits, name: str, network: NetworkConfig, in_float64: None
) -> None:
    """In float64, so that no tie falls otherwise."""
    model = tasks.untrained(name, splits, network)
    config = tasks.CONFIG.model_copy(update={"tasks": 3})
    by_features = ask(splits, ["k_centre", "oracle", "learned"], config, model)
    of_pictures = model._replace(algorithm=model.algorithm._replace(is_of_features=False))
    for one, each in ask(splits, ["k_centre", "oracle", "learned"], config, of_pictures).items():
        assert np.array_equal(each.picked, by_features[one].picked)
        assert np.array_equal(each.accuracy, by_features[one].accuracy)


@pytest.mark.parametrize("name", [one for one in CLASSIFIERS if algorithms.get(one).head is not None])
def test_differences_of_logits_are_affine_in_features_where_a_head_is_declared(
    splits: Splits, name: str
) -> None:
    network = NetworkConfig(name="mlp", width=3, norm="none")
    model, block = block_of(splits, tasks.untrained(name, splits, network))
    algorithm, net, meta, buffers, h = model
    support: Any = Support(block.x[0, :3], block.start_y[0])
    if algorithm.taken is not None:
        support = SemiSupport(*support, block.x[0, 3 : block.n_around])
    net = net._replace(way=3)
    learner = algorithm.adapt(net, meta, buffers, support, h)
    logits = algorithm.predict(net, learner, block.x[0]).double()
    features = net.embed(learner["params"], block.x[0])[0].double()
    apart = logits - logits[:, :1]
    inputs = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    fitted = inputs @ torch.linalg.lstsq(inputs, apart, driver="gelsd").solution
    assert torch.allclose(fitted, apart, atol=1e-4 * float(apart.abs().max() + 1e-3))


def test_a_distractor_that_was_asked_for_changes_nothing_for_the_learner(splits: Splits) -> None:
    for name in ("protonet", "maml"):
        model, block = block_of(splits, tasks.untrained(name, splits, BATCH))
        before = torch.full_like(block.pool_y, HIDDEN)
        after = before.masked_fill(block.pool_y == NO_CLASS, NO_CLASS)
        rows = torch.arange(len(before))
        one, other = (rounds.outlook(model, block, rows, state, of_pool=True) for state in (before, after))
        assert torch.equal(one.p, other.p)
        assert torch.equal(one.score, other.score)


def test_a_label_changes_no_moments(splits: Splits) -> None:
    """With batch norm, of pictures: all are normalised by the start and the whole pool."""
    model = tasks.untrained("protonet", splits, BATCH)
    model = model._replace(algorithm=model.algorithm._replace(is_of_features=False))
    model, block = block_of(splits, model)
    net, theta = model.net, model.meta["theta"]
    look = rounds.outlook(model, block, torch.arange(6), torch.full_like(block.pool_y, HIDDEN), of_pool=True)
    for task in range(6):
        around = block.x[task, : block.n_around]
        features, moments = net.embed(theta, around)
        assert torch.allclose(look.x[task], features, atol=1e-5)
        seen = torch.cat([block.x[task, :3], around[3:]])
        c, pool = net.embed(theta, seen, moments)[0].split([3, len(around) - 3])
        p = (-torch.cdist(pool, c).square()).softmax(-1)
        assert torch.allclose(look.p[task], p, atol=1e-4)


ENTROPY = {"unlabelled_loss": "entropy", "unlabelled_weight": 1.0, "warm_up": 0}


@pytest.mark.parametrize(
    ("name", "values"), [("r2d2", {}), ("soft_kmeans", {"refinement": "soft"}), ("maml_semi", ENTROPY)]
)
def test_a_label_counts_as_if_it_had_been_in_the_support_set(
    splits: Splits, name: str, values: dict[str, Any]
) -> None:
    """And no longer among the unlabelled examples, of a learner that reads these."""
    model, block = block_of(splits, tasks.untrained(name, splits, **values))
    at = (block.pool_y >= 0).long().argmax(1)
    revealed = torch.full_like(block.pool_y, HIDDEN)
    revealed = revealed.scatter(1, at[:, None], block.pool_y.gather(1, at[:, None]))
    look = rounds.outlook(model, block, torch.arange(len(at)), revealed, of_pool=True)
    algorithm, net, meta, buffers, h = model
    for task, place in enumerate(at.tolist()):
        x = torch.cat([block.x[task, :3], block.x[task, 3 + place : 4 + place]])
        y = torch.cat([block.start_y[task], block.pool_y[task, place : place + 1]])
        support: Any = Support(x, y)
        pool = block.x[task, 3 : block.n_around]
        if algorithm.taken is not None:
            support = SemiSupport(x, y, torch.cat([pool[:place], pool[place + 1 :]]))
        learner = algorithm.adapt(net._replace(way=3), meta, buffers, support, h)
        p = algorithm.predict(net._replace(way=3), learner, pool).softmax(-1)
        assert torch.allclose(look.p[task], p, atol=1e-5)
        logits = algorithm.predict(net._replace(way=3), learner, block.x[task, block.n_around :])
        right = (logits.argmax(-1) == block.query_y[task]).double().mean()
        assert float(look.score[task]) == pytest.approx(float(right))


@pytest.mark.parametrize("name", BLIND)
def test_labels_that_were_not_revealed_change_no_choice(splits: Splits, name: str) -> None:
    config = tasks.CONFIG.model_copy(update={"tasks": 4})
    model, block = block_of(splits, tasks.untrained("protonet", splits), config)
    noise = torch.rand(3, 4, 1, block.pool_y.shape[1], generator=torch.Generator().manual_seed(0))
    rule = tasks.rule(name)
    honest = rounds.ask(model, block, rule, config, noise)
    picked = torch.from_numpy(honest.picked)
    poisoned = ((block.pool_y + 2) % 3).scatter(1, picked, block.pool_y.gather(1, picked))
    other = rounds.ask(model, block._replace(pool_y=poisoned), rule, config, noise)
    assert np.array_equal(other.picked, honest.picked)
    assert np.array_equal(other.accuracy, honest.accuracy)


def test_the_oracle_is_ahead_of_all_after_one_label(splits: Splits) -> None:
    config = tasks.CONFIG.model_copy(update={"rounds": 1})
    labelled = ask(splits, acquisition.names(), config)
    for name, each in labelled.items():
        assert (labelled["oracle"].accuracy[:, 1] >= each.accuracy[:, 1]).all(), name
    assert (labelled["oracle"].accuracy[:, 1] >= labelled["oracle"].accuracy[:, 0]).all()


@pytest.mark.parametrize(("skew", "counts"), [(1.0, [4, 4, 4]), (4.0, [4, 2, 1])])
def test_a_pool_has_each_class_as_often_as_its_skew_says(
    splits: Splits, skew: float, counts: list[int]
) -> None:
    config = tasks.CONFIG.model_copy(update={"skew": skew})
    assert in_pool(config, 3) == counts
    _, block = block_of(splits, tasks.untrained("nearest_mean", splits), config)
    for labels in block.pool_y.tolist():
        assert [labels.count(k) for k in range(3)] == counts
        assert labels.count(NO_CLASS) == 8


def test_a_pool_holds_other_pictures_of_the_classes_in_random_order(splits: Splits) -> None:
    """The small pictures have a middle that tells their class; queries and start are not in the pool."""
    _, block = block_of(splits, tasks.untrained("nearest_mean", splits))
    pool = block.x[:, block.n_start : block.n_around].flatten(2)
    rest = torch.cat([block.x[:, : block.n_start], block.x[:, block.n_around :]], 1).flatten(2)
    assert float(torch.cdist(pool, rest).min()) > 0
    means = torch.stack(
        [block.x[:, block.n_around :].flatten(2)[:, 3 * k : 3 * k + 3].mean(1) for k in range(3)], 1
    )
    nearest = torch.cdist(pool, means).argmin(-1)
    is_ours = block.pool_y >= 0
    assert torch.equal(nearest[is_ours], block.pool_y[is_ours])
    assert (block.pool_y.diff(dim=1) < 0).any(1).all(), "class by class, an order would tell labels"
    assert len({tuple(row) for row in block.pool_y.tolist()}) == 6


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_some_tasks_may_have_labels_of_distractors_alone(splits: Splits, name: str) -> None:
    config = tasks.CONFIG.model_copy(update={"start": 0, "pool": 2, "rounds": 2, "query": 2})
    labelled = ask(splits, ["random", "k_centre", "oracle"], config, tasks.untrained(name, splits))
    after_one = np.concatenate([each.classes[:, 1] for each in labelled.values()])
    assert set(after_one) == {0, 1}
    for each in labelled.values():
        assert np.allclose(each.accuracy[each.classes == 0], 1 / 3)
    assert (labelled["oracle"].wasted[:, 1] == 0).all()
