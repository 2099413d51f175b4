"""Torch modules that others wrote: opened by name, with weights in and the classifying layer taken out."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from metabench.core import MetabenchError, seeds
from metabench.core.config import NetworkConfig, allowed, nearest
from metabench.core.modules import load_object
from metabench.nets import weights as files

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's red, green and blue, in [0, 1]."""

AS_IS = ((0.0,) * 3, (1.0,) * 3)

SIZE = 224
"""Of the side of an image, where neither weights nor a user say."""

MOST_NAMES = 12
"""Names of networks that a message lists."""

LONGEST = 160
"""Characters of what an error of others says that a message repeats."""

ROOT = "(module)"
"""The layer of what the outermost module holds itself."""

Three = tuple[float, ...]


class Made(NamedTuple):
    """A module of others, its classifying layer taken out, and what it wants of images."""

    module: Embedding  # in evaluation mode
    size: int | None  # of an image's side; None for a user's own, which takes what the data are
    mean: Three
    std: Three


class Backbone(NamedTuple):
    """A fixed map of images to features."""

    module: nn.Module  # in evaluation mode: [n, 3, size, size], normalised -> [n, features]
    size: int
    mean: Three  # of an input in [0, 1]
    std: Three
    features: int
    digest: str  # sha256 over what is computed: the architecture, the layer, each tensor's bytes


class _Reached(BaseException):
    """Ends a module where the features are there; no error, which a module might catch."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


class Embedding(nn.Module):
    """A module up to a layer, one row of features an image."""

    def __init__(self, net: nn.Module, layer: str | None) -> None:
        super().__init__()
        self.net = net
        if layer is not None:
            net.get_submodule(layer).register_forward_hook(self._stop)

    @staticmethod
    def _stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
        raise _Reached(output)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, F]: of maps [n, F, H, W] and of tokens [n, L, F] their mean."""
        try:
            features = self.net(x)
        except _Reached as reached:
            features = reached.features
        if not isinstance(features, Tensor):
            raise MetabenchError(
                f"network: returns {type(features).__name__}, and must return a tensor; name a `layer` whose "
                "output is one"
            )
        means: Mapping[int, Callable[[], Tensor]] = {
            3: lambda: features.mean(1),
            4: lambda: features.mean((2, 3)),
        }
        return means.get(features.ndim, lambda: features)()


def make(
    network: NetworkConfig, generator: Generator, root: Path | None = None, example: Tensor | None = None
) -> Made:
    """Make the module that a config names: its own weights, or such as a generator makes torch draw.

    Args:
        root: where a relative path of weights is looked for, beside the working folder.
        example: inputs that layers without a size take theirs from.
    """
    # Modules draw from torch's global generator, which is put back.
    with torch.random.fork_rng(devices=[]):
        drawn = int(torch.randint(2**62, (), generator=generator))
        torch.set_rng_state(seeds.generator("module", drawn).get_state())
        module, size, (mean, std) = LIBRARIES[network.name.partition("/")[0]](network, root)
        if example is not None and is_lazy(module):
            with torch.no_grad():
                first(module.eval(), example, network)
    if network.layer is not None:
        _find(module, network.layer, "layer")
    mean, std = {"imagenet": IMAGENET, "none": AS_IS}.get(network.normalise, (mean, std))
    return Made(Embedding(module, network.layer).eval(), network.image_size or size, mean, std)


Opened = tuple[nn.Module, int | None, tuple[Three, Three]]


def _own(network: NetworkConfig, root: Path | None) -> Opened:
    setting = f"network.module={network.module!r}"
    maker = load_object(str(network.module), "network.module")
    if isinstance(maker, nn.Module):
        raise MetabenchError(
            f"{setting}: is a module that is made already; name the class or a function that makes it, so "
            "that each seed has weights of its own"
        )
    module = _called(maker, network, setting)
    if not isinstance(module, nn.Module):
        raise MetabenchError(f"{setting}: returns {type(module).__name__}; it must return a torch.nn.Module")
    _load(module, network, root, [network.head] if network.head else [])
    if network.head is not None:
        _take_out(module, network.head)
    return module, None, AS_IS


def _torchvision(network: NetworkConfig, root: Path | None) -> Opened:
    models = _library("torchvision.models", "pip install --upgrade torchvision")
    name = network.name.partition("/")[2]
    _check_name(network, name, models.list_models(module=models))
    module = _called(partial(models.get_model, name), network, f"network={network.name}")
    its = models.get_model_weights(name)
    linear = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    head = network.head or (linear[-1] if linear else None)
    if head is None and network.layer is None:
        raise MetabenchError(
            f"network={network.name}: has no linear layer to take out; name the `layer` whose outputs are "
            f"the features: {', '.join(path for path, _ in module.named_children())}"
        )
    chosen = its.DEFAULT
    if network.weights is not None and not files.is_file(network.weights):
        if network.weights not in its.__members__:
            listed = allowed(network.weights, [*its.__members__])
            raise MetabenchError(
                f"network.weights={network.weights!r}: no weights of {network.name}.{listed}, or a file "
                f"({', '.join(files.SUFFIXES[:2])})"
            )
        chosen = its[network.weights]
        files.fit(module, _download(chosen), f"network.weights={network.weights}", [head] if head else [])
    else:
        _load(module, network, root, [head] if head else [])
    if head is not None:
        _take_out(module, head)
    transforms = chosen.transforms()
    return module, transforms.crop_size[0], (tuple(transforms.mean), tuple(transforms.std))


def _download(chosen: Any) -> Mapping[str, Tensor]:
    """Return torchvision's own weights, which torch keeps once they are downloaded."""
    try:
        return chosen.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise MetabenchError(
            f"network.weights={chosen.name}: cannot be downloaded ({error}); fetch {chosen.url} elsewhere, "
            f"put the file into {folder} or name its path as `weights`"
        ) from None


def _timm(network: NetworkConfig, root: Path | None) -> Opened:
    timm = _library("timm", "pip install 'metabench[timm]'")
    name = network.name.partition("/")[2]
    _check_name(network, name, timm.list_models())
    if network.weights is not None and not files.is_file(network.weights):
        raise MetabenchError(
            f"network.weights={network.weights!r}: timm's weights are not downloaded; fetch the file, and "
            "name its path"
        )
    module = _called(
        partial(timm.create_model, name, num_classes=0),
        network,
        f"network={network.name}",
    )
    heads = module.default_cfg.get("classifier") or ()
    _load(module, network, root, [heads] if isinstance(heads, str) else [*heads])
    about = importlib.import_module("timm.data").resolve_data_config({}, model=module)
    return module, about["input_size"][-1], (tuple(about["mean"]), tuple(about["std"]))


LIBRARIES: Mapping[str, Callable[[NetworkConfig, Path | None], Opened]] = {
    "module": _own,
    "torchvision": _torchvision,
    "timm": _timm,
}
"""Where a name leads, by what stands before its /."""


def _library(name: str, cure: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: of a torchvision for another torch
        raise MetabenchError(f"{name.partition('.')[0]}: cannot be imported ({error}); do: {cure}") from None


def _check_name(network: NetworkConfig, name: str, names: list[str]) -> None:
    if name not in names:
        listed = ", ".join(names[:MOST_NAMES])
        raise MetabenchError(
            f"network.name={network.name!r}: unknown network.{nearest(name, names)} There are {len(names)}: "
            f"{listed}, ..."
        )


def _called(maker: Callable[..., Any], network: NetworkConfig, where: str) -> Any:
    """Make a module with a user's options; whatever goes wrong in there is told with its place."""
    try:
        return maker(**network.options)
    except Exception as error:  # whatever code of others raises
        listed = ", ".join(f"{key}={value!r}" for key, value in network.options.items()) or "none"
        raise MetabenchError(
            f"{where}: making it raised {type(error).__name__}: {said(error)}; its `options` are {listed}"
        ) from error


def _load(module: nn.Module, network: NetworkConfig, root: Path | None, heads: list[str]) -> None:
    if network.weights is None:
        return
    if not files.is_file(network.weights):
        raise MetabenchError(
            f"network.weights={network.weights!r}: must be a file ({', '.join(files.SUFFIXES)}); only "
            "torchvision's networks have weights by name"
        )
    if is_lazy(module):
        raise MetabenchError(
            f"network.module={network.module!r}: has lazy layers, which no weights fit; give them their sizes"
        )
    path = files.locate(network.weights, root)
    files.fit(module, files.read(path), f"network.weights={str(path)!r}", heads)


def is_lazy(module: nn.Module) -> bool:
    """Tell whether a layer waits for its first input to have a size."""
    return any(isinstance(one, nn.UninitializedParameter) for one in module.parameters())


def _find(module: nn.Module, path: str, setting: str) -> nn.Module:
    paths = [name for name, _ in module.named_modules() if name]
    if path not in paths:
        children = ", ".join(name for name, _ in module.named_children())
        raise MetabenchError(
            f"network.{setting}={path!r}: there is no such layer.{nearest(path, paths)} At the top are "
            f"{children}"
        )
    return module.get_submodule(path)


def _take_out(module: nn.Module, path: str) -> None:
    head = _find(module, path, "head")
    if not isinstance(head, nn.Linear):
        linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        raise MetabenchError(
            f"network.head={path!r}: is a {type(head).__name__}, and must be a Linear"
            + (f": {', '.join(linear[-3:])}" if linear else "")
            + "; or leave it out, and name the `layer` whose outputs are the features"
        )
    module.set_submodule(path, nn.Identity())


def open_backbone(network: NetworkConfig, root: Path | None = None) -> Backbone:
    """Open a network as a fixed map of images to features.

    Args:
        root: where a relative path of weights is looked for, beside the working folder.
    """
    made = make(network, seeds.generator("backbone"), root)
    module = made.module.requires_grad_(False)
    size = made.size or SIZE
    with torch.no_grad():
        features = first(module, torch.full((2, 3, size, size), 0.5), network)
    return Backbone(module, size, made.mean, made.std, features.shape[1], digest(network, made))


def first(module: nn.Module, x: Tensor, network: NetworkConfig) -> Tensor:
    """Return the features of some images, or say why there are none."""
    called = network.module or network.name
    try:
        with entered(module) as path:
            features = module(x)
    except MetabenchError:
        raise
    except Exception as error:  # whatever code of others raises
        raise MetabenchError(
            f"network={called}: fails on inputs of {list(x.shape[1:])}, in {(path or ['it'])[-1]}: "
            f"{said(error)}; mend it, or choose `image_size`, or size and channels of the data"
        ) from error
    if features.ndim != 2 or len(features) != len(x):
        raise MetabenchError(
            f"network={called}: makes {list(features.shape)} of {len(x)} images, and must make a row of "
            "features for each; name a `layer`"
        )
    if not bool(features.isfinite().all()):
        raise MetabenchError(
            f"network={called}: its features are not finite; look at its weights, and at `normalise`"
        )
    return features


@contextlib.contextmanager
def hooked(module: nn.Module, hook: Callable[[nn.Module, str], list[Any]]) -> Iterator[None]:
    """Hang hooks on each layer of a module for a while."""
    handles = [handle for name, one in module.named_modules() for handle in hook(one, name)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def entered(module: nn.Module) -> Iterator[list[str]]:
    """Describe the layers that are being computed, the innermost last: where an error comes from."""
    path: list[str] = []

    def hook(layer: nn.Module, name: str) -> list[Any]:
        described = f"layer {shown(name)!r} ({type(layer).__name__})"
        return [
            layer.register_forward_pre_hook(lambda *_: path.append(described)),
            layer.register_forward_hook(lambda *_: path.pop() and None),
        ]

    with hooked(module, hook):
        yield path


def shown(name: str) -> str:
    """Return the name of a layer of an `Embedding` as the module within has it."""
    return name.removeprefix("net").removeprefix(".") or ROOT


def said(error: Exception) -> str:
    """Return what an error of others says, in one line."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def digest(network: NetworkConfig, made: Made) -> str:
    """Hash what a module computes: how it is made, where it ends, its inputs, and each tensor's bytes."""
    options = sorted(network.options.items())
    described = (network.name, network.module, options, network.head, network.layer, *made[1:])
    total = hashlib.sha256(repr(described).encode())
    for name, tensor in sorted(made.module.state_dict().items()):
        if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
