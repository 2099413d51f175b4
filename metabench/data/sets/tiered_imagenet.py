"""tiered-ImageNet: 608 classes of ImageNet in 34 categories, split by category by Ren et al."""

from __future__ import annotations

from pathlib import Path

from metabench.data.sets.folder import published

DATASET = published(Path(__file__).with_suffix(".yaml"))
