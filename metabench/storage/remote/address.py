"""Addresses of object storage: which are understood, and what each needs."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any
from urllib.parse import urlsplit

from metabench.core import MetabenchError

EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""Scheme to the library that it needs, and the extra that installs it."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}}
}


def is_url(text: str) -> bool:
    """Tell whether a text is an address such as s3://bucket/folder, rather than a path."""
    return "://" in text


def check_url(url: str) -> str:
    """Return an address without its last slash, or say what is wrong with it."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise MetabenchError(
            f"{parts.scheme}://...: an address must hold no credentials and no parameters, which would be "
            "written into files; set AWS_ACCESS_KEY_ID and the like, or use the machine's own role"
        )
    library, extra = EXTRAS.get(parts.scheme, ("", ""))
    if not library and parts.scheme != "memory":
        raise MetabenchError(f"{url}: must be a path, or start with one of s3://, gs://")
    if not parts.netloc:
        raise MetabenchError(f"{url}: names no bucket; give {parts.scheme}://BUCKET/FOLDER")
    if library and importlib.util.find_spec(library) is None:
        raise MetabenchError(
            f"{url}: needs {library}, which is not installed; do: pip install 'metabench[{extra}]'"
        )
    return url.rstrip("/")


def faults() -> tuple[type[BaseException], ...]:
    """Return what the libraries raise where the network or the store is out of order."""
    names = {
        "botocore.exceptions": ("BotoCoreError", "ClientError"),
        "aiohttp": ("ClientError",),
        "gcsfs.retry": ("HttpError",),
    }
    loaded = [
        (sys.modules[module], name) for module in names if module in sys.modules for name in names[module]
    ]
    return (OSError, *(getattr(module, name) for module, name in loaded))
