"""Acting in environments: trajectories are collected first, and are then support and query sets like others.

Nothing here is differentiated; what is learnt of trajectories is the matter of objective and algorithm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vmap

from metabench import algorithms, nets
from metabench.core import Algorithm, MetabenchError, Net, Query, Support, Task, device, seeds, trees
from metabench.core.config import TaskConfig
from metabench.core.control import (
    SURROGATES,
    Chances,
    Environment,
    Moves,
    Start,
    act,
    discounted,
    log_prob,
    mean_return,
    stepped,
)
from metabench.core.objectives import OBJECTIVES

RIDGE = 1e-5
"""On the diagonal of the linear baseline's normal equations, as in the authors' code."""

LARGEST_OBSERVATION = 10.0
"""To which the linear baseline clips, as there."""

TIME_UNIT = 100.0
"""Steps that are one unit of the linear baseline's time, as there."""


def policy(net: Net, environment: Environment) -> Net:
    """Make a network a policy in an environment; refuse one that looks at its inputs as a batch."""
    if net.norm_channels:
        raise MetabenchError("network.norm='batch': observations make no batch; set norm to none")
    net = net if environment.is_discrete else nets.with_deviation(net, environment.log_std)
    objective = OBJECTIVES["control"]._replace(loss=SURROGATES[environment.surrogate])
    return net._replace(objective=objective, environment=environment)


def training_steps(h: Any) -> int:
    """Return how many inner steps meta-training takes."""
    return int(getattr(h, "inner_steps", 0))


def evaluation_steps(algorithm: Algorithm, h: Any) -> int:
    """Return how many inner steps evaluation takes."""
    return algorithms.steps_at_evaluation(algorithm, {} if h is None else vars(h))


def draw(environment: Environment | None, tasks: Task, steps: int) -> Task:
    """Draw all chance of T tasks: of each inner step, and of the trajectories that are judged.

    That of a step does not depend on how many there are; none depends on the other tasks. Tasks that are no
    control are returned as they are.
    """
    if environment is None:
        return tasks
    support, query = cast(Start, tasks.support), cast(Start, tasks.query)
    # Of one step at least, as its shapes are those of none.
    drawn = [_chances(environment, support, f"step {step}")[1:] for step in range(max(steps, 1))]
    inner = [torch.stack(each, 1)[:, :steps] for each in zip(*drawn, strict=True)]
    judged = _chances(environment, query, "judged")
    return Task(cast(Support, Chances(support.parameters, *inner)), cast(Query, judged), tasks.classes)


def _chances(environment: Environment, start: Start, name: str) -> Chances:
    """Draw the chance of M trajectories of each of T tasks, from what names them: [T, M, ...]."""
    like, n_trajectories, horizon = start.parameters, start.seeds.shape[1], environment.horizon
    shapes = (
        (n_trajectories, environment.n_start),
        (n_trajectories, horizon, environment.n_actions),
        (n_trajectories, horizon, environment.n_world),
    )
    drawn: list[list[Tensor]] = []
    for numbers in start.seeds.tolist():
        generator = seeds.generator("rollouts", name, *numbers)
        u = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        drawn.append(u)
    start_u, action_u, world_u = (torch.stack(each) for each in zip(*drawn, strict=True))
    start_u, world_u = (inside(one, like.dtype) for one in (start_u, world_u))
    action_u = inside(action_u, torch.float64)
    action = -(-action_u.log()).log() if environment.is_discrete else torch.special.ndtri(action_u)
    chances = (one.to(like.dtype) for one in (start_u, action, world_u))
    return Chances(like, *(device.to_device_async(one, like.device) for one in chances))


def inside(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Round numbers to a type that has neither their 0 nor their 1, which have no logarithm or quantile."""
    return u.to(dtype).clamp(2.0**-53, 1 - torch.finfo(dtype).eps / 2)


def collect(model: Any, task: Task) -> Task:
    """Let a learner act after 0, 1, ... inner steps, each on what it did before; then let it be judged.

    A task that is no control is returned as it is.

    Args:
        model: of `vectorise.Model`.
    """
    algorithm, net, meta, buffers, h = model
    environment: Environment | None = net.environment
    if environment is None:
        return task
    support, query = cast(Chances, task.support), cast(Chances, task.query)

    def acted(chances: Chances, batches: list[Query]) -> Query:
        steps = dataclasses.replace(h, **{algorithm.inner_steps[0]: len(batches)})
        learner = algorithm.adapt(net, meta, buffers, _support(batches, chances.start), steps)
        return roll(environment, partial(algorithm.predict, net, learner), chances)

    with torch.no_grad():
        batches: list[Query] = []
        for step in range(len(support.start)):
            parts = (leaf[step] for leaf in support[1:])
            batches.append(acted(Chances(support.parameters, *parts), batches))
        return Task(_support(batches, query.start), acted(query, batches), task.classes)


def _support(batches: list[Query], like: Tensor) -> Support:
    """Put the trajectories of inner steps one after another: leaves [K, ...]."""
    if not batches:  # of which no step is taken
        nothing = like.new_zeros(0)
        return Support(nothing, cast(Tensor, Moves(*[nothing] * len(Moves._fields))))
    columns, form = [trees.flatten(one)[0] for one in batches], trees.flatten(batches[0])[1]
    return Support(*trees.unflatten([torch.stack(each) for each in zip(*columns, strict=True)], form))


def roll(environment: Environment, policy: Callable[[Tensor], Tensor], chances: Chances) -> Query:
    """Act M times to the horizon in one environment; x [M*H, O], y of [M, H].

    Args:
        policy: of observations [M, O], its outputs.
    """
    parameters, start, action_chance, world = chances
    over = partial(vmap, in_dims=(None, 0))
    observe = over(environment.observe)
    state = over(environment.reset)(parameters, start)
    is_on, steps = torch.ones_like(start[:, 0] if start.shape[1] else action_chance[:, 0, 0]), []
    for time in range(environment.horizon):
        x = observe(parameters, state)
        outputs = policy(x)
        action = act(outputs, action_chance[:, time])
        state, reward, done = vmap(partial(stepped, environment), in_dims=(None, 0, 0, 0))(
            parameters, state, action, world[:, time]
        )
        steps.append((x, outputs, action, reward * is_on, is_on))
        is_on = is_on * (1 - done)
    x, outputs, action, reward, is_on = (torch.stack(each, 1) for each in zip(*steps, strict=True))
    advantage, scale = advantages(environment, x, reward, is_on)
    moves = Moves(action, advantage, log_prob(outputs, action), reward, is_on, outputs, scale)
    return Query(x.flatten(0, 1), cast(Tensor, moves))


def by_chance(environment: Environment, tasks: Task) -> Tensor:
    """Return the mean return [T] of a policy whose outputs are all zero, which looks at nothing."""
    n_outputs = environment.n_actions * (1 if environment.is_discrete else 2)

    def returned(chances: Chances) -> Tensor:
        moves = roll(environment, lambda x: x.new_zeros(len(x), n_outputs), chances).y
        return mean_return(None, cast(Moves, moves))

    return vmap(returned)(cast(Chances, draw(environment, tasks, 0).query))


def ends(environment: Environment, tasks: Task) -> dict[str, list[float]]:
    """Return between which returns those of T tasks lie: by chance, and where it is known at best."""
    returns = {"by_chance": by_chance(environment, tasks)}
    if environment.best is not None:
        returns["at_best"] = vmap(environment.best)(tasks.support[0])
    return {name: one.tolist() for name, one in returns.items()}


def n_steps(environment: Environment, task: TaskConfig, h: Any) -> float:
    """Return how many steps in its environment a task of meta-training takes at most, the mean over shots."""
    shot = sum(task.shots) / 2
    return environment.horizon * (training_steps(h) * shot + task.query)


def advantages(environment: Environment, x: Tensor, reward: Tensor, is_on: Tensor) -> tuple[Tensor, Tensor]:
    """Return generalised advantages [M, H], less their mean and over their deviation, and that deviation.

    The horizon counts as an end, as in the authors' code: no value follows it. With the baseline `none` they
    are the returns to go as they are, over 1.
    """
    gamma = environment.gamma
    value = BASELINES[environment.baseline](x, discounted(reward, gamma), is_on) * is_on
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    # Schulman et al. 2016, eq. 11 and 16: delta = r + gamma V' - V, A = sum_l (gamma lambda)^l delta
    delta = (reward + gamma * following - value) * is_on
    raw = discounted(delta, gamma * environment.gae) * is_on
    if environment.baseline == "none":
        return raw, torch.ones_like(raw[0, 0])
    n = is_on.sum()
    centred = (raw - raw.sum() / n) * is_on
    scale = (centred.square().sum() / n).sqrt() + 1e-8
    return centred / scale, scale


def _linear(x: Tensor, returns: Tensor, is_on: Tensor) -> Tensor:
    # In float64: the normal equations square how badly conditioned the features are.
    o = x.double().clamp(-LARGEST_OBSERVATION, LARGEST_OBSERVATION)
    time = torch.arange(x.shape[1], dtype=o.dtype, device=x.device) / TIME_UNIT
    t = time[:, None].expand(*o.shape[:2], 1)
    features = torch.cat([o, o.square(), t, t**2, t**3, torch.ones_like(t)], -1) * is_on[..., None]
    phi = features.flatten(0, 1)
    gram = phi.mT @ phi + RIDGE * torch.eye(phi.shape[1], dtype=o.dtype, device=x.device)
    # Without a check of the result, which would ask what is in it.
    weights, _ = torch.linalg.solve_ex(gram, phi.mT @ (returns * is_on).double().flatten())
    return (features @ weights).to(returns.dtype)


def _time(x: Tensor, returns: Tensor, is_on: Tensor) -> Tensor:
    at_time = (returns * is_on).sum(0) / is_on.sum(0).clamp(min=1)
    return at_time.expand_as(returns)


def _zero(x: Tensor, returns: Tensor, is_on: Tensor) -> Tensor:
    return torch.zeros_like(returns)


BASELINES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": _linear,
    "time": _time,
    "zero": _zero,
    "none": _zero,
}
"""Values [M, H] by observations [M, H, O], fitted on the returns to go that they are then subtracted of."""
