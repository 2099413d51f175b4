"""Laws of the sequence model: nothing looks ahead, and shared steps are what each query would see alone."""

from __future__ import annotations

import pytest
import torch

from metabench import algorithms, nets
from metabench.algorithms import snail
from metabench.core import Support, Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

SMALL = {"filters": 3, "key_size": 4, "value_size": 3, "receptive_field": 7}
N_STEPS = problems.WAY * problems.SHOT


def weights() -> tuple[Tree, int]:
    net = problems.network()
    return problems.start("snail", net, **SMALL)[2]["sequence"], net.features + net.outputs


def rows(n: int, channels: int) -> torch.Tensor:
    return torch.randn(n, channels, generator=seeds.generator("rows"), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 6, 11])  # shorter and longer than the receptive field
def test_queries_that_share_their_steps_get_what_each_gets_at_the_end_of_its_own_sequence(n: int) -> None:
    sequence, channels = weights()
    x = rows(n + 4, channels)
    together = snail.read(sequence, x, n)
    for query in range(n, n + 4):
        alone = snail.read(sequence, torch.cat([x[:n], x[query : query + 1]]), n + 1)
        assert torch.allclose(together[query], alone[-1], atol=1e-12)
        assert torch.allclose(together[:n], alone[:-1], atol=1e-12)


@pytest.mark.parametrize("changed", [0, 3, 7])
def test_a_step_changes_itself_and_later_steps_but_no_earlier_one(changed: int) -> None:
    sequence, channels = weights()
    x = rows(8, channels)
    other = torch.cat([x[:changed], x[changed : changed + 1] + 1, x[changed + 1 :]])
    before, after = (snail.read(sequence, s, 8) for s in (x, other))
    # Blocks keep their input beside what they add: only the added channels tell.
    difference = (before - after)[:, channels:].abs().amax(-1)
    assert torch.equal(difference > 1e-12, torch.arange(8) >= changed)


def test_the_dilated_layers_of_one_block_reach_exactly_their_field() -> None:
    channels = 5
    block = snail.init_convolutions(channels, algorithms.hparams("snail", SMALL), seeds.generator("block"))[0]
    assert len(block) == 3
    block = trees.map(torch.Tensor.double, block)
    x = rows(12, channels)
    other = torch.cat([x[:1] + 1, x[1:]])
    difference = (snail.convolve(block, x, 12) - snail.convolve(block, other, 12)).abs().amax(-1)
    assert torch.equal(difference > 1e-12, torch.arange(12) < 8)


@pytest.mark.parametrize(("length", "n_layers"), [(2, 1), (3, 2), (6, 3), (16, 4), (17, 5), (26, 5)])
def test_a_block_has_the_binary_logarithm_of_its_field_as_layers(length: int, n_layers: int) -> None:
    h = algorithms.hparams("snail", {"receptive_field": length})
    assert len(snail.init_convolutions(4, h, seeds.generator("layers"))[0]) == n_layers


def test_a_convolution_has_kernel_two_and_zeros_before_the_start() -> None:
    x = torch.arange(1.0, 7.0)[:, None]  # four steps and two queries
    assert snail.earlier(x, 1, 4).flatten().tolist() == [0, 1, 2, 3, 4, 4]
    assert snail.earlier(x, 2, 4).flatten().tolist() == [0, 0, 1, 2, 3, 3]
    assert snail.earlier(x, 8, 4).flatten().tolist() == [0] * 6


def test_attention_is_scaled_masked_and_beside_its_input() -> None:
    generator = seeds.generator("attention")
    h = algorithms.hparams("snail", SMALL)
    block = trees.map(torch.Tensor.double, snail.init_attention(5, h, generator)[0])
    x = rows(4, 5)
    keys, queries, values = (nets.head(block[name], x) for name in ("keys", "queries", "values"))
    for step, row in enumerate(snail.attend(block, x, 4)):
        shares = [torch.exp(queries[step] @ keys[s] / h.key_size**0.5) for s in range(step + 1)]
        seen = sum(share * values[s] for s, share in enumerate(shares)) / sum(shares)
        assert torch.allclose(row, torch.cat([x[step], seen]), atol=1e-12)


def test_a_query_depends_on_the_labels_of_the_support_set() -> None:
    net, task = problems.network("support_stats"), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("snail", net, **SMALL)
    outputs = []
    for y in (task.support.y, task.support.y.roll(1)):
        learner = algorithm.adapt(net, meta, buffers, Support(task.support.x, y), h)
        outputs.append(algorithm.predict(net, learner, task.query.x))
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-6


def test_a_query_comes_last_with_an_empty_label() -> None:
    net, task = problems.network("support_stats"), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("snail", net, **SMALL)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    support, moments = net.embed(meta["theta"], task.support.x)
    query = net.embed(meta["theta"], task.query.x[:1], moments)[0]
    labels = torch.eye(problems.WAY, dtype=torch.float64)[task.support.y]
    steps = torch.cat([support, labels], -1)
    last = torch.cat([query, torch.zeros(1, problems.WAY, dtype=torch.float64)], -1)
    features = snail.read(meta["sequence"], torch.cat([steps, last]), N_STEPS + 1)[-1]
    expected = nets.head(meta["sequence"]["output"], features)
    assert torch.allclose(algorithm.predict(net, learner, task.query.x)[0], expected, atol=1e-12)


def test_more_shots_than_the_receptive_field_covers_can_be_evaluated() -> None:
    net, tasks = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("snail", net, **{**SMALL, "receptive_field": 2})
    learner = algorithm.adapt(net, meta, buffers, tasks.support, h)
    assert algorithm.predict(net, learner, tasks.query.x).isfinite().all()


def test_it_learns_two_tasks_by_heart() -> None:
    net, tasks = problems.network("support_stats"), problems.tasks(2)
    widths = {"filters": 8, "key_size": 8, "value_size": 8, "receptive_field": N_STEPS + 1}
    algorithm, h, meta, buffers = problems.start("snail", net, outer_lr=0.02, **widths)
    optimizer = algorithm.optimizer(h)
    state, losses = optimizer.init(meta), []
    for _ in range(25):
        gradient, loss, *_ = vectorise.meta_gradient(
            vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
        )
        meta, state, _ = optimizer.update(gradient, state, meta, 0.5)
        losses.append(float(loss))
    assert losses[0] > 1  # near log 3
    assert losses[-1] < 0.1
