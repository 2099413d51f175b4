"""What the user's own images share: where they lie, which classes go where, and tables cut into splits."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from metabench.core import MetabenchError, Split, Splits, seeds
from metabench.data import make_splits
from metabench.data.reading.cache import Array, Key, kept, table_file

PARTS = ("meta_train", "meta_validation", "meta_test")

ALIASES = {
    **dict.fromkeys(("meta_train", "metatrain", "train", "training", "background", "base"), "meta_train"),
    **dict.fromkeys(
        ("meta_validation", "metavalidation", "meta_val", "metaval", "validation", "valid", "val", "dev"),
        "meta_validation",
    ),
    **dict.fromkeys(("meta_test", "metatest", "test", "testing", "evaluation", "eval", "novel"), "meta_test"),
}
"""What people call the splits."""

FEWEST = 2
"""Classes without which no task can be drawn from a split."""

LARGE = 2**26
"""Bytes from which a reordered table is kept on disk, not in memory."""

SHOWN = 20
"""Problems that are told one by one."""

Classes = dict[str, list[str]]
"""Splits to the names of their classes."""


def locate(root: Path | None, path: str) -> tuple[Path | None, list[str]]:
    """Return where a path option leads, or what is wrong with it; relative paths start at METABENCH_DATA."""
    if not path.strip():
        return None, ["path is not set; give the option path, absolute or relative to METABENCH_DATA"]
    try:
        given = Path(path).expanduser()
        if not given.is_absolute() and root is None:
            return None, [f"path={path!r}: METABENCH_DATA is not set; set it, or give an absolute path"]
        place = given if root is None else root / given
        place.stat()
    except OSError as error:
        return None, [f"path={path!r}: {error.filename}: {error.strerror}"]
    except (ValueError, RuntimeError) as error:  # no path, no such user
        return None, [f"path={path!r}: {error}"]
    return place, []


def sources(root: Path | None, split: str, options: Any) -> list[Path]:
    """Return where the path option leads, if it leads anywhere."""
    place, _ = locate(root, options.path)
    return [] if place is None else [place]


def part_of(name: str) -> str | None:
    """Return the split that a word means, or None."""
    return ALIASES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))


def shares_problem(options: Any) -> list[str]:
    """Say what is wrong with the shares of classes that the splits get."""
    if options.meta_train + options.meta_validation < 1:
        return []
    return [
        f"meta_train={options.meta_train} and meta_validation={options.meta_validation}: "
        "together they must be < 1, so that classes are left for meta_test"
    ]


def by_seed(names: Sequence[str], options: Any) -> Classes:
    """Shuffle classes by a hash of each, and cut the row by shares."""
    shuffled = sorted(names, key=lambda name: (seeds.seed("own classes", options.seed, name), name))
    first = round(len(names) * options.meta_train)
    second = round(len(names) * (options.meta_train + options.meta_validation))
    return dict(zip(PARTS, (shuffled[:first], shuffled[first:second], shuffled[second:]), strict=True))


def by_list(path: Path, known: Iterable[str]) -> tuple[Classes, list[str]]:
    """Read which classes a file names for each split, and what is wrong with it.

    A file .yaml, .yml or .json maps splits to lists of classes; any other has a line `# meta_train`, and so
    on, before the classes of each split, one a line. Classes that it does not name are left out.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("is not a file")
        text = path.read_text("utf-8-sig")
        is_yaml = path.suffix.lower() in (".yaml", ".yml", ".json")
        found = _yaml_sections(text) if is_yaml else _text_sections(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return {part: [] for part in PARTS}, [f"list {path}: {reason}"]
    problems: list[str] = []
    classes: Classes = {part: [] for part in PARTS}
    known = set(known)
    for word, names in found:
        part = part_of(word)
        if part is None:
            problems.append(f"list {path}: {word!r} is no split; allowed: {', '.join(PARTS)}")
            continue
        for name in (unicodedata.normalize("NFC", name) for name in names):
            if name not in known:
                problems.append(f"list {path}: class {name!r} of {part} has no images")
            elif name in classes[part]:
                problems.append(f"list {path}: class {name!r} stands twice in {part}")
            else:
                classes[part].append(name)
    return classes, problems


def _yaml_sections(text: str) -> list[tuple[str, list[str]]]:
    found = yaml.BaseLoader(text).get_single_data()  # every scalar stays a word: class 01 is not class 1
    is_right = isinstance(found, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in found.values()
    )
    if not is_right:
        raise ValueError(f"must map {', '.join(PARTS)} to lists of classes")
    return [(str(word), names) for word, names in found.items()]


def _text_sections(text: str) -> list[tuple[str, list[str]]]:
    sections: list[tuple[str, list[str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#") and part_of(line.lstrip("#")):
            sections.append((line.lstrip("#"), []))
        elif sections:
            sections[-1][1].append(line)
        else:
            raise ValueError(f"the line {line!r} stands before the first heading, as `# {PARTS[0]}`")
    return sections


def problems_of(classes: Classes, how: str) -> list[str]:
    """Say which class is in two splits, and which split has too few."""
    if not any(classes.values()):
        return [
            f"holds no class: meta_train, meta_validation and meta_test need {FEWEST} or more each; {how}"
        ]
    homes: dict[str, list[str]] = {}
    for part, names in classes.items():
        for name in names:
            homes.setdefault(name, []).append(part)
    problems = [
        f"class {name!r} is in {' and in '.join(parts)}; a class may be in one split only"
        for name, parts in sorted(homes.items())
        if len(parts) > 1
    ]
    sizes = ", ".join(f"{part} {len(names)}" for part, names in classes.items())
    return problems + [
        f"{part} has {len(names)} classes and needs {FEWEST} or more ({sizes}); {how}"
        for part, names in classes.items()
        if len(names) < FEWEST
    ]


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise all problems of a data set as one error, if there are any."""
    if not problems:
        return
    told = list(dict.fromkeys(problems))
    more = [f"and {len(told) - SHOWN} more problems"] if len(told) > SHOWN else []
    raise MetabenchError("\n".join(f"{name}: {line}" for line in told[:SHOWN] + more))


def splits_of(
    name: str,
    key: Key,
    table: Array,
    counts: Mapping[str, int],
    classes: Classes,
    split: str = "own",
    domains: Mapping[str, str] | None = None,
) -> Splits:
    """Cut a table of images into splits.

    Args:
        key: what the table depends on.
        table: uint8 [class, example, C, H, W]; its rows are in the order of counts.
        counts: examples a class.
        domains: those of the classes; without them all are of one, the data set.
    """
    position = {one: row for row, one in enumerate(counts)}
    chosen = [one for part in PARTS for one in classes[part]]
    rows, sizes = [position[one] for one in chosen], [counts[one] for one in chosen]
    images = torch.from_numpy(_ordered(name, key, table, rows, sizes))
    splits, start = [], 0
    for part in PARTS:
        names = tuple(classes[part])
        n_examples = torch.tensor([counts[one] for one in names], dtype=torch.int64)
        is_full = bool((n_examples == table.shape[1]).all())
        part_images = images[start : start + len(names)]
        homes = tuple(domains[one] if domains else name for one in names)
        splits.append(Split(part_images, names, homes, None if is_full else n_examples))
        start += len(names)
    return make_splits(f"{name}/{split}", *splits)


def _ordered(name: str, key: Key, table: Array, rows: list[int], sizes: list[int]) -> Array:
    """Return some rows of a table in another order: mapped into memory where there are many bytes."""
    if rows == list(range(len(table))):
        return table
    if len(rows) * table[0].nbytes < LARGE:
        return table[rows]

    def write(path: Path) -> None:
        with table_file(path, (len(rows), *table.shape[1:])) as put:
            for row, source in enumerate(rows):
                for column in range(sizes[row]):
                    put(row, column, table[source, column])

    return kept(f"{name}-split", Key(key.source, (key.rest, rows)), write)
