"""Laws of Fair-MAML: what its regularisers are, what they are not, and where they are silent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.algorithms import fair_maml
from metabench.core import GroupedQuery, MetabenchError, Task, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

SETTINGS = {"inner_lr": 0.3, "inner_steps": 2}
EVERY = [
    (fairness, regulariser)
    for fairness in ("parity", "opportunity", "odds")
    for regulariser in ("one_sided", "squared", "absolute")
]
SAME = 1e-12  # float64: the same sums in another order


def rows(n: int = 24) -> tuple[torch.Tensor, GroupedQuery]:
    """Draw outputs of rows with labels and groups, all four combinations among them."""
    generator = seeds.generator("fair rows")
    outputs = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    y, group = torch.arange(n) % 2, (torch.arange(n) // 2) % 3 // 2
    return outputs, GroupedQuery(outputs, y, group)


def settings(**values: Any) -> fair_maml.Settings:
    h: fair_maml.Settings = algorithms.hparams("fair_maml", values)
    return h


def regularised(outputs: torch.Tensor, part: GroupedQuery, **values: Any) -> float:
    return float(fair_maml.regulariser(outputs, part, settings(**values))[0])


def meta_gradient(name: str, tasks: Task, **values: Any) -> tuple[Tree, float]:
    net = problems.smooth_network("support_stats")
    algorithm, h, meta, buffers = problems.start(name, net, **SETTINGS, **values)
    model = vectorise.Model(algorithm, net, meta, buffers, h)
    result = vectorise.meta_gradient(model, tasks, 0.5, 4)
    return result.gradient, float(result.loss)


@pytest.mark.parametrize(
    ("values", "name"), [({}, "maml"), ({"derivative": "first"}, "fomaml"), ({"part": "head"}, "anil")]
)
def test_without_weight_it_is_maml_and_its_relatives_to_the_bit(values: dict[str, str], name: str) -> None:
    tasks = problems.grouped(problems.tasks())
    fair, plain = meta_gradient("fair_maml", tasks, gamma=0.0, **values), meta_gradient(name, tasks)
    assert fair[1] == plain[1]
    assert all(map(torch.equal, trees.leaves(fair[0]), trees.leaves(plain[0])))


def test_what_is_published_is_one_less_the_mean_probability_of_the_protected() -> None:
    outputs, part = rows()
    p = outputs.softmax(-1)[:, 1]
    protected, deserving = part.group == 1, (part.group == 1) & (part.y == 1)
    assert regularised(outputs, part) == pytest.approx(float(1 - p[protected].mean()), abs=SAME)
    measured = regularised(outputs, part, fairness="opportunity")
    assert measured == pytest.approx(float(1 - p[deserving].mean()), abs=SAME)
    gap = float(p[protected].mean() - p[~protected].mean())
    assert regularised(outputs, part, regulariser="squared") == pytest.approx(gap**2, abs=SAME)
    assert regularised(outputs, part, regulariser="absolute") == pytest.approx(abs(gap), abs=SAME)


@pytest.mark.parametrize("regulariser", ["one_sided", "squared", "absolute"])
def test_odds_are_the_sum_of_opportunities_of_both_labels(regulariser: str) -> None:
    outputs, part = rows()
    turned = part._replace(y=1 - part.y)
    halves = [
        regularised(outputs, one, fairness="opportunity", regulariser=regulariser) for one in (part, turned)
    ]
    measured = regularised(outputs, part, fairness="odds", regulariser=regulariser)
    assert measured == pytest.approx(sum(halves), abs=SAME)


@pytest.mark.parametrize("fairness", ["parity", "opportunity", "odds"])
def test_more_rows_of_the_others_change_nothing_as_they_do_in_the_authors_code(fairness: str) -> None:
    outputs, part = rows()
    others = (part.group == 0).nonzero().flatten()
    more = torch.cat([torch.arange(len(part.y)), others, others])
    doubled = GroupedQuery(outputs[more], part.y[more], part.group[more])
    measured, as_before = (
        regularised(*pair, fairness=fairness) for pair in ((outputs[more], doubled), (outputs, part))
    )
    assert measured == pytest.approx(as_before, abs=SAME)
    p, protected = outputs[more].softmax(-1)[:, 1], doubled.group == 1
    over_all_rows = float(1 - (p * protected).mean())  # the authors' mean is over both groups' rows
    assert abs(over_all_rows - measured) > 0.1 or fairness != "parity"


@pytest.mark.parametrize(("fairness", "regulariser"), EVERY)
@pytest.mark.parametrize("value", [0, 1])
def test_a_group_that_is_not_there_costs_nothing_and_moves_nothing(
    fairness: str, regulariser: str, value: int
) -> None:
    outputs, part = rows()
    alone = part._replace(group=torch.full_like(part.group, value))
    h = settings(fairness=fairness, regulariser=regulariser)
    leaf = outputs.clone().requires_grad_()
    cost, n_undefined = fair_maml.regulariser(leaf, alone, h)
    is_counted = regulariser == "one_sided" and value == 1
    (slope,) = torch.autograd.grad(cost, leaf)
    assert bool(slope.isfinite().all())
    assert (float(cost.detach()) > 0) == is_counted
    assert bool(slope.any()) == is_counted
    assert float(n_undefined) == (0 if is_counted else len(fair_maml.LABELS[fairness]))


def test_the_squared_gap_is_the_same_of_groups_by_their_other_names_and_0_where_rates_are_equal() -> None:
    outputs, part = rows()
    turned = part._replace(group=1 - part.group)
    one, other = (regularised(outputs, each, regulariser="squared") for each in (part, turned))
    assert one == pytest.approx(other, abs=SAME)
    leaf = torch.zeros_like(outputs, requires_grad=True)
    cost, _ = fair_maml.regulariser(leaf, part, settings(regulariser="squared"))
    (slope,) = torch.autograd.grad(cost, leaf)
    assert float(cost.detach()) == 0
    assert not slope.any()


@pytest.mark.parametrize(("fairness", "regulariser"), EVERY)
def test_meta_gradients_are_those_of_finite_differences(fairness: str, regulariser: str) -> None:
    net, tasks = problems.smooth_network("support_stats"), problems.grouped(problems.tasks(2))
    values = {**SETTINGS, "gamma": 4.0, "fairness": fairness, "regulariser": regulariser}
    algorithm, h, meta, buffers = problems.start("fair_maml", net, **values)
    model = vectorise.Model(algorithm, net, meta, buffers, h)
    gradient = vectorise.meta_gradient(model, tasks, 0.5, 4).gradient
    generator = seeds.generator("directions of fairness")
    direction = trees.map(
        lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=torch.float64), meta
    )
    epsilon = 1e-6  # where a central difference in float64 is off by about 1e-10

    def loss(sign: int) -> float:
        moved = trees.map(lambda w, d: w + sign * epsilon * d, meta, direction)
        return float(vectorise.meta_gradient(model._replace(meta=moved), tasks, 0.5, 4).loss)

    expected = (loss(1) - loss(-1)) / (2 * epsilon)
    assert float(trees.dot(gradient, direction)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_every_inner_step_descends_the_whole_loss() -> None:
    net, task = problems.smooth_network("support_stats"), problems.one(problems.grouped(problems.tasks()), 1)
    values = {"inner_lr": 0.3, "inner_steps": 2, "gamma": 2.0, "regulariser": "squared"}
    algorithm, h, meta, buffers = problems.start("fair_maml", net, **values)
    support: Any = task.support
    theta = meta["theta"]

    def whole(fast: Tree) -> torch.Tensor:
        outputs = algorithm.predict(net, {"params": {**theta, **fast}, "moments": None}, support.x)
        entropy = torch.nn.functional.cross_entropy(outputs, support.y)
        return entropy + 2.0 * fair_maml.regulariser(outputs, support, h)[0]

    fast = {name: layer for name, layer in theta.items() if name not in net.norms}
    for _ in range(2):
        slopes = torch.func.grad(whole)(fast)
        fast = trees.map(lambda w, g: w - 0.3 * g, fast, slopes)
    adapted = algorithm.adapt(net, meta, buffers, support, h)["params"]
    assert problems.largest_difference({name: adapted[name] for name in fast}, fast) < SAME


def test_predictions_know_no_group_of_a_query() -> None:
    net, tasks = problems.smooth_network("support_stats"), problems.grouped(problems.tasks())
    algorithm, h, meta, buffers = problems.start("fair_maml", net, **SETTINGS, gamma=3.0)
    task = problems.one(tasks, 1)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    other: Any = task.support
    of_others = algorithm.adapt(net, meta, buffers, other._replace(group=1 - other.group), h)
    assert problems.largest_difference(learner, of_others) > 1e-3, "the support set's groups do count"
    assert "group" not in learner


def test_bad_settings_are_refused_in_one_line() -> None:
    for values, words in (
        ({"gamma": -1.0}, "gamma=-1.0: must be >= 0"),
        ({"fairness": "equality"}, "fairness='equality'"),
        ({"part": "head", "adapt_norm": True}, "adapt_norm=true: has no effect"),
    ):
        with pytest.raises(MetabenchError) as caught:
            settings(**values)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
