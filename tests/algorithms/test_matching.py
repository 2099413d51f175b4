"""Matching networks by hand: attention over the support set, and the LSTMs of full context embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metabench import nets
from metabench.algorithms import matching
from metabench.core import Net, Support, Task, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems


def log_p(net: Net, task: Task, **values: Any) -> torch.Tensor:
    algorithm, h, meta, buffers = problems.start("matching", net, **values)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    return algorithm.predict(net, learner, task.query.x)


@pytest.mark.parametrize("context", [{}, {"full_context": True, "processing_steps": 2}])
def test_probabilities_sum_to_one(context: dict[str, Any]) -> None:
    task = problems.one(problems.tasks(1), 0)
    total = log_p(problems.network(), task, **context).exp().sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def test_it_adds_up_the_attention_to_each_class() -> None:
    net, task = problems.network("support_stats"), problems.one(problems.tasks(1), 0)
    theta = problems.start("matching", net)[2]["theta"]
    support, moments = net.embed(theta, task.support.x)
    query, _ = net.embed(theta, task.query.x, moments)
    probabilities = log_p(net, task, cosine_scale=3.0).exp()
    for row, f in enumerate(query):
        weights = [torch.exp(3 * (f @ g) / (f.norm() * g.norm())) for g in support]
        for k in range(problems.WAY):
            attention = sum(w for w, y in zip(weights, task.support.y, strict=True) if y == k)
            assert float(probabilities[row, k]) == pytest.approx(float(attention / sum(weights)), abs=1e-12)


def test_it_with_one_example_a_class_is_a_softmax_of_cosines() -> None:
    net, task = problems.network("support_stats"), problems.one(problems.tasks(1), 0)
    single = Support(task.support.x[:: problems.SHOT], task.support.y[:: problems.SHOT])
    theta = problems.start("matching", net)[2]["theta"]
    support, moments = net.embed(theta, single.x)
    query, _ = net.embed(theta, task.query.x, moments)
    cosine = F.cosine_similarity(query[:, None], support, dim=-1)
    expected = (3 * cosine).softmax(-1)
    probabilities = log_p(net, task._replace(support=single), cosine_scale=3.0).exp()
    assert torch.allclose(probabilities, expected, atol=1e-12)


def test_it_stays_finite_where_a_class_is_all_but_impossible() -> None:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("matching", net, cosine_scale=1e4)
    log_probabilities = log_p(net, task, cosine_scale=1e4)
    assert float(log_probabilities.min()) < -800  # whose exponential is zero in float64
    assert log_probabilities.isfinite().all()
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), problems.tasks(2), 0.5, 2
    )
    assert trees.is_finite(gradient)


def test_the_lstm_equals_torch_lstm_in_both_directions() -> None:
    generator = seeds.generator("lstm")
    n, width = 5, 4
    reference = torch.nn.LSTM(width, width, bidirectional=True).double()
    context: Tree = {}
    with torch.no_grad():
        for name, suffix in (("forward", ""), ("backward", "_reverse")):
            weights = trees.map(torch.Tensor.double, nets.init_head(4 * width, 2 * width, generator))
            context[name] = weights
            getattr(reference, f"weight_ih_l0{suffix}").copy_(weights["weight"][:, :width])
            getattr(reference, f"weight_hh_l0{suffix}").copy_(weights["weight"][:, width:])
            getattr(reference, f"bias_ih_l0{suffix}").copy_(weights["bias"])
            getattr(reference, f"bias_hh_l0{suffix}").zero_()
        g = torch.randn(n, width, generator=generator, dtype=torch.float64)
        both = reference(g)[0]
    expected = both[:, :width] + both[:, width:] + g
    assert torch.allclose(matching.support_context(context, g), expected, atol=1e-12)


def test_reads_over_the_support_set_are_those_of_the_paper_with_torch_lstm_cell() -> None:
    generator = seeds.generator("reads")
    width = 4
    weights = trees.map(torch.Tensor.double, nets.init_head(4 * width, 3 * width, generator))
    f, g = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (3, 5))
    contexts = matching.query_context({"1": weights, "2": weights, "3": weights}, f, g)
    # Query, state and read are all inputs of a cell whose own recurrence is nil.
    cell = torch.nn.LSTMCell(3 * width, width).double()
    with torch.no_grad():
        cell.weight_ih.copy_(weights["weight"])
        cell.bias_ih.copy_(weights["bias"])
        cell.weight_hh.zero_()
        cell.bias_hh.zero_()
        for query, ours in zip(f, contexts, strict=True):
            h, c = query, torch.zeros_like(query)
            for _ in range(3):
                attention = torch.stack([h @ row for row in g]).softmax(0)
                read = sum(a * row for a, row in zip(attention, g, strict=True))
                estimate, c = cell(torch.cat([query, h, read]), (torch.zeros_like(c), c))
                h = estimate + query
            assert torch.allclose(ours, h, atol=1e-12)


def test_no_processing_step_leaves_a_query_as_it_is() -> None:
    f, g = torch.randn(2, 3, 4, generator=seeds.generator("f"), dtype=torch.float64)
    assert torch.equal(matching.query_context({}, f, g), f)
