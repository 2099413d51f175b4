"""How exactly a GPU multiplies."""

from __future__ import annotations

import torch


def is_exact() -> bool:
    """Say whether products keep float32's precision, as they do unless torch is told otherwise."""
    return torch.backends.cuda.matmul.fp32_precision != "tf32"


def keep_float32() -> None:
    """Let convolutions on a GPU keep float32's precision where matrix products do.

    torch rounds the factors of a convolution to tf32's 11 bits by default. A meta-gradient through several
    inner steps comes out tens of per cent away then, as pixels take other ways through ReLU and pooling.
    torch.set_float32_matmul_precision("high") allows tf32 in both.
    """
    if is_exact():
        torch.backends.cudnn.allow_tf32 = False
