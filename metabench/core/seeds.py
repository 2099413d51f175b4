"""Randomness by name: a generator is a hash of what it is for, so no order of calls can change it."""

from __future__ import annotations

import hashlib

import torch


def seed(*names: object) -> int:
    """Hash names (strings, numbers) to a 63-bit seed, the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """Return a CPU generator seeded by names."""
    return torch.Generator().manual_seed(seed(*names))
