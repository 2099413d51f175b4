"""Files of tensors and some text: written all or nothing, and refused where a bit is not what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from metabench.core import Tree, trees
from metabench.storage import files
from metabench.storage.files import Damaged

CHECKSUM = "sha256"
"""Entry of a file's text; safetensors itself notices a file that is cut off, but no bit that was flipped."""


def save(path: Path, tree: Tree, text: Mapping[str, str]) -> None:
    """Write a nested dict of tensors and some text to one safetensors file, all or nothing."""
    flat = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in trees.items(tree)}
    files.write_bytes(path, _in_order(to_bytes(flat, metadata={**text, CHECKSUM: _checksum(flat, text)})))


def _in_order(data: bytes) -> bytes:
    """Sort a file's text, which safetensors writes in another order each time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    return data[:8] + ordered + data[8 + size :]


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `save` wrote: dotted names to tensors, and the text; raise `Damaged` where it is not that."""
    try:
        with safe_open(path, framework="pt") as file:
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = dict(file.metadata() or {})
    except SafetensorError as error:
        raise Damaged(path, f"is damaged: {error}") from error
    if text.pop(CHECKSUM, None) != _checksum(flat, text):
        raise Damaged(path, "is damaged: it is not what was written, by its checksum")
    return {name: tensor.to(device) for name, tensor in flat.items()}, text


def _checksum(flat: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(text.items())).encode())
    for name in sorted(flat):
        tensor = flat[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
