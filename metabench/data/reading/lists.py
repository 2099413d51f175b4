"""Reading the class lists of published splits that the package carries."""

from __future__ import annotations

from importlib import resources

Groups = dict[str, dict[str, list[str]]]
"""Splits to groups of classes to the classes' names."""


def grouped(file: str) -> Groups:
    """Read a list whose headings `# split` stand above lines `group: class class ...`."""
    splits: Groups = {}
    for line in resources.files("metabench.data.sets").joinpath(file).read_text("utf-8").splitlines():
        if line.startswith("# "):
            current = splits.setdefault(line[2:], {})
        else:
            group, _, names = line.partition(": ")
            current[group] = names.split()
    return splits


def ungrouped(groups: Groups) -> dict[str, list[str]]:
    """Return the classes of each split, by name."""
    return {part: sorted(name for row in found.values() for name in row) for part, found in groups.items()}


def group_of(groups: Groups) -> dict[str, str]:
    """Return the group of each class."""
    return {name: group for found in groups.values() for group, row in found.items() for name in row}
