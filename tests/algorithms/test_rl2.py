"""RL²: its meta-gradient is that of the return of all batches, and memory is what trajectories leave."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from metabench import algorithms, nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import rl2
from metabench.core import Net, Query, Support, Task, Tree, seeds, trees
from metabench.core.control import SURROGATES, Moves, log_prob
from metabench.core.objectives import OBJECTIVES
from tests.algorithms import problems

N_PULLS = 3
CHANCES = torch.tensor([0.2, 0.7], dtype=torch.float64)
"""Of two arms to pay 1."""


def network() -> Net:
    net = problems.linear_network(2, OBJECTIVES["control"])
    objective = OBJECTIVES["control"]._replace(loss=SURROGATES["likelihood_ratio"])
    return net._replace(outputs=2, way=2, objective=objective)


def start(**values: Any) -> tuple[Net, Any, Tree, Tree]:
    net = network()
    h = algorithms.hparams("rl2", {"inner_steps": N_PULLS - 1, "hidden_size": 4, "gamma": 1.0, **values})
    meta, buffers = rl2.init(net, h, seeds.generator("rl2"))
    return net, h, *(trees.map(torch.Tensor.double, tree) for tree in (meta, buffers))


def moves(action: Tensor, reward: Tensor, old: Tensor | None = None, is_on: Tensor | None = None) -> Moves:
    """Return trajectories of a shape [..., M, H]."""
    nothing = torch.zeros_like(reward)
    old, is_on = nothing if old is None else old, 1 + nothing if is_on is None else is_on
    # None of a policy's outputs and scale is looked at.
    return Moves(action, nothing, old, reward, is_on, nothing, nothing)


def pulled(net: Net, h: Any, meta: Tree, arms: Tensor, paid: Tensor) -> tuple[Task, Tensor]:
    """Return a task of so many pulls [n], one a batch, and the logarithms of their probabilities."""
    x = torch.ones(1, 2, dtype=torch.float64)
    memory, said = rl2.start(meta), []
    for arm, reward in zip(arms, paid, strict=True):
        seen = rl2.remembering(net.embed(meta["theta"], x)[0], memory)
        said.append(log_prob(nets.outputs(net, meta["policy"], seen)[0], arm))
        memory = rl2.read(net, meta, memory, (x, moves(arm.view(1, 1), reward.view(1, 1))))
    old = torch.stack(said)
    every = moves(*(one.view(-1, 1, 1) for one in (arms, paid, old.detach())))
    first, last = (Moves(*(one[part] for one in cast(Any, every))) for part in (slice(-1), -1))
    xs = x.expand(N_PULLS - 1, 1, 2)
    return Task(Support(xs, cast(Tensor, first)), Query(x, cast(Tensor, last)), torch.zeros(1)), old.sum()


def histories() -> Tensor:
    """Return all that three pulls can be: [n, 2, 3], arms and what they paid."""
    one = [*itertools.product(range(2), repeat=N_PULLS)]
    return torch.tensor([*itertools.product(one, one)])


def chance(arms: Tensor, paid: Tensor) -> Tensor:
    """Return how likely arms pay so."""
    pays = CHANCES[arms]
    return torch.where(paid == 1, pays, 1 - pays).prod()


def test_the_expected_meta_gradient_is_that_of_the_return_of_all_batches() -> None:
    net, h, meta, buffers = start(value_weight=0.0, entropy_weight=0.0)
    buffers = {"mean": buffers["mean"] + 0.3, "square": buffers["square"] + 3.0}
    scale = (buffers["square"] - buffers["mean"] ** 2).sqrt()

    def of_one(history: Tensor) -> tuple[Tree, Tree]:
        arms, paid = history[0], history[1].double()

        def loss(meta: Tree) -> Tensor:
            task, _ = pulled(net, h, trees.map(torch.Tensor.detach, meta), arms, paid)
            return rl2.task_loss(net, meta, buffers, task, h, 0.0)[0]

        def returned(meta: Tree) -> Tensor:
            return pulled(net, h, meta, arms, paid)[1].exp() * chance(arms, history[1]) * paid.sum()

        likely = pulled(net, h, meta, arms, paid)[1].exp() * chance(arms, history[1])
        return trees.map(lambda leaf: likely * leaf, grad(loss)(meta)), grad(returned)(meta)

    descended, climbed = (trees.map(lambda leaf: leaf.sum(0), tree) for tree in vmap(of_one)(histories()))
    assert max(leaf.abs().max() for leaf in trees.leaves(climbed)) > 1e-3
    # The loss is a mean over batches, of returns over their scale.
    expected = trees.map(lambda leaf: -leaf / (N_PULLS * scale), climbed)
    for name in ("policy", "memory"):
        torch.testing.assert_close(descended[name], expected[name], rtol=1e-9, atol=1e-12)


def test_what_follows_a_step_is_the_rest_of_its_trajectory_and_the_mean_of_the_batches_that_read_it() -> None:
    reward = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    # The second trajectory of the first batch ends after one step.
    is_on = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    first, last = (
        Support(torch.zeros(0), cast(Tensor, moves(reward.long(), reward, is_on=on)))
        for on in (is_on, torch.ones(2, 2))
    )
    before, after = rl2.returns_to_go([first, last], 0.5)
    # 1 + 2/2, 2; 3 + 5/2, 5
    torch.testing.assert_close(after, torch.tensor([[2.0, 2.0], [5.5, 5.0]]))
    # The mean of 2 and 5.5 follows, after as many steps as are left: two and one; one and none.
    torch.testing.assert_close(before, torch.tensor([[2.9375, 3.875], [4.875, 3.75]]))


def test_memory_is_that_of_torchs_lstm_and_does_not_see_what_follows_an_end() -> None:
    net, _, meta, _ = start()
    generator = seeds.generator("trajectories")
    x = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    action = torch.randint(2, (3, 4), generator=generator)
    reward = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([4, 2, 3])
    is_on = (torch.arange(4) < lengths[:, None]).double()
    memory = rl2.read(net, meta, rl2.start(meta), (x.flatten(0, 1), moves(action, reward, is_on=is_on)))

    rows = torch.cat([x, torch.eye(2, dtype=torch.float64)[action], reward[..., None]], -1)
    lstm = torch.nn.LSTMCell(5, 4, dtype=torch.float64)
    weight, bias = meta["memory"]["weight"], meta["memory"]["bias"]
    with torch.no_grad():
        lstm.weight_ih.copy_(weight[:, :5])
        lstm.weight_hh.copy_(weight[:, 5:])
        lstm.bias_ih.copy_(bias)
        lstm.bias_hh.zero_()
        ends = []
        for row, length in zip(rows, lengths.tolist(), strict=True):
            state = None
            for step in row[:length]:
                state = lstm(step[None], state)
            ends.append(torch.cat(cast(tuple[Tensor, Tensor], state), 1)[0])
    expected = torch.stack(ends).mean(0)
    torch.testing.assert_close(torch.cat([memory["output"], memory["cell"]]), expected)


def test_values_learn_standardised_returns_and_running_moments_follow_them() -> None:
    net, h, meta, buffers = start(value_weight=1.0)
    task, _ = pulled(net, h, meta, torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 1.0]).double())
    zero = trees.map(torch.zeros_like, meta["value"])
    by_weight = [
        rl2.task_loss(
            net, {**meta, "value": zero}, buffers, task, h.__class__(**{**vars(h), "value_weight": w}), 0.0
        )
        for w in (0.0, 1.0)
    ]
    returns = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    # Before anything is seen, returns count as they are: mean 0, mean square 1.
    torch.testing.assert_close(by_weight[1][0] - by_weight[0][0], returns.square().mean())
    after = by_weight[0][1].buffers
    torch.testing.assert_close(after["mean"], 0.1 * returns.mean())
    torch.testing.assert_close(after["square"], 0.9 + 0.1 * returns.square().mean())


@pytest.mark.parametrize("steps", [0, 2])
def test_evaluation_reads_the_batches_asked_for(steps: int) -> None:
    net, h, meta, buffers = start(eval_steps=steps)
    task, _ = pulled(net, h, meta, torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 1.0]).double())
    learner = rl2.adapt(net, meta, buffers, task.support, h)
    memory = rl2.start(meta)
    for batch in inner.batches(task.support, steps):
        memory = rl2.read(net, meta, memory, batch)
    torch.testing.assert_close(learner["memory"], memory)
    assert (memory["output"].abs().sum() > 0) == (steps > 0)
