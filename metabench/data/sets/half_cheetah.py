"""Half-cheetah: MuJoCo's runner, which is to run forward or backward, or as fast as it is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from metabench.core import MetabenchError, Splits, setting
from metabench.core.control import Environment
from metabench.data import Dataset
from metabench.data.sets import _control as control

NAME = "half_cheetah"

ASSET = "envs/mujoco/assets/half_cheetah.xml"
"""The body, within the package gymnasium."""

N_JOINTS, N_MOTORS = 9, 6
"""A state is the joints' places, their speeds, and the accelerations from which the next ones are solved."""

LIBRARY = torch.library.Library("metabench", "FRAGMENT")
"""Holds the simulator for as long as this module is there."""

FRAMES, SECONDS = 5, 0.05
"""Steps of the simulator in one of the environment, and how long these take."""

START = 0.1
"""Joints start within this of their rest, and with speeds of this deviation."""

EFFORT = 0.05
"""Of a reward, what the sum of an action's squares costs, as in the MAML authors' code."""

FASTEST = 2.0
"""Of the speeds that are asked for."""


@dataclass(frozen=True)
class Options(control.Settings):
    """How long it runs, beside what all environments have."""

    horizon: int = setting(200, "steps of a trajectory", minimum=1, maximum=1_000)


def reset(parameters: Tensor, chance: Tensor) -> Tensor:
    """Start near the rest."""
    places, speeds = chance.split(N_JOINTS)
    moving = START * torch.special.ndtri(speeds)
    return torch.cat([START * (2 * places - 1), moving, torch.zeros_like(places)])


def observe(parameters: Tensor, state: Tensor) -> Tensor:
    """See places and speeds, but for how far it has come."""
    return state[1 : 2 * N_JOINTS]


def step(
    reward: Callable[[Tensor, Tensor], Tensor],
    parameters: Tensor,
    state: Tensor,
    action: Tensor,
    chance: Tensor,
) -> tuple[Tensor, ...]:
    """Run on; effort costs the same whatever is asked for."""
    action = action.clamp(-1, 1)
    after = simulator()(state, action)
    gained = reward((after[0] - state[0]) / SECONDS, parameters[0])
    return after, gained - EFFORT * action.square().sum(), torch.zeros_like(gained)


@cache
def simulator() -> Callable[[Tensor, Tensor], Tensor]:
    """Return MuJoCo as an operation of torch: states [..., 27] and actions [..., 6] to the states after."""
    mujoco, model = _model()
    data = mujoco.MjData(model)

    def run(state: Tensor, action: Tensor) -> Tensor:
        rows, motors = (one.reshape(-1, one.shape[-1]).cpu().double().numpy() for one in (state, action))
        after = np.empty_like(rows)
        for row, data.ctrl[:], moved in zip(rows, motors, after, strict=True):
            data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = row.reshape(3, N_JOINTS)
            mujoco.mj_step(model, data, FRAMES)
            np.concatenate((data.qpos, data.qvel, data.qacc_warmstart), out=moved)
        return torch.from_numpy(after).to(state).reshape(state.shape)

    def over(info: Any, dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
        # What is of one state is of many: the simulator is called once for all of them.
        spread = (
            one.expand(info.batch_size, *one.shape) if dim is None else one.movedim(dim, 0)
            for one, dim in zip(tensors, dims, strict=True)
        )
        return operation(*spread), 0

    # With the dispatcher itself: `torch.library.custom_op` imports torch's compiler, which takes seconds.
    LIBRARY.define(f"{NAME}(Tensor state, Tensor action) -> Tensor")
    LIBRARY.impl(NAME, run, "CompositeExplicitAutograd")
    torch.library.register_vmap(f"metabench::{NAME}", over, lib=LIBRARY)
    operation: Callable[[Tensor, Tensor], Tensor] = getattr(torch.ops.metabench, NAME)
    return operation


def _model() -> tuple[Any, Any]:
    """Import MuJoCo and read the body."""
    if not is_installed():
        raise MetabenchError(f"{NAME}: needs gymnasium and mujoco; do: pip install 'metabench[mujoco]'")
    import mujoco

    # MuJoCo would write a file into the working folder about how the body's file is written, and about NaN.
    mujoco.set_mju_user_warning(lambda warning: None)
    model = mujoco.MjModel.from_xml_path(str(files("gymnasium") / ASSET))
    # It would begin anew, at rest, in place of what is NaN or goes to infinity: that is to be seen.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return mujoco, model


def is_installed() -> bool:
    """Tell whether what it needs is."""
    return all(find_spec(name) is not None for name in ("gymnasium", "mujoco"))


REWARDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "direction": lambda speed, sign: sign * speed,
    "velocity": lambda speed, wanted: -(speed - wanted).abs(),
}
"""By split: speed and what is asked for, to what is gained."""


@cache
def environment(split: str, options: Options) -> Environment:
    """Return the environment that options describe; of the same, the very same."""
    simulator()  # so that what it needs is missed at once
    return control.environment(
        options,
        n_parameters=1,
        reset=reset,
        observe=observe,
        step=partial(step, REWARDS[split]),
        n_observed=2 * N_JOINTS - 1,
        n_actions=N_MOTORS,
        is_discrete=False,
        n_start=2 * N_JOINTS,
    )


def draw(split: str, n: int, generator: Generator) -> Tensor:
    """Draw which way to run, or speeds: [n, 1]."""
    u = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return FASTEST * u if split == "velocity" else torch.where(u < 0.5, -1.0, 1.0).double()


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Draw what is asked for; no downloaded data is needed."""
    return control.splits(
        f"{NAME}/{split}",
        environment(split, options),
        options,
        partial(draw, split),
        lambda one: f"{split} {one[0]:.3f}, {options.horizon} steps",
    )


DATASET = Dataset(
    name=NAME,
    summary="control: MuJoCo's half-cheetah is to run, and is not shown which way (split `direction`) or how "
    "fast (`velocity`); not comparable (v5) with published returns of MAML, which are of another cheetah; "
    "needs the extra `mujoco`, and no download",
    size="24,000 environments",
    licence="made by this package; the body is gymnasium's",
    url="https://gymnasium.farama.org/environments/mujoco/half_cheetah/",
    citation="Finn, Abbeel and Levine 2017, Model-Agnostic Meta-Learning, section 5.3.2; Todorov, Erez and "
    "Tassa 2012, MuJoCo: A physics engine for model-based control",
    splits=tuple(REWARDS),
    options=Options,
    load=load,
    is_available=lambda root: is_installed(),
    kind_of=lambda options: "control",
    has_pictures=False,
)
