"""Cutting images into splits by class: lists of classes, shares by seed, and the fingerprint of it all."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from metabench.core import SPLITS, MetabenchError, Pictures, Split, Splits, seeds
from metabench.core.config import attempt
from metabench.core.config.documents import WORDS, read_yaml
from metabench.data.reading import fitting, scaling
from metabench.data.reading.cache import Array, Key, kept, table_file

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

LARGEST_LIST, MOST_NAMES = 2**24, 2**20
"""Bytes of a list of classes, and names in it."""

SHOWN, EACH = 20, 3
"""Problems that are told one by one, and those of one kind where there are many."""

Classes = dict[str, list[str]]
"""Splits to the names of their classes."""

Groups = dict[str, dict[str, list[str]]]
"""Splits to groups of classes, such as superclasses, to the classes' names."""


def make_splits(
    name: str, meta_train: Split, meta_validation: Split, meta_test: Split, **about: Any
) -> Splits:
    """Put three splits together with the fingerprint of their names and bytes.

    Args:
        about: further fields of `Splits`.
    """
    # Contiguous, so that examples can be picked by one flat index without a copy of the whole.
    parts = [
        part._replace(images=part.images.contiguous()) for part in (meta_train, meta_validation, meta_test)
    ]
    digest = hashlib.sha256(name.encode())
    for part in parts:
        digest.update(repr((tuple(part.images.shape), part.classes, part.domains)).encode())
        for numbers in (part.counts, part.weights):
            if numbers is not None:
                digest.update(repr(numbers.tolist()).encode())
        if part.groups is not None:
            digest.update(repr(("groups", part.groups.tolist())).encode())
        if part.labels:
            digest.update(repr((part.labels, part.has_group)).encode())
        digest.update(part.images.numpy().data)
    return Splits(name, parts[0], parts[1], parts[2], digest.hexdigest(), **about)


def read_list(text: str) -> dict[str, Any]:
    """Read YAML, or JSON, whose scalars all stay words: class 01 is not class 1."""
    return WORDS(text).get_single_data()


def sorted_classes(groups: Groups) -> Classes:
    """Return the classes of each split, by name."""
    return {part: sorted(chain(*inside.values())) for part, inside in groups.items()}


def group_of(groups: Groups) -> dict[str, str]:
    """Return the group of each class."""
    return {name: group for inside in groups.values() for group, names in inside.items() for name in names}


def part_of(name: str) -> str | None:
    """Return the split that a word means, or None."""
    return ALIASES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))


def by_seed(names: Sequence[str], options: Any, what: str = "own classes") -> Classes:
    """Shuffle classes, or pictures of one, by a hash of each, and cut the row by shares."""
    shuffled = sorted(names, key=lambda name: (seeds.seed(what, options.seed, name), name))
    first = round(len(names) * options.meta_train)
    second = round(len(names) * (options.meta_train + options.meta_validation))
    return dict(zip(SPLITS, (shuffled[:first], shuffled[first:second], shuffled[second:]), strict=True))


def by_fold(names: Sequence[str], options: Any, what: str = "own classes") -> Classes:
    """Shuffle pictures, or tasks, by a hash of each; meta-validation is the same in every fold."""
    shuffled = sorted(names, key=lambda name: (seeds.seed(what, options.seed, name), name))
    first = round(len(names) * options.meta_validation)
    left = shuffled[first:]
    tested = left[options.fold :: options.folds]
    learnt = [name for place, name in enumerate(left) if place % options.folds != options.fold]
    return dict(zip(SPLITS, (learnt, shuffled[:first], tested), strict=True))


def fold_problems(options: Any) -> list[str]:
    """Say what is wrong with the folds of a cut of pictures, or of all that a data set has."""
    if options.folds == 0 and options.fold == 0:
        return []
    if getattr(options, "split_by", "pictures") != "pictures":
        return [
            f"folds={options.folds} and split_by={options.split_by!r}: folds are of pictures; set split_by"
        ]
    if options.folds < 2:
        return [f"folds={options.folds}: must be 2 or more, or 0 for one cut"]
    if options.fold >= options.folds:
        return [f"fold={options.fold}: must be < folds={options.folds}"]
    return []


def by_domain(
    domains: Mapping[str, str], parts: Collection[tuple[str, str | None]], options: Any
) -> tuple[Classes, list[str]]:
    """Split the domains of classes, by seed where no parts are given, and say what is wrong.

    Args:
        domains: the domain of each class.
        parts: each class and a split that it is in, where folders or words say so.
    """
    names = sorted(set(domains.values()))
    dealt = by_seed(names, options, "own domains")
    if parts:
        dealt = {part: sorted({domains[one] for one, home in parts if home == part}) for part in SPLITS}
    elif len(names) < (needed := len(SPLITS) - len(empty(options))):
        listed = ", ".join(names[:EACH]) + ", ..." * (len(names) > EACH)
        return {part: [] for part in SPLITS}, [
            f"split_by=domain: {len(names)} domains ({listed}); {needed} splits need {needed} or more; add "
            "domains, take split_by=seed, or, for data that are only tested on, meta_train=0 and "
            "meta_validation=0"
        ]
    advice = "add domains, or change meta_train and meta_validation"
    problems = class_problems(dealt, advice, "domains", 1, empty(options))
    return {part: sorted(one for one in domains if domains[one] in dealt[part]) for part in SPLITS}, problems


def groups_of(
    names: Mapping[str, Sequence[str]], pattern: str, domains: Mapping[str, str]
) -> tuple[dict[str, list[str]] | None, list[str]]:
    """Name the group of each example by what a pattern finds in its name; None where there are no groups."""
    if not pattern:
        return None, []
    try:
        rule = re.compile(pattern)
    except re.error as error:
        return None, [f"group={pattern!r}: is no regular expression: {error}"]
    matches = {one: [rule.match(name) for name in row] for one, row in names.items()}
    strange = [
        name
        for one, row in names.items()
        for name, match in zip(row, matches[one], strict=True)
        if not match or match[rule.groups and 1] is None
    ]
    if strange:
        return None, [f"group={pattern!r}: {len(strange)} names do not match, the first {strange[0]!r}"]
    return {
        one: [f"{domains.get(one, '')}/{match[rule.groups and 1]}" for match in row if match]
        for one, row in matches.items()
    }, []


def by_list(path: Path, available: Iterable[str]) -> tuple[Classes, list[str]]:
    """Read which classes a YAML file names for each split, and what is wrong with it.

    Classes that it does not name are left out.
    """
    classes: Classes = {part: [] for part in SPLITS}
    try:
        lists, twice = read_yaml(path, WORDS, LARGEST_LIST, MOST_NAMES)
        if not isinstance(lists, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in lists.values()
        ):
            raise MetabenchError(f"{path}: must map {', '.join(SPLITS)} to lists of classes, as YAML or JSON")
    except MetabenchError as error:
        return classes, [f"list {error}"]
    problems = [f"list {path}: {line}" for line in twice]
    available = set(available)
    for word, names in lists.items():
        part = part_of(word)
        if part is None:
            problems.append(f"list {path}: {word!r} is no split; allowed: {', '.join(SPLITS)}")
            continue
        for name in map(fitting.plain, names):
            if name not in available:
                problems.append(f"list {path}: class {name!r} of {part} has no images")
            elif name in classes[part]:
                problems.append(f"list {path}: class {name!r} stands twice in {part}")
            else:
                classes[part].append(name)
    return classes, problems


def empty(options: Any) -> list[str]:
    """List the splits that are to have nothing, as where data are only tested on."""
    return [part for part in SPLITS[:2] if getattr(options, part) == 0]


def shares_problems(options: Any) -> list[str]:
    """Say what is wrong with the shares of classes that the splits get."""
    if options.meta_train + options.meta_validation < 1:
        return []
    return [
        f"meta_train={options.meta_train} and meta_validation={options.meta_validation}: "
        "together they must be < 1, so that classes are left for meta_test"
    ]


SHARED = "; split_by=domain splits domains, which may have the same classes"
"""The cure where classes of domains are in two splits."""


def class_problems(
    classes: Classes,
    how: str,
    what: str = "classes",
    fewest: int = FEWEST,
    empty: Sequence[str] = (),
    domains: bool = False,
) -> list[str]:
    """Say which class, or domain, is in two splits, and which split has too few of them.

    Args:
        empty: splits that may have none.
        domains: whether classes are of domains.
    """
    one = {"classes": "class"}.get(what, what.removesuffix("s"))
    if not any(classes.values()):
        return [
            f"holds no {one}: meta_train, meta_validation and meta_test need {fewest} or more each; {how}"
        ]
    homes: dict[str, list[str]] = {}
    for part, names in classes.items():
        for name in names:
            homes.setdefault(name, []).append(part)
    cure = SHARED if domains else ""
    problems = [
        f"{one} {name!r} is in {' and in '.join(parts)}; a {one} may be in one split only{cure}"
        for name, parts in sorted(homes.items())
        if len(parts) > 1
    ]
    sizes = ", ".join(f"{part} {len(names)}" for part, names in classes.items())
    return problems + [
        f"{part} has {len(names)} {what} and needs {fewest} or more ({sizes}); {how}"
        for part, names in classes.items()
        if len(names) < fewest and part not in empty
    ]


def places(path: str, folders: Iterable[Path | None]) -> list[Path]:
    """List where a path may lead: itself, or, where it is relative, from here and from some folders."""
    place = Path(os.path.expanduser(path))
    if place.is_absolute():
        return [place]
    return list(dict.fromkeys(folder / place for folder in (Path.cwd(), *folders) if folder is not None))


def locate(root: Path | None, path: str, option: str = "path", folders: Iterable[Path] = ()) -> Path:
    """Return where a path option leads: from here, from some folders, or from METABENCH_DATA."""
    if not path.strip():
        raise MetabenchError(
            f"{option} is not set; give the option {option}: absolute, or relative to where you are"
        )
    looked = places(path, (*folders, root))
    for place in looked:
        try:
            place.stat()
            return place
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise MetabenchError(f"{option}={path!r}: {getattr(error, 'strerror', None) or error}") from error
    unset = " (METABENCH_DATA is not set)" if root is None else ""
    raise MetabenchError(
        f"{option}={path!r}: no such file or folder at {', nor at '.join(map(str, looked))}{unset}"
    )


def anchor(options: Mapping[str, Any], find: Callable[[str], str]) -> dict[str, Any]:
    """Return options whose paths lead to the same place from anywhere."""
    paths = {key: options[key] for key in ("path", "list") if isinstance(options.get(key), str)}
    return {**options, **{key: find(path) for key, path in paths.items() if path.strip()}}


def sources(root: Path | None, split: str, options: Any, default: str = "") -> list[Path]:
    """Return where the path option leads, if it leads anywhere."""
    path = options.path.strip() or (default and root and str(root / default)) or ""
    place = attempt([], locate, root, path)
    return [] if place is None else [place]


def choose(name: str, items: list[Any], options: Any, key: Callable[[Any], Any] = lambda item: item) -> Any:
    """Take some examples of a class by a hash of their names, so that other examples change little.

    Args:
        key: names an item.
    """
    if not 0 < options.examples_per_class < len(items):
        return items
    rank = {item: seeds.seed("own examples", options.seed, name, key(item)) for item in items}
    taken = set(sorted(items, key=lambda item: rank[item])[: options.examples_per_class])
    return [item for item in items if item in taken]


def refuse(name: str, problems: Iterable[str]) -> NoReturn:
    """Raise all problems of a data set as one error; where there are many, their kinds are counted first."""
    raise MetabenchError("\n".join(f"{name}: {line}" for line in summary(problems, "problems")))


def note(name: str, notes: Iterable[str]) -> None:
    """Say on the log what was done to data that are not as they should be."""
    for line in summary(notes, "things"):
        logging.getLogger(__name__).warning("%s: %s", name, line)


def summary(lines: Iterable[str], what: str) -> list[str]:
    """Return lines once each; where there are many, the first of each kind after a count of the kinds.

    Lines are of one kind where they differ in quoted words and numbers only.
    """
    once = list(dict.fromkeys(lines))
    if len(once) <= SHOWN:
        return once
    kinds: dict[str, list[str]] = {}
    for line in once:
        kinds.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "..", line), []).append(line)
    counts = sorted(((len(alike), kind) for kind, alike in kinds.items()), reverse=True)
    counted = "; ".join(f"{count} times {kind}" for count, kind in counts[:EACH])
    rest = f"; and {len(counts) - EACH} more kinds" if len(counts) > EACH else ""
    first = [line for alike in kinds.values() for line in alike[:EACH]][:SHOWN]
    return [f"{len(once)} {what}: {counted}{rest}", *first, f"and {len(once) - len(first)} more"]


class Kind(NamedTuple):
    """What is to be said of a table's splits beside their classes."""

    is_by_domain: bool = False  # whether splits have the same classes, in domains of their own
    groups: Mapping[str, Sequence[str]] | None = None  # the group of each example of each class
    rows: Mapping[str, Sequence[int]] | None = None  # of each example of each class in somebody's arrays


def splits_of(
    name: str,
    key: Key,
    table: Array,
    counts: Mapping[str, int],
    classes: Classes,
    pictures: Pictures | None,
    split: str = "own",
    domains: Mapping[str, str] | None = None,
    kind: Kind | None = None,
) -> Splits:
    """Cut a table of images into splits.

    Args:
        key: what the table depends on.
        table: uint8 [class, example, C, H, W], or float32, whose bands are standardised by meta-train; its
            rows are in the order of counts.
        counts: examples a class.
        domains: those of the classes; without them all are of one, the data set.
    """
    position = {one: row for row, one in enumerate(counts)}
    chosen = [one for part in SPLITS for one in classes[part]]
    ordered = _ordered(name, key, table, [position[one] for one in chosen], [counts[one] for one in chosen])
    parts, start, kind = {}, 0, kind or Kind()
    for part in SPLITS:
        names = classes[part]
        images = torch.from_numpy(ordered[start : start + len(names)])
        sizes = torch.tensor([counts[one] for one in names], dtype=torch.int64)
        is_full = bool((sizes == table.shape[1]).all())
        homes = tuple(domains[one] if domains else name for one in names)
        cut = Split(images, tuple(names), homes, None if is_full else sizes)
        parts[part] = cut._replace(
            groups=_numbered([kind.groups[one] for one in names], table.shape[1]) if kind.groups else None,
            numbers=_padded([kind.rows[one] for one in names], table.shape[1]) if kind.rows else None,
        )
        start += len(names)
    moments = None
    if table.dtype.kind == "f":
        parts, moments = scaling.standardised(parts)
    parts = _sharing(parts) if kind.is_by_domain else parts
    return make_splits(f"{name}/{split}", **parts, pictures=pictures, moments=moments)


def _sharing(parts: dict[str, Split]) -> dict[str, Split]:
    """Let splits of domains know all classes that any of them has."""
    shared = tuple(sorted({word for split in parts.values() for word in split.words}))
    return {part: split._replace(shared=shared) for part, split in parts.items()}


def _numbered(groups: Sequence[Sequence[str]], n_examples: int) -> torch.Tensor:
    """Number the groups of examples, as `_padded` does."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(chain(*groups)))}
    return _padded([[numbers[name] for name in row] for row in groups], n_examples)


def _padded(rows: Sequence[Sequence[int]], n_examples: int) -> torch.Tensor:
    """Return numbers of examples: int64 [class, example], -1 where a class has fewer."""
    padded = [[*row, *[-1] * (n_examples - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), n_examples)


def _ordered(name: str, key: Key, table: Array, rows: list[int], sizes: list[int]) -> Array:
    """Return some rows of a table in another order: mapped into memory where there are many bytes."""
    if rows == list(range(len(table))):
        return table
    if len(rows) * table[0].nbytes < LARGE:
        return table[rows]

    def write(path: Path) -> None:
        with table_file(path, (len(rows), *table.shape[1:]), table.dtype.type) as put:
            for row, source in enumerate(rows):
                for column in range(sizes[row]):
                    put(row, column, table[source, column])

    return kept(f"{name}-split", Key(key.source, (key.rest, rows)), write)
