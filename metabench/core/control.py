"""Tasks of control: environments as pure functions, what acting needs and leaves, and how it is judged.

Letters beside those of `core`: M trajectories, H time steps, D parameters of an environment, O numbers of an
observation, A numbers of an action (or actions to choose from).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from metabench.core import MetabenchError, Tree

if TYPE_CHECKING:
    from torch import Tensor

LOWEST_LOG_STD = math.log(1e-6)
"""Below which a policy's standard deviation does not fall, as in the authors' code."""

ENVIRONMENT_STEPS = "system/environment_steps"
"""Under which a report says how many steps in environments its training took until then, at most."""


class Environment(NamedTuple):
    """A family of Markov decision processes, written for one trajectory in one of them.

    All randomness comes in as numbers in (0, 1), so that the same numbers give the same trajectory.
    """

    reset: Callable[[Tensor, Tensor], Tensor]  # (parameters [D], uniform [n_start]) -> state
    observe: Callable[[Tensor, Tensor], Tensor]  # (parameters, state) -> [O]
    # (parameters, state, action, uniform [n_world]) -> state, reward [], whether it ends []: bool, or 0 or 1
    step: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Any, Any]]
    horizon: int
    n_observed: int  # O
    n_actions: int  # A
    is_discrete: bool  # whether an action is one of A, or A numbers
    n_start: int = 0
    n_world: int = 0
    gamma: float = 0.99  # discount in learning; returns are reported without
    gae: float = 1.0  # lambda of generalised advantages
    baseline: str = "linear"
    surrogate: str = "likelihood_ratio"
    log_std: float = 0.0  # logarithm of a policy's first standard deviation
    # parameters -> the largest expected return of a policy that knows them; None: it is not known
    best: Callable[[Tensor], Tensor] | None = None
    is_plane: bool = False  # whether one observes a place in the plane, and parameters are a goal there


def stepped(
    environment: Environment, parameters: Tensor, state: Tensor, action: Tensor, chance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a step; return reward and end as numbers of the parameters' type."""
    state, *numbers = environment.step(parameters, state, action, chance)
    zero = parameters.new_zeros(())  # makes a truth, or a number of Python's, a tensor where the others are
    reward, done = (zero + one for one in numbers)
    for name, one in {"a reward": reward, "an end": done}.items():
        if one.shape:
            raise MetabenchError(
                f"environment: step returned {name} of shape {list(one.shape)}; [] is needed, one number of "
                "one trajectory"
            )
    return state, reward, done


class Start(NamedTuple):
    """A half of a task of control before anyone has acted."""

    parameters: Tensor  # [D]
    seeds: Tensor  # int64 [M], one a trajectory: all chance comes from them


class Chances(NamedTuple):
    """All randomness of M trajectories, or of M for each inner step."""

    parameters: Tensor  # [D]
    start: Tensor  # [..., M, n_start], uniform
    action: Tensor  # [..., M, H, A], normal, or of a discrete action Gumbel
    world: Tensor  # [..., M, H, n_world], uniform


class Moves(NamedTuple):
    """What stands for labels in control: what a policy did, and how good it was; [..., M, H]."""

    action: Tensor  # [..., M, H, A], or int64 [..., M, H]
    advantage: Tensor  # 0 where the trajectory has ended, as rewards are
    log_prob: Tensor  # of the action under the policy that took it
    reward: Tensor
    is_on: Tensor  # 1 until the trajectory has ended, 0 from then on
    outputs: Tensor | None = None  # [..., M, H, O] of the policy that acted; None: it is no matter
    scale: Tensor | None = None  # [...]: what advantages were divided by; None: by nothing


def log_prob(outputs: Tensor, action: Tensor) -> Tensor:
    """Return the logarithm of an action's probability, or density; whole numbers are discrete actions.

    Args:
        outputs: of a policy: mean and logarithm of the deviation [..., 2A], or logits [..., A].
    """
    if not action.is_floating_point():
        return outputs.log_softmax(-1).gather(-1, action[..., None])[..., 0]
    mean, log_std = outputs.chunk(2, -1)
    log_std = log_std.clamp(min=LOWEST_LOG_STD)
    z = (action - mean) / log_std.exp()
    return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def act(outputs: Tensor, chance: Tensor) -> Tensor:
    """Draw a policy's action [..., A], or int64 [...] where outputs are logits."""
    if outputs.shape[-1] == chance.shape[-1]:
        return (outputs + chance).argmax(-1)
    mean, log_std = outputs.chunk(2, -1)
    return mean + log_std.clamp(min=LOWEST_LOG_STD).exp() * chance


def _log_ratio(outputs: Tensor, y: Moves) -> Tensor:
    now = log_prob(outputs.view(*y.is_on.shape, -1), y.action)  # [M, H]
    return (now - y.log_prob) * y.is_on


def mean_over_steps(of_steps: Tensor, y: Moves) -> Tensor:
    """Average numbers [M, H] over the steps that were taken."""
    return (of_steps * y.is_on).sum() / y.is_on.sum()


def log_likelihood(outputs: Tensor, y: Moves) -> Tensor:
    """Return -mean(log pi A): the authors' loss, whose second derivative is not that of the return."""
    return -mean_over_steps((_log_ratio(outputs, y) + y.log_prob) * y.advantage, y)


def likelihood_ratio(outputs: Tensor, y: Moves) -> Tensor:
    """Return -mean(pi / pi_old A); its second derivative leaves out how earlier actions change states."""
    # Rothfuss et al. 2019, eq. 8
    return -mean_over_steps(_log_ratio(outputs, y).exp() * y.advantage, y)


def dice(outputs: Tensor, y: Moves) -> Tensor:
    """Return the loss all of whose derivatives are, in expectation, those of minus the return."""
    # Farquhar et al. 2019, eq. 12, at its own time step: (e^(c_t) - e^(c_(t-1))) A_t, c = cumsum(log ratio)
    ratio = _log_ratio(outputs, y)
    now = ratio.cumsum(-1)
    return -mean_over_steps((now.exp() - (now - ratio).exp()) * y.advantage, y)


def sampling(outputs: Tensor, before: Moves, after: Moves) -> Tensor:
    """Return a loss of 0 whose slope is what sampling adds to that of the return after inner steps.

    A trajectory ought to be likelier by the return that follows all inner steps, less the mean return of the
    others of its batch, of which it is independent. All is on the scale of a surrogate of `after`, but where
    returns gain more than they spread: no task outweighs others by how alike its returns are.

    Args:
        outputs: of the policy that acted before the inner step.
    """
    returns = (before.reward * before.is_on).sum(-1)  # [M]
    of_others = (returns.sum() - returns) / max(len(returns) - 1, 1)
    likelier = _log_ratio(outputs, before).sum(-1)
    horizon = after.is_on.sum() / len(after.is_on)
    # Stadie et al. 2018: R(tau') grad log pi_theta(tau), tau' by the adapted policy
    gains = mean_return(None, after) - of_others
    if after.scale is not None:
        gains = gains / (after.scale.square() + gains.square().mean()).sqrt()
    return -(gains * likelier).sum() / horizon


def clipped_ratio(outputs: Tensor, y: Moves, limit: Tensor) -> Tensor:
    """Return -mean(min(r A, clip(r) A)), r = pi / pi_old: further than a limit from 1 nothing is gained."""
    # Rothfuss et al. 2019, eq. 11, first term
    ratio = _log_ratio(outputs, y).exp()
    within = ratio.clamp(1 - limit, 1 + limit)
    return -mean_over_steps((ratio * y.advantage).minimum(within * y.advantage), y)


def divergence(outputs: Tensor, y: Moves) -> Tensor:
    """Return KL(policy that acted || policy of these outputs), the mean over the steps that it took."""
    assert y.outputs is not None, "which whoever collects trajectories keeps"
    old, new = y.outputs, outputs.view_as(y.outputs)
    if not y.action.is_floating_point():
        old, new = old.log_softmax(-1), new.log_softmax(-1)
        return mean_over_steps((old.exp() * (old - new)).sum(-1), y)
    (mean, log_std), (new_mean, new_log_std) = old.chunk(2, -1), new.chunk(2, -1)
    log_std, new_log_std = (one.clamp(min=LOWEST_LOG_STD) for one in (log_std, new_log_std))
    spread = (2 * log_std).exp() + (mean - new_mean).square()
    apart = new_log_std - log_std + 0.5 * spread * (-2 * new_log_std).exp() - 0.5
    return mean_over_steps(apart.sum(-1), y)


def entropy(outputs: Tensor, y: Moves) -> Tensor:
    """Return the entropy of a policy of these outputs, the mean over the steps that were taken."""
    outputs = outputs.view(*y.is_on.shape, -1)
    if not y.action.is_floating_point():
        log_p = outputs.log_softmax(-1)
        return -mean_over_steps((log_p.exp() * log_p).sum(-1), y)
    log_std = outputs.chunk(2, -1)[1].clamp(min=LOWEST_LOG_STD)
    return mean_over_steps((log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1), y)


class Collected(NamedTuple):
    """One meta-batch of trajectories, of which an outer optimiser may ask again and again.

    Where a policy is judged, it is compared with what acted there once adapted, in an earlier version.
    """

    # (meta, limit of ratios, weight of inner_kl or None) -> gradient of loss + weight * inner_kl
    gradient: Callable[[Tree, float, Tensor | None], Tree]
    judged: Callable[
        [Tree], tuple[Tensor, Tensor]
    ]  # of meta: loss, no ratio limited, and kl where it is judged
    inner_kl: Callable[[Tree], Tensor]  # of meta: the mean over those that acted before an inner step
    fisher: Callable[[Tree, Tree], Tree]  # (meta, v): second derivative of kl where it is 0, times v


def discounted(x: Tensor, rate: float) -> Tensor:
    """Return sum_l rate^l x_(t+l) of [M, H], over the steps that are left."""
    later = x.new_ones(x.shape[1], x.shape[1]).tril()  # [later, t]
    ahead = (later.cumsum(0) - 1).clamp(min=0)
    return x @ (later * rate**ahead)


def mean_return(outputs: Any, y: Moves) -> Tensor:
    """Return the mean over trajectories of the sum of rewards, without discount."""
    return (y.reward * y.is_on).sum(-1).mean()


SURROGATES: Mapping[str, Callable[[Tensor, Moves], Tensor]] = {
    "log_likelihood": log_likelihood,
    "likelihood_ratio": likelihood_ratio,
    "dice": dice,
}
"""The setting `surrogate` to losses with the same first derivative, and others of second order."""

BASELINES = ("linear", "time", "zero", "none")
"""What is subtracted of returns: linear in observation and time, the mean at each time, nothing; or nothing,
and they are not standardised either."""
