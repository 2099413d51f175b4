"""Arrays that are slow to make, kept on disk under a key of everything that they depend on."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metabench.core import MetabenchError

Array = np.ndarray[Any, Any]


def folder() -> Path:
    """Return the cache folder: METABENCH_CACHE, or one in the user's home."""
    return Path(os.environ.get("METABENCH_CACHE") or "~/.cache/metabench").expanduser()


def cached(name: str, key: object, make: Callable[[], Array]) -> Array:
    """Return the array kept under a name and key, making and keeping it where it is missing or damaged."""
    path = folder() / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        pass  # a damaged file is one that we wrote: make it again
    except OSError as error:
        raise _refusal(path, error) from error
    try:  # before the slow part, so that a folder that cannot be written is told at once
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            array = make()
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # several processes may make it at once: each replaces the whole file
    except OSError as error:
        raise _refusal(path, error) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return array


def _refusal(path: Path, error: OSError) -> MetabenchError:
    return MetabenchError(
        f"cache {path.parent}: {error.strerror or error}; set METABENCH_CACHE to a folder that can be written"
    )
