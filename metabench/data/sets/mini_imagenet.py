"""mini-ImageNet: 100 classes of ImageNet, 600 photographs each, split by Ravi and Larochelle."""

from __future__ import annotations

from pathlib import Path

from metabench.data.sets.folder import published

DATASET = published(Path(__file__).with_suffix(".yaml"))
