"""Weights from files: read without running what a file may hold, and put into a module that they fit."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metabench.core import MetabenchError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of files of weights; all but the first are torch's own."""

INSIDE = ("state_dict", "model_state_dict", "model")
"""Entries of a checkpoint that hold the weights beside an optimiser's state."""

UNREADABLE = (
    *(SafetensorError, OSError, RuntimeError, EOFError, ValueError, LookupError),
    *(AssertionError, AttributeError, TypeError, struct.error),
)
"""What reading a file raises that holds something else, or a part; torch's own reader checks little."""

COUNTER = "num_batches_tracked"
"""Of a batch norm layer: no number is computed from it."""


def is_file(weights: str) -> bool:
    """Tell whether a setting means a file, and not the name of a library's weights."""
    return weights.endswith(SUFFIXES) or "/" in weights or "\\" in weights


def locate(weights: str, root: Path | None = None) -> Path:
    """Return the path of a file in the working folder, in `root` or among the data, or refuse it.

    An absolute path that a run recorded on another machine is that of the file of its name among the data:
    what it also recorded of its weights' numbers tells them from others. `anchored` lets no user write one.

    Args:
        root: where a relative path is looked for, too.
    """
    path, data = Path(weights).expanduser(), _data_root()
    folders = [Path(), *([root] if root else []), *([data] if data else [])]
    places = [folder / path for folder in folders]
    if path.is_absolute():
        places = [path, *([data / path.name] if data else [])]
    for place in places:
        if place.is_file():
            return place.absolute()
    looked = " and ".join(dict.fromkeys(str(place.absolute()) for place in places))
    what = "is a folder" if path.is_dir() else "no such file"
    cure = f"put {path.name} into the folder METABENCH_DATA, or name a file that is there"
    raise MetabenchError(f"network.weights={weights!r}: {what}; looked for {looked}; {cure}")


def _data_root() -> Path | None:
    folder = os.environ.get("METABENCH_DATA")
    return Path(folder).expanduser() if folder else None


def anchored(network: Mapping[str, Any], root: Path | None = None) -> dict[str, Any]:
    """Return a network as it is written, with a path of weights that leads there from anywhere.

    What lies among the data stays relative to METABENCH_DATA, which may be another folder on each machine.
    An absolute path is taken as it is, or refused: a file of its name elsewhere may hold other weights.
    """
    weights = network.get("weights")
    if not isinstance(weights, str) or not is_file(weights):
        return dict(network)
    path = Path(weights).expanduser()
    if path.is_absolute() and not path.exists():
        raise MetabenchError(
            f"network.weights={weights!r}: no such file; name one that is there, or give {path.name!r} "
            "alone, which is looked for here and in the folder METABENCH_DATA"
        )
    with contextlib.suppress(MetabenchError):  # which building it raises
        place, data = locate(weights, root), _data_root()
        weights = str(place)
        if data is not None and place.is_relative_to(data.absolute()):
            inside = place.relative_to(data.absolute()).as_posix()
            # A bare name with no suffix of weights would mean a library's, and a file here would come first.
            if is_file(inside) and locate(inside).samefile(place):
                weights = inside
    return {**network, "weights": weights}


def read(path: Path) -> dict[str, Tensor]:
    """Read names to tensors from a .safetensors file, or from a .pth file that holds nothing else."""
    where = f"network.weights={str(path)!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, which the message below says better
            is_safe = path.suffix == ".safetensors"
            state = load_file(path) if is_safe else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise MetabenchError(
            f"{where}: is no file of tensors alone; pickled objects are not read; they could run any code: "
            "save module.state_dict(), or a .safetensors file"
        ) from None
    except UNREADABLE as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise MetabenchError(f"{where}: cannot be read as weights: {reason}") from None
    return _tensors(state, where)


def _tensors(state: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by names without what DataParallel puts before them."""
    inside = [
        state[key] for key in INSIDE if isinstance(state, Mapping) and isinstance(state.get(key), Mapping)
    ]
    state = inside[0] if inside else state
    if not isinstance(state, Mapping) or not all(isinstance(one, Tensor) for one in state.values()):
        raise MetabenchError(f"{where}: is no dict of names to tensors; save module.state_dict()")
    is_parallel = bool(state) and all(str(name).startswith("module.") for name in state)
    return {
        str(name).removeprefix("module.") if is_parallel else str(name): one for name, one in state.items()
    }


def fit(module: nn.Module, state: Mapping[str, Tensor], where: str, heads: Sequence[str] = ()) -> None:
    """Put weights into a module, or say how many do not fit.

    Args:
        where: what to call the weights in a message.
        heads: layers that are taken out of the module, whose weights may be of any shape or be missing.
    """

    def is_kept(name: str) -> bool:
        return not any(name.startswith(f"{head}.") for head in heads) and not name.endswith(COUNTER)

    wanted = {name: one for name, one in module.state_dict().items() if is_kept(name)}
    stored = [name for name in state if is_kept(name)]
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in stored if name not in wanted]
    shaped = [
        f"{name} {list(state[name].shape)} for {list(one.shape)}"
        for name, one in wanted.items()
        if name in state and state[name].shape != one.shape
    ]
    kinds = {"are missing": missing, "are of no layer here": unknown, "have another shape": shaped}
    wrong = [f"{len(names)} {what} ({names[0]}, ...)" for what, names in kinds.items() if names]
    if wrong:
        raise MetabenchError(
            f"{where}: do not fit the network, which has {len(wanted)} tensors: {'; '.join(wrong)}; take "
            "weights of this very network, or name the one that they are of"
        )
    if bad := [name for name in wanted if not bool(state[name].isfinite().all())]:
        raise MetabenchError(
            f"{where}: {len(bad)} tensors hold what is not finite ({bad[0]}, ...); take other weights"
        )
    module.load_state_dict({name: state[name] for name in wanted}, strict=False)
