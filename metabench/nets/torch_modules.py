"""Any torch module as a network of pure functions: its parameters outside, its batch norm layers ours.

The module itself is never changed by a call: parameters come in through `torch.func.functional_call`, and
batch moments through a context of the call. It runs in evaluation mode, in which dropout is off.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from metabench.core import HEAD, MetabenchError, Net, Tree, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.config.network import MODULE, OF_OURS
from metabench.core.modules import load_object
from metabench.core.objectives import OBJECTIVES
from metabench.nets import backbones, layers, parts
from metabench.nets import weights as files

BATCH_NORM = nn.modules.batchnorm._BatchNorm
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
AFTER = ("drop", "act")
"""What a batch norm layer of timm's does beside normalising, in order."""

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.RMSNorm)
"""Other layers that hold a norm's scale and shift."""

SMALL = 32
"""Side of the images that a network is tried on, where it takes such."""


class _Call(NamedTuple):
    """One pass through a module: the moments that came with it, and those that it used."""

    moments: Tree | None
    used: dict[str, Tree]


_CALL: ContextVar[_Call] = ContextVar("call")


class BatchNorm(nn.Module):
    """A batch norm layer that takes its moments from the call, or, fixed, keeps its running ones."""

    def __init__(self, layer: Any, name: str, is_fixed: bool) -> None:
        super().__init__()
        self.name, self.epsilon, self.is_fixed = name, float(layer.eps), is_fixed
        self.weight, self.bias = layer.weight, layer.bias
        self.after = nn.Sequential(*(getattr(layer, one) for one in AFTER if hasattr(layer, one)))
        if is_fixed:
            self.register_buffer("running_mean", layer.running_mean)
            self.register_buffer("running_var", layer.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of [n, C, ...]."""
        norm = {
            "scale": x.new_ones(x.shape[1]) if self.weight is None else self.weight,
            "shift": x.new_zeros(x.shape[1]) if self.bias is None else self.bias,
        }
        if self.is_fixed:
            moments = {"mean": self.running_mean, "var": self.running_var}
        else:
            call, name = _CALL.get(), self.name
            while name in call.used:  # a layer that stands in several places
                name += "+"
            moments = layers.batch_moments(x) if call.moments is None else call.moments[name]
            call.used[name] = moments
        return self.after(layers.normalise(x, norm, moments, self.epsilon))


class _Form(NamedTuple):
    """A module that was looked through: what of it is learnt, and what it makes of an image."""

    module: nn.Module
    trained: tuple[str, ...]  # of its parameters, by their names in the module
    prepare: partial[Tensor]  # inputs in [0, 1] to what the module takes
    example: Tensor  # two such inputs
    features: int
    norm_channels: Mapping[str, int]
    max_activation_numel: int


def build(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build the network of a torch module that a config names."""
    refuse_ours(network)
    form = _form(network.model_dump_json(), shape, *origin(network))
    embed = partial(_embed, form.module, form.prepare, _Constants(form.module, form.trained))
    norms = {_split(f"{name}.weight")[0] for name, one in form.module.named_modules() if _is_norm(one)}
    return Net(
        init=partial(_init, network, form, outputs),
        embed=embed,
        features=form.features,
        outputs=outputs,
        way=outputs,
        objective=OBJECTIVES["classification"],
        batch_norm=network.batch_norm,
        norm_channels=form.norm_channels,
        norms=tuple(name for name in _by_layer(form.module, form.trained) if name in norms),
        n_classes=0,
        max_activation_numel=form.max_activation_numel,
        last_block=tuple(_by_layer(form.module, _last_block(form.module, form.trained))),
    )


def refuse_ours(network: NetworkConfig) -> None:
    """Refuse settings that only networks of this package have."""
    defaults = NetworkConfig()
    if wrong := [
        f"network.{key}={getattr(network, key)!r}: the module of {network.module or network.name} decides "
        f"that; leave it at {getattr(defaults, key)!r}"
        for key in OF_OURS
        if getattr(network, key) != getattr(defaults, key)
    ]:
        raise MetabenchError("\n".join(wrong))


def origin(network: NetworkConfig) -> tuple[Any, tuple[int, int] | None]:
    """Return what tells a module and a file of weights from others that go by their names."""
    maker = load_object(str(network.module), "network.module") if network.name == MODULE else None
    if network.weights is None or not files.is_file(network.weights):
        return maker, None
    about = files.locate(network.weights).stat()
    return maker, (about.st_mtime_ns, about.st_size)


def is_all_learnt(network: NetworkConfig) -> bool:
    """Tell whether what is learnt of a module is all that the weights which it starts from decide."""
    if network.weights is None or network.freeze != "none" or network.batch_norm == "frozen":
        return network.freeze == "none" and network.batch_norm != "frozen"
    if not files.is_file(network.weights):  # a name also stands for a size and a mean of inputs
        return False
    module = backbones.make(network.model_copy(update={"weights": None}), seeds.generator("learnt")).module
    replaced = {f"{name}." for name, one in module.named_modules() if isinstance(one, BATCH_NORM)}
    params = dict(module.named_parameters())
    return not any(
        one.is_floating_point() and name not in params and not name.startswith(tuple(replaced))
        for name, one in module.state_dict().items()
    )


def digest(network: NetworkConfig) -> str:
    """Hash how a module is made and the weights that it starts from, or would by one seed."""
    return _digest(network.model_dump_json(), *origin(network))


@functools.lru_cache(maxsize=4)
def _digest(described: str, maker: Any, stamp: Any) -> str:
    network = NetworkConfig.model_validate_json(described)
    return backbones.digest(network, backbones.make(network, seeds.generator("digest")))


@functools.lru_cache(maxsize=4)
def _form(described: str, shape: tuple[int, ...], maker: Any, stamp: Any) -> _Form:
    """Make a module and look through it; the last arguments tell apart what goes by one name."""
    network = NetworkConfig.model_validate_json(described)
    made, prepare = _fitting(network, shape)
    example = torch.rand(2, *shape, generator=seeds.generator("example"))
    if backbones.is_lazy(made.module):
        made = backbones.make(network, seeds.generator("form"), None, prepare(example))
    with torch.no_grad():
        features, numel = _activations(made.module, prepare(example), network)
        small = _smaller(made.module, prepare, example, features)
    named = _used(made.module, small(example))
    trained = {"none": named, "body": _last_block(made.module, named), "all": []}[network.freeze]
    module = _replace(made.module, network, trained)
    form = _Form(module.requires_grad_(False), tuple(trained), prepare, example, features, {}, numel)
    used = _try(form._replace(prepare=small), network)
    return form._replace(norm_channels={name: len(moments["mean"]) for name, moments in used.items()})


def _fitting(network: NetworkConfig, shape: tuple[int, ...]) -> tuple[backbones.Made, partial[Tensor]]:
    """Make a module, and what brings inputs of a shape into the form that it takes."""
    made = backbones.make(network, seeds.generator("form"))
    if backbones.is_lazy(made.module):  # it takes whatever comes
        return made, partial(_prepare, size=made.size, channels=shape[0], mean=made.mean, std=made.std)
    size = made.size if len(shape) == 3 else None
    one = partial(_prepare, size=size, channels=shape[0], mean=made.mean, std=made.std)
    three = partial(one, channels=3)
    example = torch.zeros(2, *shape)
    plain = partial(one, mean=backbones.AS_IS[0], std=backbones.AS_IS[1])
    is_grey = len(shape) == 3 and shape[0] == 1
    if is_grey and not _takes(made.module, plain(example)) and _takes(made.module, three(example)):
        return made, three
    return made, _checked(one, made, network, shape)


def _takes(module: nn.Module, x: Tensor) -> bool:
    with contextlib.suppress(Exception), torch.no_grad():
        module(x)
        return True
    return False


def _checked(
    prepare: partial[Tensor], made: backbones.Made, network: NetworkConfig, shape: tuple[int, ...]
) -> partial[Tensor]:
    if (made.mean, made.std) != backbones.AS_IS and (len(shape) != 3 or shape[0] != len(made.mean)):
        raise MetabenchError(
            f"network.normalise={network.normalise!r}: is of {len(made.mean)} channels, and inputs are "
            f"{list(shape)}; choose none, or data of as many channels"
        )
    return prepare


def _prepare(
    x: Tensor, size: int | None, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Bring inputs in [0, 1] to a size, to as many channels, and to a mean and deviation."""
    if size is not None and x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    if x.ndim == 4 and x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1)
    if (mean, std) == backbones.AS_IS:
        return x
    centre, spread = (x.new_tensor(one).view(-1, 1, 1) for one in (mean, std))
    return (x - centre) / spread


def _activations(module: nn.Module, x: Tensor, network: NetworkConfig) -> tuple[int, int]:
    """Return how many features there are, and the numbers in the largest image within."""
    sizes = [x[0].numel()]

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() // len(x))

    with backbones.hooked(module, lambda layer, name: [layer.register_forward_hook(note)]):
        features = backbones.first(module, x, network)
    return features.shape[1], max(sizes)


def _smaller(module: nn.Module, prepare: partial[Tensor], example: Tensor, features: int) -> partial[Tensor]:
    """Return what makes inputs so small that trying is quick, where a module makes the same of such."""
    small = partial(prepare, size=SMALL)
    if example.ndim == 4 and min(prepare(example).shape[-2:]) > SMALL:
        with contextlib.suppress(Exception):
            if module(small(example)).shape[1:] == (features,):
                return small
    return prepare


def _used(module: nn.Module, x: Tensor) -> list[str]:
    """Name the parameters that features depend on; those behind the layer that is asked for are not."""
    params = {name: one.detach().requires_grad_() for name, one in module.named_parameters()}
    with torch.enable_grad():
        total = functional_call(module, params, (x,)).sum()
        if not total.requires_grad:
            return []
        slopes = torch.autograd.grad(total, [*params.values()], allow_unused=True)
    return [name for name, slope in zip(params, slopes, strict=True) if slope is not None]


def _last_block(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Name the parameters from the last block on that has a matrix of weights."""
    shapes = {name: one.shape for name, one in module.named_parameters()}
    total = sum(map(math.prod, shapes.values()))
    last: list[str] = []
    for unit in reversed([*_units(module, "", total)]):
        its = [name for name in names if name.startswith(f"{unit}.")]
        last = its + last
        if any(len(shapes[name]) > 1 for name in its):
            break
    return last


def _units(module: nn.Module, prefix: str, total: int) -> Iterator[str]:
    """Name a module's blocks in order: its parts, lists and what holds most of the parameters opened."""
    for name, part in module.named_children():
        size = sum(one.numel() for one in part.parameters())
        is_opened = type(part) in (nn.Sequential, nn.ModuleList) or 2 * size > total
        if is_opened and any(True for _ in part.children()):
            yield from _units(part, f"{prefix}{name}.", total)
        else:
            yield f"{prefix}{name}"


def _replace(module: nn.Module, network: NetworkConfig, trained: Sequence[str]) -> nn.Module:
    """Put our batch norm layers into a module; frozen ones keep the running moments that they came with."""
    for name, layer in [*module.named_modules()]:
        if hasattr(layer, "inplace"):
            layer.inplace = False
        if not isinstance(layer, BATCH_NORM):
            continue
        if type(layer) not in PLAIN and not all(hasattr(layer, one) for one in AFTER):
            raise MetabenchError(
                f"network={network.module or network.name}: layer {backbones.shown(name)!r} is a "
                f"{type(layer).__name__}, a batch norm layer of its own kind; take one of torch's"
            )
        is_learnt = any(one.startswith(f"{name}.") for one in trained) or not layer.affine
        is_fixed = network.batch_norm == "frozen" or (network.freeze != "none" and not is_learnt)
        if is_fixed and layer.running_mean is None:
            raise MetabenchError(
                f"network.batch_norm={network.batch_norm!r}, network.freeze={network.freeze!r}: layer "
                f"{backbones.shown(name)!r} has no running moments to keep; choose another batch_norm, "
                "freeze nothing, or make it with track_running_stats"
            )
        module.set_submodule(name, BatchNorm(layer, _split(f"{name}.weight")[0], is_fixed))
    return module


def _is_norm(layer: nn.Module) -> bool:
    return isinstance(layer, (BatchNorm, *NORMS)) and all(one.ndim == 1 for one in layer.parameters())


def _split(name: str) -> tuple[str, str]:
    """Return the layer of a parameter, and what it is called there."""
    layer, _, leaf = name.rpartition(".")
    layer = backbones.shown(layer)
    return f"{layer}_" if layer == HEAD else layer, leaf


def _by_layer(module: nn.Module, names: Sequence[str]) -> Tree:
    """Return a module's parameters as a tree, one entry a layer."""
    tree: Tree = {}
    flat = dict(module.named_parameters())
    for name in names:
        layer, leaf = _split(name)
        tree.setdefault(layer, {})[leaf] = flat[name].detach().clone()
    return tree


class _Constants:
    """What of a module is not learnt, on the device and in the precision of the inputs."""

    def __init__(self, module: nn.Module, trained: Sequence[str]) -> None:
        self.names = [(name, *_split(name)) for name in trained]
        every = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.plain = {name: one.detach() for name, one in every.items() if name not in trained}
        self.moved: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def beside(self, x: Tensor) -> Mapping[str, Tensor]:
        key = x.device, x.dtype
        if key == (torch.device("cpu"), torch.float32):
            return self.plain
        if key not in self.moved:
            # Outside of the transforms that the call may be in: what they wrap does not outlive them.
            with torch._C._DisableFuncTorch(), torch.no_grad():
                self.moved[key] = {
                    name: one.to(x.device, x.dtype if one.is_floating_point() else one.dtype)
                    for name, one in self.plain.items()
                }
        return self.moved[key]


def _embed(
    module: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    constants: _Constants,
    params: Tree,
    x: Tensor,
    moments: Tree | None = None,
) -> tuple[Tensor, Tree]:
    learnt = {name: params[layer][leaf] for name, layer, leaf in constants.names}
    call = _Call(moments, {})
    token = _CALL.set(call)
    try:
        with _plain_attention():
            features = functional_call(module, {**constants.beside(x), **learnt}, (prepare(x),))
    finally:
        _CALL.reset(token)
    return features, call.used


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention of single operations: torch's fused ones have no second derivative under vmap."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


def _init(network: NetworkConfig, form: _Form, outputs: int, generator: Generator) -> Tree:
    module = form.module
    if network.weights is None:
        module = backbones.make(network, generator, None, form.prepare(form.example)).module
    return {**_by_layer(module, form.trained), HEAD: parts.init_head(outputs, form.features, generator)}


def _try(form: _Form, network: NetworkConfig) -> Tree:
    """Embed two tasks at once, to second order, or name the layer that cannot; return the moments used."""
    params = _by_layer(form.module, form.trained)
    embed = partial(_embed, form.module, form.prepare, _Constants(form.module, form.trained))
    tasks = torch.stack([form.example, form.example.flip(0)])

    def loss(params: Tree, x: Tensor) -> Tensor:
        return embed(params, x)[0].square().mean()

    def slope(params: Tree, x: Tensor) -> Tensor:
        return trees.dot(*[grad(loss)(params, x)] * 2)

    each = trees.map(lambda leaf: torch.stack([leaf, leaf]), params)
    order = grad(slope) if params else loss
    try:
        with backbones.entered(form.module) as path:
            vmap(order)(each, tasks)
    except Exception as error:  # whatever torch says of layers that it has no rule for
        where = path[-1] if path else "a layer's gradient"
        raise MetabenchError(
            f"network={network.module or network.name}: {where} cannot be vectorised over tasks: "
            f"{backbones.said(error)}; put another in its place, or take `freeze` all, where "
            "features are computed once; see docs/guides/own_network.md"
        ) from error
    with torch.no_grad():
        return embed(params, form.example)[1]
