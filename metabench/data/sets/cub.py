"""CUB: photographs of 200 kinds of birds (CUB-200-2011), split as Chen et al. did."""

from __future__ import annotations

from pathlib import Path

from metabench.data.sets.folder import published

DATASET = published(Path(__file__).with_suffix(".yaml"))
