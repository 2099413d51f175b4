"""SNAIL: a sequence model that reads the labelled support set and then says the query's label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The widths of the sequence model."""

    filters: int = setting(32, "filters of each dilated convolution", minimum=1, maximum=4_096)
    key_size: int = setting(32, "width of keys and queries in attention", minimum=1, maximum=4_096)
    value_size: int = setting(32, "width of values in attention", minimum=1, maximum=4_096)
    receptive_field: int = setting(
        26,
        "steps that the dilated convolutions of a block reach together, N*K + 1 for a whole task; attention "
        "reaches all in any case",
        minimum=2,
    )


def init_convolutions(channels: int, h: Settings, generator: Generator) -> tuple[Tree, int]:
    """Draw a temporal convolution block; return it and the channels after it."""
    layers: Tree = {}
    # TCBlock: ceil(log2 T) dense blocks, each adding its filters to the channels
    for index in range((h.receptive_field - 1).bit_length()):
        names = ("filter", "gate")
        layers[f"layer{index}"] = {n: nets.init_head(h.filters, 2 * channels, generator) for n in names}
        channels += h.filters
    return layers, channels


def convolve(weights: Tree, x: Tensor, n: int) -> Tensor:
    """Add the channels of gated causal convolutions of kernel 2, their dilations doubling."""
    for index in range(len(weights)):
        layer = weights[f"layer{index}"]
        pair = torch.cat([earlier(x, 2**index, n), x], -1)
        # DenseBlock: tanh(x_f) * sigmoid(x_g), beside its input
        x_f, x_g = nets.head(layer["filter"], pair), nets.head(layer["gate"], pair)
        x = torch.cat([x, x_f.tanh() * x_g.sigmoid()], -1)
    return x


def earlier(x: Tensor, dilation: int, n: int) -> Tensor:
    """Return what each row sees `dilation` steps before it: zeros before the first step."""
    steps = torch.cat([x.new_zeros(dilation, x.shape[-1]), x[:n]])  # row t is step t - dilation
    return torch.cat([steps[:n], steps[n : n + 1].expand(x.shape[0] - n, -1)])


def init_attention(channels: int, h: Settings, generator: Generator) -> tuple[Tree, int]:
    """Draw an attention block; return it and the channels after it."""
    widths = {"keys": h.key_size, "queries": h.key_size, "values": h.value_size}
    weights = {name: nets.init_head(width, channels, generator) for name, width in widths.items()}
    return weights, channels + h.value_size


def attend(weights: Tree, x: Tensor, n: int) -> Tensor:
    """Add the channels that each row reads from those before it and from itself."""
    keys, queries, values = (nets.head(weights[name], x) for name in ("keys", "queries", "values"))
    row, column = (torch.arange(x.shape[0], device=x.device).view(shape) for shape in ((-1, 1), (1, -1)))
    sees = (column == row) | ((column < row) & (column < n))
    # AttentionBlock: CausallyMaskedSoftmax(query . key / sqrt(key size)), values read by it beside the input
    logits = queries @ keys.T / math.sqrt(keys.shape[-1])
    return torch.cat([x, logits.masked_fill(~sees, -torch.inf).softmax(-1) @ values], -1)


BLOCKS: Mapping[str, tuple[Callable[..., tuple[Tree, int]], Callable[[Tree, Tensor, int], Tensor]]] = {
    "attention1": (init_attention, attend),
    "convolutions1": (init_convolutions, convolve),
    "attention2": (init_attention, attend),
    "convolutions2": (init_convolutions, convolve),
    "attention3": (init_attention, attend),
}
"""The sequence model from input to output: how each block is drawn, and how it runs."""


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = inner.init_body(net, generator)
    channels = net.features + net.outputs
    weights: Tree = {}
    for name, (draw, _) in BLOCKS.items():
        weights[name], channels = draw(channels, h, generator)
    weights["output"] = nets.init_head(net.outputs, channels, generator)
    return {"theta": theta, "sequence": weights}, {}


def read(weights: Tree, x: Tensor, n: int) -> Tensor:
    """Run the sequence model's blocks over n steps and, from row n on, over continuations by one step each.

    As nothing looks ahead, the steps are the same whatever follows them, and are computed once for all.
    """
    for name, (_, run) in BLOCKS.items():
        x = run(weights[name], x, n)
    return x


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    features, moments = net.embed(meta["theta"], support.x)
    learner = inner.adapted(net, meta["theta"], support, moments)
    labels = (support.y[:, None] == torch.arange(net.outputs, device=support.y.device)).to(features.dtype)
    return {**learner, "sequence": meta["sequence"], "steps": torch.cat([features, labels], -1)}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)
    steps, weights = learner["steps"], learner["sequence"]
    queries = torch.cat([features, features.new_zeros(x.shape[0], net.outputs)], -1)
    rows = read(weights, torch.cat([steps, queries]), len(steps))
    return nets.outputs(net, weights["output"], rows[len(steps) :])


def reading(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> tuple[Tensor, Tensor]:
    learner = adapt(net, meta, buffers, support, h)
    features, weights = learner["steps"][:, : net.features], learner["sequence"]
    asked = torch.cat([features, features.new_zeros(len(features), net.outputs)], -1)
    rows = [  # a continuation by one step of all before it
        read(weights, torch.cat([learner["steps"][:n], asked[n : n + 1]]), n)[-1] for n in range(len(asked))
    ]
    return nets.outputs(net, weights["output"], torch.stack(rows)), support.y


ALGORITHMS = {
    "snail": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optim.descend,
        is_of_features=True,
        reading=reading,
        reference="Mishra et al. 2018, arXiv 1707.03141, section 3 and the few-shot architecture of the "
        "appendix: attention, convolutions, attention, convolutions, attention, linear output, the loss at "
        "the last step alone. Each query ends a sequence of its own. Deviations: all blocks share one width, "
        "small enough for a CPU (published: 128 filters, keys and values of 64 and 32, 256 and 128, 512 and "
        "256); dilations start at one, so that the layers of a block reach every step; their number follows "
        "receptive_field and not the shots, so any length can be evaluated; features enter as the body "
        "gives them, without a further linear layer; and the support set comes class by class, not shuffled.",
    )
}
