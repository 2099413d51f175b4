"""Searches and runs as experiment trackers take them: MLflow and Weights & Biases, each an extra.

Written from the folders, during or after a search; nothing here is needed while one runs.
"""

from __future__ import annotations

import importlib.util

from metabench.core import MetabenchError


def check(name: str) -> None:
    """Raise MetabenchError where a tracker's package is not installed."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder of that name, such as W&B leaves, is no package
        raise MetabenchError(
            f"--to {name}: needs {name}, which is not installed; do: pip install 'metabench[{name}]'"
        )
