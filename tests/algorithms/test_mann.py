"""Laws of the memory: what is written can be read, what is used least goes first, and usage fades."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.algorithms import mann
from metabench.core import MetabenchError, Net, Support, Task, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

SMALL = {"hidden_size": 6, "memory_rows": 9, "row_size": 5, "reads": 2}
ROUNDING = 1e-11


def normal(*shape: int, name: str = "mann") -> torch.Tensor:
    return torch.randn(shape, generator=seeds.generator("memory", name), dtype=torch.float64)


def begin(**values: Any) -> tuple[Net, Tree, Tree, Any]:
    """Return a network, the sequence model's weights, the state before a sequence, and the settings."""
    net = problems.network("support_stats")
    _, h, meta, _ = problems.start("mann", net, **{**SMALL, **values})
    return net, meta["weights"], mann.start(net, h, torch.zeros(1, dtype=torch.float64)), h


def test_a_row_that_was_written_is_what_its_key_reads() -> None:
    memory, key = torch.zeros(9, 5, dtype=torch.float64), normal(1, 5)
    written = memory + mann.least_used(torch.zeros(9), 1).double().T @ key
    read = mann.address(key, written, torch.tensor(1e3)) @ written
    assert float((read - key).abs().max()) < ROUNDING
    other = mann.address(normal(1, 5, name="other"), written, torch.tensor(1.0))
    assert float(other.sum()) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_exactly_n_rows_are_used_least_and_they_are_the_least_used(n: int) -> None:
    usage = normal(9).abs()
    ones = mann.least_used(usage, n)
    assert ones.shape == (n, 9)
    assert ones.sum(1).tolist() == [1] * n
    chosen = ones.sum(0).bool()
    assert int(chosen.sum()) == n
    assert float(usage[chosen].max()) < float(usage[~chosen].min())
    assert int(mann.least_used(torch.zeros(9), n).sum(0).bool().sum()) == n  # ties have an order, too


def test_a_step_writes_reads_and_lets_usage_fade_by_the_papers_equations() -> None:
    net, weights, state, _ = begin(usage_decay=0.7)
    for name in ("first", "second"):
        state = {
            **mann.step(weights, state, normal(net.features, name=name))[0],
            "y": torch.eye(net.outputs).double()[0],
        }
    f = normal(net.features, name="third")
    after, _ = mann.step(weights, state, f)
    inputs = torch.cat([f, state["f"], state["y"], state["read"].flatten(), after["hidden"]])
    keys, rows = (
        (inputs @ weights[k]["weight"].T + weights[k]["bias"]).tanh().view(2, 5) for k in ("key", "row")
    )
    gate = torch.sigmoid(weights["gate"]["weight"] @ after["hidden"] + weights["gate"]["bias"])
    memory, usage = state["memory"].clone(), 0.7 * state["usage"]
    least = state["usage"].argsort()[:2].tolist()
    memory[least] = 0
    for head in range(2):
        w = gate[head] * state["read_weights"][head]
        w[least[head]] += 1 - gate[head]
        memory += w[:, None] * rows[head]
        usage = usage + w
    for head in range(2):
        cosines = memory @ keys[head] / keys[head].norm() / memory.norm(dim=1).clamp(min=mann.FAINT)
        w = (10 * cosines).softmax(0)
        assert torch.allclose(after["read"][head], w @ memory, atol=ROUNDING)
        usage = usage + w
    assert torch.allclose(after["memory"], memory, atol=ROUNDING)
    assert torch.allclose(after["usage"], usage, atol=ROUNDING)


def test_a_state_knows_no_label_before_it_is_shown_and_every_one_after() -> None:
    net, weights, state, _ = begin()
    f, y = normal(4, net.features), torch.eye(net.outputs, dtype=torch.float64)[torch.tensor([0, 1, 2, 0])]
    other = torch.cat([y[:3], y[3:].roll(1, 1)])
    before, after = (mann.read(weights, state, f, labels)[0] for labels in (y, other))
    for key in ("hidden", "memory", "read"):
        assert torch.equal(before[key], after[key])  # the last label has been shown to nothing yet
    query = normal(net.features, name="query")
    outputs = [mann.step(weights, one, query)[1] for one in (before, after)]
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-6


def test_alike_examples_read_each_others_rows_from_the_first() -> None:
    net, weights, state, _ = begin(reads=1)
    weights = {**weights, "gate": {**weights["gate"], "bias": torch.full((1,), -50.0).double()}}
    features = 3 * normal(3, net.features)
    places = []
    for f in features:  # each is written one step later, over the row that was used least
        state = {**mann.step(weights, state, f)[0], "y": torch.eye(net.outputs).double()[0]}
        places.append(int(mann.least_used(state["usage"], 1).argmax()))
    after, _ = mann.step(weights, state, features[0])
    assert int(after["read_weights"][0].argmax()) == places[0]


def test_a_row_of_next_to_nothing_is_read_as_an_empty_one() -> None:
    key, faint = normal(1, 5), 1e-9 * normal(1, 5)
    empty, nothing = (
        mann.address(key, torch.cat([key, row]), torch.tensor(3.0)) for row in (0 * faint, faint)
    )
    assert torch.allclose(empty, nothing, atol=1e-6)


def task() -> Task:
    return problems.one(problems.tasks(1), 0)


def test_the_order_of_the_support_set_means_nothing_and_its_labels_do() -> None:
    net, support = problems.network("support_stats"), task().support
    algorithm, h, meta, buffers = problems.start("mann", net, **SMALL)
    turned = torch.randperm(len(support.y), generator=seeds.generator("order"))

    def predicted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        learner = algorithm.adapt(net, meta, buffers, Support(x, y), h)
        return algorithm.predict(net, learner, task().query.x)

    before = predicted(support.x, support.y)
    assert float((before - predicted(support.x[turned], support.y[turned])).abs().max()) < ROUNDING
    assert float((before - predicted(support.x, support.y.roll(1))).abs().max()) > 1e-6


def test_more_reads_than_rows_are_refused() -> None:
    with pytest.raises(
        MetabenchError, match="reads=8: more than memory_rows=4; lower reads, or raise memory_rows"
    ):
        algorithms.hparams("mann", {"reads": 8, "memory_rows": 4})


def test_the_meta_gradient_is_that_of_central_differences() -> None:
    tasks, net = problems.tasks(2), problems.smooth_network("support_stats")
    algorithm, h, meta, buffers = problems.start("mann", net, **SMALL)
    model = vectorise.Model(algorithm, net, meta, buffers, h)
    gradient, *_ = vectorise.meta_gradient(model, tasks, 0.5, 2)
    for group in meta:
        generator = seeds.generator("directions", group)
        along = trees.map(lambda w, g=generator: torch.randn(w.shape, generator=g).double(), meta[group])

        def loss(step: float, group: str = group, along: Tree = along) -> float:
            moved = trees.map(lambda w, d: w + step * d, meta[group], along)
            return float(
                vectorise.meta_gradient(model._replace(meta={**meta, group: moved}), tasks, 0.5, 2)[1]
            )

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert float(trees.dot(gradient[group], along)) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_it_learns_to_read_tasks() -> None:
    tasks, net = problems.tasks(4), problems.network("support_stats")
    algorithm, h, meta, buffers = problems.start("mann", net, **SMALL, outer_lr=0.02)
    optimizer = algorithm.optimizer(h)
    state, losses = optimizer.init(meta), []
    for _ in range(40):
        model = vectorise.Model(algorithm, net, meta, buffers, h)
        gradient, loss, *_ = vectorise.meta_gradient(model, tasks, 0.5, chunk=4)
        meta, state, _ = optimizer.update(gradient, state, meta, 0.5)
        losses.append(float(loss))
    assert losses[0] > 1  # near log 3
    assert losses[-1] < 0.4
