"""Laws of the learners without or beside an inner loop: by distance, attention, ridge or sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import logistic, proto_maml, r2d2
from metabench.core import Net, Support, Task, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

MODES = ["transductive", "support_stats", "with_support"]
CONTEXT = {"full_context": True, "processing_steps": 2}
INNER = {"inner_lr": 0.2, "inner_steps": 2}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "protonet": ("protonet", {"distance_scale": 0.7}),
    "proto_maml": ("proto_maml", INNER),
    "first_order_proto_maml": ("proto_maml", {**INNER, "derivative": "first"}),
    "matching": ("matching", {"cosine_scale": 3.0}),
    "matching_in_context": ("matching", {"cosine_scale": 3.0, **CONTEXT}),
    "r2d2": ("r2d2", {"ridge": 0.3, "output_scale": 2.0}),
    "snail": ("snail", {"filters": 3, "key_size": 4, "value_size": 3, "receptive_field": 7}),
}
METRIC = [name for name in LEARNERS if name not in ("matching_in_context", "snail")]
ROUNDING = 1e-11  # float64 sums in another order; differences seen are near 1e-15, and logits near 1


def outputs(label: str, net: Net, task: Task, support: Support | None = None) -> torch.Tensor:
    name, values = LEARNERS[label]
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    learner = algorithm.adapt(net, meta, buffers, support or task.support, h)
    return algorithm.predict(net, learner, task.query.x)


def a_task() -> Task:
    return problems.one(problems.tasks(1), 0)


@pytest.mark.parametrize("label", LEARNERS)
@pytest.mark.parametrize("batch_norm", MODES)
def test_the_vectorised_gradient_equals_a_plain_loop(label: str, batch_norm: str) -> None:
    name, values = LEARNERS[label]
    tasks, net = problems.tasks(3), problems.network(batch_norm)
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    gradient, loss, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
    )
    leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses = [
        algorithm.task_loss(net, leaves, buffers, problems.one(tasks, index), h, 0.5)[0] for index in range(3)
    ]
    mean = torch.stack(losses).mean()
    looped = torch.autograd.grad(mean, trees.leaves(leaves))
    assert float(loss) == pytest.approx(float(mean.detach()), abs=1e-12)
    for ours, theirs in zip(trees.leaves(gradient), looped, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-9


@pytest.mark.parametrize("label", [name for name in LEARNERS if name != "first_order_proto_maml"])
@pytest.mark.parametrize("batch_norm", MODES)
def test_the_meta_gradient_is_that_of_central_differences(label: str, batch_norm: str) -> None:
    name, values = LEARNERS[label]
    tasks, net = problems.tasks(2), problems.smooth_network(batch_norm)
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    model = vectorise.Model(algorithm, net, meta, buffers, h)
    gradient, *_ = vectorise.meta_gradient(model, tasks, 0.5, 2)
    generator = seeds.generator("directions", label)
    for group in meta:  # theta, and each number or set of weights beside it, on its own
        along = trees.map(lambda w: torch.randn(w.shape, generator=generator, dtype=w.dtype), meta[group])

        def loss(step: float, group: str = group, along: Tree = along) -> float:
            moved = trees.map(lambda w, d: w + step * d, meta[group], along)
            return float(
                vectorise.meta_gradient(model._replace(meta={**meta, group: moved}), tasks, 0.5, 2)[1]
            )

        # Off by about eps^2 |f'''| + 1e-16 |f| / eps, near 1e-10 on a network without kinks.
        expected = (loss(1e-6) - loss(-1e-6)) / 2e-6
        assert float(trees.dot(gradient[group], along)) == pytest.approx(expected, abs=1e-7, rel=1e-5)


@pytest.mark.parametrize("label", LEARNERS)
@pytest.mark.parametrize("batch_norm", MODES)
def test_a_query_sees_other_queries_only_where_batch_norm_is_transductive(
    label: str, batch_norm: str
) -> None:
    net, task = problems.network(batch_norm), a_task()
    alone = outputs(label, net, task._replace(query=task.query._replace(x=task.query.x[:1])))
    is_same = bool((outputs(label, net, task)[:1] - alone).abs().max() < ROUNDING)
    assert is_same == (batch_norm != "transductive")


@pytest.mark.parametrize("label", METRIC)
def test_the_order_of_the_support_set_does_not_matter(label: str) -> None:
    net, task = problems.network(), a_task()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = Support(*(leaf[order] for leaf in task.support))
    assert torch.allclose(outputs(label, net, task, turned), outputs(label, net, task), atol=ROUNDING)


def test_full_context_embeddings_see_the_order_of_the_support_set() -> None:
    net, task = problems.network(), a_task()
    turned = Support(*(leaf.flip(0) for leaf in task.support))
    one, other = (outputs("matching_in_context", net, task, s) for s in (task.support, turned))
    assert float((one - other).abs().max()) > 1e-6


@pytest.mark.parametrize("label", [*METRIC, "matching_in_context"])
def test_naming_the_classes_otherwise_moves_their_logits(label: str) -> None:
    net, task = problems.network(), a_task()
    new_name = torch.tensor([2, 0, 1])
    renamed = outputs(label, net, task, task.support._replace(y=new_name[task.support.y]))
    assert torch.allclose(renamed[:, new_name], outputs(label, net, task), atol=ROUNDING)


def test_the_prototypical_loss_is_that_of_a_loop_over_queries_and_classes() -> None:
    net, task = problems.network("support_stats"), a_task()
    algorithm, h, meta, buffers = problems.start("protonet", net)
    loss, aux = algorithm.task_loss(net, meta, buffers, task, h, 0.5)
    support, moments = net.embed(meta["theta"], task.support.x)
    query, _ = net.embed(meta["theta"], task.query.x, moments)
    total, n_right = 0.0, 0
    for features, label in zip(query, task.query.y, strict=True):
        likelihoods = []
        for k in range(problems.WAY):
            rows = [row for row, y in zip(support, task.support.y, strict=True) if y == k]
            prototype = sum(rows) / len(rows)
            likelihoods.append(
                torch.exp(-sum((a - b) ** 2 for a, b in zip(features, prototype, strict=True)))
            )
        total -= float(torch.log(likelihoods[label] / sum(likelihoods)))
        n_right += likelihoods[label] == max(likelihoods)
    assert float(loss) == pytest.approx(total / len(query), abs=1e-12)
    assert float(aux.logs["accuracy"]) == pytest.approx(float(n_right) / len(query))


@pytest.mark.parametrize("batch_norm", MODES)
def test_proto_maml_without_inner_steps_is_the_prototypical_network(batch_norm: str) -> None:
    net, task = problems.network(batch_norm), a_task()
    results = []
    for name, values in (("protonet", {}), ("proto_maml", {"inner_steps": 0})):
        algorithm, h, meta, buffers = problems.start(name, net, **values)
        loss, _ = algorithm.task_loss(net, meta, buffers, task, h, 0.5)
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        results.append((algorithm.predict(net, learner, task.query.x), loss))
    (distances, loss), (linear, other_loss) = results
    assert torch.allclose(distances.softmax(-1), linear.softmax(-1), rtol=0, atol=1e-12)
    assert float(loss) == pytest.approx(float(other_loss), abs=1e-12)
    gap = linear - distances  # |f(x)|^2
    assert torch.allclose(gap, gap[:, :1].expand_as(gap), atol=ROUNDING)
    assert float(gap.min()) > 0


def test_first_order_proto_maml_still_learns_through_the_start_of_its_head() -> None:
    net, tasks = problems.network(), problems.tasks(2)
    algorithm, h, meta, buffers = problems.start("proto_maml", net, **INNER, derivative="first")
    first, *_ = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, 2)
    h = problems.start("proto_maml", net, **INNER)[1]
    second, *_ = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, 2)
    assert problems.largest_difference(first, second) > 1e-4
    # With an inner rate of zero nothing is left but that path.
    ends = []
    for values in ({"inner_lr": 0.0, "derivative": "first"}, {"inner_steps": 0}):
        h = problems.start("proto_maml", net, **values)[1]
        ends.append(
            vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, 2)[0]
        )
    assert problems.largest_difference(*ends) < ROUNDING
    assert trees.norm(ends[0]) > 1e-3


def test_proto_maml_starts_from_twice_the_prototypes_and_minus_their_squared_lengths() -> None:
    net, task = problems.network(), a_task()
    theta = problems.start("proto_maml", net)[2]["theta"]
    head = proto_maml.with_head(net, theta, task.support)["head"]
    features, _ = net.embed(theta, task.support.x)
    for k in range(problems.WAY):
        prototype = features[task.support.y == k].mean(0)
        assert torch.allclose(head["weight"][k], 2 * prototype)
        assert float(head["bias"][k]) == pytest.approx(-float(prototype @ prototype))


@pytest.mark.parametrize("n_features", [3, 20])  # fewer and more than there are examples
def test_ridge_weights_satisfy_the_normal_equations(n_features: int) -> None:
    generator = seeds.generator("ridge")
    x = torch.randn(6, n_features, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    ridge = torch.tensor(0.3, dtype=torch.float64)
    w = r2d2.solve(x, y, ridge)
    normal = x.T @ x + ridge * torch.eye(n_features, dtype=torch.float64)
    assert float((normal @ w - x.T @ y).abs().max()) < 1e-9
    assert torch.allclose(w, torch.linalg.solve(normal, x.T @ y), atol=1e-9)


def test_r2d2_regresses_one_hot_labels_and_calibrates_what_comes_out() -> None:
    net, task = problems.network("support_stats"), a_task()
    algorithm, h, meta, buffers = problems.start("r2d2", net)
    meta = {**meta, "beta": torch.tensor(0.7, dtype=torch.float64)}
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    x, moments = net.embed(meta["theta"], task.support.x)
    y = torch.eye(problems.WAY, dtype=torch.float64)[task.support.y]
    normal = x.T @ x + meta["log_lambda"].exp() * torch.eye(net.features, dtype=torch.float64)
    w = torch.linalg.solve(normal, x.T @ y)
    expected = meta["alpha"] * net.embed(meta["theta"], task.query.x, moments)[0] @ w + 0.7
    assert torch.allclose(algorithm.predict(net, learner, task.query.x), expected, atol=1e-9)


@pytest.mark.parametrize("label", LEARNERS)
def test_nothing_is_learnt_that_no_prediction_uses(label: str) -> None:
    name, values = LEARNERS[label]
    net = problems.network()
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    assert "head" not in meta["theta"]
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), problems.tasks(2), 0.5, 2
    )
    still = {key for key, leaf in trees.items(gradient) if not leaf.abs().max() > 1e-12}
    # A softmax sees no shift of all its logits, which is all that these make; where no ReLU of the last
    # block is at rest, distances see no shift of all features.
    blind = {"beta", *(f"sequence.attention{i}.keys.bias" for i in (1, 2, 3))}
    assert still <= blind | ({"theta.norm4.shift"} if name == "protonet" else set())


def test_known_moments_spare_a_pass_and_change_nothing() -> None:
    net, task = problems.network("support_stats"), a_task()
    theta = problems.start("protonet", net)[2]["theta"]
    moments = net.embed(theta, task.support.x)[1]
    with_moments = inner.adapted(net, theta, task.support, moments)
    assert problems.largest_difference(with_moments, inner.adapted(net, theta, task.support)) == 0


@pytest.mark.parametrize("penalty", [0.05, 1.0, 20.0])
def test_logistic_regression_is_scikit_learns_without_an_intercept(penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(12, 30, dtype=torch.float64, generator=generator), dim=-1)
    y = torch.arange(4).repeat_interleave(3)
    w = logistic.solve(x, F.one_hot(y).double(), penalty, 2000)
    theirs = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-12, max_iter=10_000)
    theirs.fit(x.numpy(), y.numpy())
    # Theirs fixes no level of the classes' weights; ours starts from zero, so that they sum to it.
    torch.testing.assert_close(w.T, torch.as_tensor(theirs.coef_), atol=1e-6, rtol=1e-5)


def test_fifty_steps_of_logistic_regression_come_close_to_the_minimum() -> None:
    generator = torch.Generator().manual_seed(1)
    x = F.normalize(torch.randn(25, 64, dtype=torch.float64, generator=generator), dim=-1)
    targets = F.one_hot(torch.arange(5).repeat_interleave(5)).double()
    few, many = (logistic.solve(x, targets, 1.0, steps) for steps in (logistic.Settings().iterations, 5000))
    torch.testing.assert_close(few, many, atol=1e-4, rtol=0)


def test_simpleshot_is_protonet_that_learns_nothing() -> None:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    protonet, simpleshot = (problems.start(name, net) for name in ("protonet", "simpleshot"))
    logits = []
    for algorithm, h, meta, buffers in (protonet, simpleshot):
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        logits.append(algorithm.predict(net, learner, task.query.x))
    assert torch.equal(*logits)
    assert not simpleshot[0].is_trained
