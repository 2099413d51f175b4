"""Growing files of JSON lines in parts, since objects cannot be appended to."""

from __future__ import annotations

PART = 64 * 1024
"""Bytes after which a file of JSON lines goes on in another object, at the next end of a line."""


def split(data: bytes, size: int | None = None) -> list[bytes]:
    """Split JSON lines where a part is full, always at the same places; no data are one empty part."""
    parts, start = [], 0
    size = PART if size is None else size
    while len(data) - start > size:
        end = data.find(b"\n", start + size - 1) + 1
        if not end or end == len(data):
            break
        parts.append(data[start:end])
        start = end
    return [*parts, data[start:]]


def part_name(name: str, number: int) -> str:
    """Name a part of a growing file: the first has the file's own name."""
    return name if number == 0 else f"{name}.{number:06d}"


def whole_name(name: str) -> str:
    """Return the name of the file that an object is, or is a part of."""
    stem, dot, number = name.rpartition(".")
    return stem if dot and stem.endswith(".jsonl") and number.isdigit() else name
