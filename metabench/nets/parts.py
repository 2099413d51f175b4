"""What the networks share: norm layers by name, how parameters start, and what `build` refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metabench.core import HEAD, MetabenchError, Net, Tree
from metabench.core.config import NetworkConfig
from metabench.core.config.network import OF_MODULES
from metabench.core.objectives import OBJECTIVES
from metabench.nets import layers

Norm = Callable[[Tree, str, Tensor, Tree | None], tuple[Tensor, Tree]]
"""(params, layer, x [n, C, ...], given moments) -> (normalised x, the batch moments used by layer)."""


Block = Callable[[Tree, int, Tensor, Tree | None], tuple[Tensor, Tree]]
"""(params, number, x, given moments) -> (what the block makes of x, the batch moments used by layer)."""


MOST_PARAMETERS = 2**30
"""Of a network: 4 GB, and as much again for each of gradient and optimiser, whichever tasks it learns."""


def norm_of(network: NetworkConfig) -> Norm:
    """Return the norm layer that a config names."""
    kinds: dict[str, Norm] = {
        "batch": _batch_norm,
        "group": lambda params, name, x, moments: (layers.group_norm(x, params[name], network.groups), {}),
        "none": lambda params, name, x, moments: (x, {}),
    }
    return kinds[network.norm]


def _batch_norm(params: Tree, name: str, x: Tensor, moments: Tree | None) -> tuple[Tensor, Tree]:
    used = layers.batch_moments(x) if moments is None else moments[name]
    return layers.normalise(x, params[name], used), {name: used}


class Layer(NamedTuple):
    """A hidden layer of weights and the norm layer that follows it; a layer without has no bias either."""

    name: str
    norm: str | None
    shape: tuple[int, ...]  # of its weight: [out, in, ...]


def embed(
    block: Block,
    n_blocks: int,
    readout: Callable[[Tensor], Tensor],
    params: Tree,
    x: Tensor,
    moments: Tree | None = None,
) -> tuple[Tensor, Tree]:
    """Pass inputs through one block after another, as `Net.embed` wants it."""
    used: Tree = {}
    for number in range(1, n_blocks + 1):
        x, seen = block(params, number, x, moments)
        used |= seen
    return readout(x), used


def describe(
    network: NetworkConfig,
    hidden: Sequence[Layer],
    embed: Callable[..., tuple[Tensor, Tree]],
    features: int,
    outputs: int,
    max_activation_numel: int,
    n_last: int = 1,
) -> Net:
    """Put a network together; its objective and the classes of meta-train are the caller's to set.

    Args:
        n_last: layers of the last block.
    """
    n_parameters = sum(math.prod(layer.shape) for layer in hidden) + outputs * features
    if n_parameters > MOST_PARAMETERS:
        raise MetabenchError(
            f"network.width={network.width}: makes {n_parameters:,} parameters; lower it, at most "
            f"{MOST_PARAMETERS:,} are allowed"
        )
    norms = {layer.norm: layer.shape[0] for layer in hidden if layer.norm}
    return Net(
        init=partial(_init, hidden, network.norm != "none", features, outputs),
        embed=embed,
        features=features,
        outputs=outputs,
        way=outputs,
        objective=OBJECTIVES["classification"],
        batch_norm=network.batch_norm,
        norm_channels=norms if network.norm == "batch" else {},
        norms=() if network.norm == "none" else tuple(norms),
        n_classes=0,
        max_activation_numel=max_activation_numel,
        last_block=tuple(n for layer in hidden[-n_last:] for n in (layer.name, layer.norm) if n),
    )


def _init(hidden: Sequence[Layer], has_norm: bool, features: int, outputs: int, generator: Generator) -> Tree:
    params: Tree = {}
    for layer in hidden:
        width, fan_in = layer.shape[0], math.prod(layer.shape[1:])
        params[layer.name] = {"weight": _uniform(layer.shape, fan_in, generator)}
        if layer.norm is None:
            continue
        if has_norm:  # its shift takes the place of the bias
            params[layer.norm] = {"scale": torch.ones(width), "shift": torch.zeros(width)}
        else:
            params[layer.name]["bias"] = _uniform((width,), fan_in, generator)
    params[HEAD] = init_head(outputs, features, generator)
    return params


def init_head(outputs: int, features: int, generator: Generator) -> Tree:
    """Draw a last layer as torch's own starts."""
    weight = _uniform((outputs, features), features, generator)
    return {"weight": weight, "bias": _uniform((outputs,), features, generator)}


def _uniform(shape: tuple[int, ...], fan_in: int, generator: Generator) -> Tensor:
    # What torch's own layers start from: Kaiming uniform with a = sqrt(5).
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def check(network: NetworkConfig, n_pixels: int, foreign: tuple[str, ...]) -> None:
    """Refuse settings that a network has no use for, and groups that group norm cannot form.

    Args:
        n_pixels: of the smallest image that a norm layer sees.
        foreign: settings of other networks, which must be left at their defaults.
    """
    defaults = NetworkConfig()
    wrong = [
        f"network.{key}={getattr(network, key)!r}: {network.name} has no such choice; "
        f"leave it at {getattr(defaults, key)!r}, or choose another network"
        for key in (*foreign, *OF_MODULES)
        if getattr(network, key) != getattr(defaults, key)
    ]
    if network.batch_norm == "frozen":
        wrong.append(f"network.batch_norm='frozen': {network.name} keeps no running moments; choose another")
    width, groups = network.width, network.groups
    divisors = [n for n in range(1, width + 1) if width % n == 0 and width // n * n_pixels > 1]
    if network.norm == "group" and groups not in divisors:
        why = "groups of one number are all zero" if width == groups else "groups must divide width"
        advice = (
            f"choose groups among {', '.join(map(str, divisors))}" if divisors else "choose a larger width"
        )
        wrong.append(f"network.groups={groups}, network.width={width}: {why}; {advice}")
    if wrong:
        raise MetabenchError("\n".join(wrong))


def image_shape(network: NetworkConfig, shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """Return channels, height and width, refusing points and images below a side of `smallest` pixels."""
    if len(shape) != 3:
        raise MetabenchError(
            f"network.name={network.name!r}: inputs of shape {list(shape)} are no images; "
            f"{network.name} takes [channels, height, width]; choose network mlp"
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise MetabenchError(
            f"images of {height} x {width} pixels: {network.name} with {network.shrink} needs at least "
            f"{smallest} x {smallest}; choose a larger image size, network mlp, or conv4 with shrink stride"
        )
    return channels, height, width
