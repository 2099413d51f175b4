"""Drawing which classes and examples make up tasks: uniform or unbalanced, within or across domains."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.core import MetabenchError, Split, seeds
from metabench.core.config import TaskConfig

TRIES = 100
"""How often a task's pictures are drawn at most, until support and query have no group in common."""

REDRAWS = 10
"""How often tasks for which these tries are too few are drawn anew, of other classes."""

SEEDS = 2**31 - 1
"""Numbers among which a trajectory of control has one, of which all its chance is made."""


class Shape(NamedTuple):
    """What T tasks that are computed together have in common."""

    way: int
    shot: int  # support examples a class; on average, where they are unbalanced
    query: int
    most_shots: int = 0  # of a class, where they are unbalanced; 0: every class has `shot`
    unlabelled: int = 0  # examples without a label, of each class of the task and of each distractor
    distractors: int = 0  # classes of which a task has unlabelled examples only
    columns: int = 0  # of a row that is a task: how many say label and group; 0: a row is a class
    outputs: int = 0  # labels there are, where they are fixed; 0: as many as ways

    @property
    def n_rows(self) -> int:
        """Return how many rows of the split a task is drawn from: a class each, or the one that it is."""
        return 1 if self.columns else self.way

    @property
    def n_labels(self) -> int:
        """Return how many labels a task's classes are told apart by."""
        return self.outputs or self.way

    @property
    def max_shots(self) -> int:
        """Return the most support examples that a class may have."""
        return self.most_shots or self.shot

    @property
    def is_function(self) -> bool:
        """Tell whether a task is one function, whose points hold their target; classes are two or more."""
        return self.way == 1


class Indices(NamedTuple):
    """Which classes and examples make up T tasks; the position along N is the label, if none is fixed."""

    classes: Tensor  # int64 [T, N]
    # int64 [T, N, max_shots + Q + U], distinct along the last axis: support, query, unlabelled; of control
    # the seeds of trajectories
    examples: Tensor
    shots: Tensor | None = None  # int64 [T, N], where the support is unbalanced; its sum is N * K
    query_classes: Tensor | None = None  # int64 [T, N], where queries come from another domain
    distractors: Tensor | None = None  # int64 [T, D], classes
    distractor_examples: Tensor | None = None  # int64 [T, D, U], examples of these
    order: Tensor | None = None  # int64 [T, (N + D) * U], in which the unlabelled examples are shown
    labels: Tensor | None = None  # int64 [T, N], where they are fixed, and the position along N says nothing


class Pool(NamedTuple):
    """A split as tasks are drawn from it."""

    split: Split
    domains: str  # see config.TaskConfig
    groups: tuple[Tensor, ...] = ()  # bool [class] of each domain that a task can be drawn from
    # int64 [domain, name], the row of a class name in each domain, -1 where it has none
    rows: Tensor | None = None
    pairs: tuple[tuple[int, int], ...] = ()  # domains of support and query that share enough names
    chances: Tensor | None = None  # of each group or pair
    # bool [class, example]: support and query are of these, what is unlabelled of the rest; None: no matter
    labelled: Tensor | None = None
    labels: Tensor | None = None  # int64 [class], where labels are fixed

    @property
    def outputs(self) -> int:
        """Return how many fixed labels there are; 0 where they are shuffled."""
        return 0 if self.labels is None else len(self.split.shared)


def shapes(
    task: TaskConfig, query: int, n_tasks: int, generator: Generator, columns: int = 0, outputs: int = 0
) -> list[tuple[Shape, Tensor]]:
    """Draw the ways and shots of T tasks; return each shape that occurs with the positions of its tasks.

    Args:
        columns: as `Split.n_columns`.
        outputs: as `Pool.outputs`.
    """
    rest = (query, task.most_shots or 0, task.unlabelled, task.distractors, columns, outputs)
    (low, high), (fewest, most) = task.ways, task.shots
    if low == high and fewest == most:
        return [(Shape(low, fewest, *rest), torch.arange(n_tasks))]
    ways = torch.randint(low, high + 1, (n_tasks,), generator=generator)
    shots = torch.randint(fewest, most + 1, (n_tasks,), generator=generator)
    return [
        (Shape(way, shot, *rest), torch.nonzero((ways == way) & (shots == shot)).flatten())
        for way, shot in sorted(set(zip(ways.tolist(), shots.tolist(), strict=True)))
    ]


def pool(split: Split, task: TaskConfig, query: int = 0) -> Pool:
    """Prepare a split for drawing a kind of task from it; refuse what no task can be drawn from.

    Args:
        query: examples a class; of one domain only classes that have enough examples are drawn.
    """
    labels = labels_of(split) if task.labels == "fixed" else None
    if task.domains == "any":
        if split.shared and len(set(split.words)) < len(split.words):
            raise MetabenchError(
                "domains=any: the domains have the same classes, and a task could ask for one twice; take "
                "within, or across"
            )
        return Pool(split, task.domains, labels=labels)
    has_enough = _has_enough(split, task, query)
    by_domain = _within if task.domains == "within" else _across_pairs
    return by_domain(split, has_enough, task.ways[1] + task.distractors)._replace(labels=labels)


def _homes(split: Split) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Return the domains, which of them each class is of, and how often classes are drawn."""
    names = tuple(dict.fromkeys(split.domains))
    place = torch.tensor([names.index(domain) for domain in split.domains])
    return names, place, torch.ones(len(place)) if split.weights is None else split.weights


def _within(split: Split, has_enough: Tensor, need: int) -> Pool:
    names, place, weights = _homes(split)
    groups = [(place == index) & has_enough for index in range(len(names))]
    kept = tuple(group for group in groups if int(group.sum()) >= need)
    if not kept:
        largest = max(int(group.sum()) for group in groups)
        raise MetabenchError(
            f"domains=within: no domain has the {need} classes of a task; the largest has {largest}; "
            "lower way or distractors"
            + ("" if has_enough.all() else ", or the examples a class that they need")
        )
    return Pool(split, "within", groups=kept, chances=torch.stack([weights[group].sum() for group in kept]))


def _across_pairs(split: Split, has_enough: Tensor, need: int) -> Pool:
    names, place, weights = _homes(split)
    rows = _rows(split, names, has_enough)
    has = rows >= 0
    both = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    pairs = tuple((a, b) for a, b in both if int((has[a] & has[b]).sum()) >= need)
    if not pairs:
        shared = max((int((has[a] & has[b]).sum()) for a, b in both), default=0)
        raise MetabenchError(
            f"domains=across: one domain ({names[0]}) in all"
            if len(names) == 1
            else f"domains=across: no two of the domains ({', '.join(names[:8])}) share the {need} classes "
            f"of a task, by their names after `domain/`; the most that two share is {shared}"
        )
    total = torch.stack([weights[place == index].sum() for index in range(len(names))])
    chances = torch.stack([total[a] * total[b] for a, b in pairs])
    return Pool(split, "across", rows=rows, pairs=pairs, chances=chances)


def labels_of(split: Split) -> Tensor:
    """Return the fixed label of each class: int64 [class]."""
    if not split.shared:
        raise MetabenchError(
            "labels=fixed: meta-test has classes of its own, for which no output stands; take shuffled, or "
            "data that are split by domain or by picture"
        )
    return torch.tensor([split.shared.index(word) for word in split.words])


def n_examples_needed(task: TaskConfig, query: int) -> int:
    """Return how many examples of a class of one domain a task may need."""
    shots = task.most_shots or task.shots[1]
    if task.domains == "across" and not task.unlabelled:
        return max(shots, query)  # support and query are of two
    return shots + query + task.unlabelled


def _has_enough(split: Split, task: TaskConfig, query: int) -> Tensor:
    """Tell of each class whether it has the examples of a task, in enough groups: bool [class]."""
    n_classes, n_examples = split.images.shape[:2]
    counts = torch.full((n_classes,), n_examples) if split.counts is None else split.counts
    if split.groups is None:
        return counts >= n_examples_needed(task, query)
    # What support and unlabelled examples show may be in the largest groups, of which no query can be.
    n_shown = n_examples_needed(task, 0)
    rows = [
        groups[:count].unique(return_counts=True)[1]
        for groups, count in zip(split.groups, counts, strict=True)
    ]
    left = [int(sizes.sum() - sizes.sort(descending=True)[0][:n_shown].sum()) for sizes in rows]
    return torch.tensor(left) >= query


def training_pool(split: Split, task: TaskConfig, seed: int) -> Pool:
    """Prepare meta-train: the examples that have a label are the same in all of a run's tasks."""
    source = pool(split, task, task.query)
    if task.labelled == 1:
        return source
    n_classes, n_examples = split.images.shape[:2]
    counts = torch.full((n_classes,), n_examples) if split.counts is None else split.counts
    chosen = _examples(seeds.generator("labelled", seed), split, torch.arange(n_classes), n_examples)
    n_first = torch.tensor([n_labelled(count, task.labelled) for count in counts.tolist()])
    is_first = torch.arange(n_examples) < n_first[:, None]
    return source._replace(labelled=torch.zeros_like(is_first).scatter(1, chosen, is_first))


def n_labelled(n_examples: int, share: float) -> int:
    """Return how many examples of a class have a label."""
    return round(n_examples * share)


def left_out(split: Split, task: TaskConfig, query: int) -> list[str]:
    """Name the domains that no task is drawn from, as they have too few classes of enough examples."""
    has_enough = _has_enough(split, task, query).tolist()
    able = dict.fromkeys(split.domains, 0)
    for domain, enough in zip(split.domains, has_enough, strict=True):
        able[domain] += enough
    need, n = task.ways[1] + task.distractors, n_examples_needed(task, query)
    return [
        f"domain {domain!r}: {count} classes have the {n} examples of a task; way={task.way} needs {need}; "
        "it is left out"
        for domain, count in able.items()
        if count < need
    ]


def _rows(split: Split, names: tuple[str, ...], has_enough: Tensor) -> Tensor:
    """Return the row of every class name in every domain: int64 [domain, name], -1 where there is none."""
    words = split.words
    columns = {word: column for column, word in enumerate(dict.fromkeys(words))}
    rows = torch.full((len(names), len(columns)), -1)
    for row, (word, domain) in enumerate(zip(words, split.domains, strict=True)):
        rows[names.index(domain), columns[word]] = row if has_enough[row] else -1
    return rows


def sample(generator: Generator, source: Pool, shape: Shape, n_tasks: int, redraws: int = REDRAWS) -> Indices:
    """Draw tasks: distinct classes, then distinct examples of each, as the pool and the shape say.

    No class that is drawn has fewer examples than support, query and unlabelled need together.
    """
    split, n_drawn = source.split, shape.n_rows + shape.distractors
    labelled = source.labelled
    rest = None if labelled is None else ~labelled
    query_classes = None
    if source.domains == "across":
        drawn, queries = _across(generator, source, n_drawn, n_tasks)
        query_classes = queries[:, : shape.way]
    else:
        drawn = _classes(generator, source, n_drawn, n_tasks)
    classes, others = drawn[:, : shape.n_rows], drawn[:, shape.n_rows :]
    examples = _of_classes(generator, source, shape, classes)
    if query_classes is not None and shape.query:
        queries = _examples(generator, split, query_classes, shape.query, labelled)
        examples = torch.cat(
            [examples[..., : shape.max_shots], queries, examples[..., shape.max_shots + shape.query :]], -1
        )
    indices = Indices(classes, examples, query_classes=query_classes)
    if shape.most_shots:
        indices = indices._replace(shots=_shots(generator, shape, n_tasks))
    if shape.unlabelled:
        n_unlabelled = n_drawn * shape.unlabelled
        indices = indices._replace(
            distractors=others,
            distractor_examples=_examples(generator, split, others, shape.unlabelled, rest),
            order=torch.rand(n_tasks, n_unlabelled, generator=generator).argsort(1),
        )
    if source.labels is not None:
        indices = indices._replace(labels=source.labels[classes])
    return indices if split.groups is None else _apart(generator, source, shape, indices, redraws)


def _of_classes(generator: Generator, source: Pool, shape: Shape, classes: Tensor) -> Tensor:
    """Draw what a task has of each of its classes: support, query and unlabelled."""
    n_needed, labelled = shape.max_shots + shape.query, source.labelled
    if labelled is None:
        return _examples(generator, source.split, classes, n_needed + shape.unlabelled)
    parts = ((n_needed, labelled), (shape.unlabelled, ~labelled))
    return torch.cat([_examples(generator, source.split, classes, *part) for part in parts], -1)


def _classes(generator: Generator, source: Pool, n_drawn: int, n_tasks: int) -> Tensor:
    keys = torch.rand(n_tasks, len(source.split.images), generator=generator)
    weights = source.split.weights
    if weights is not None:
        # Efraimidis and Spirakis 2006: the largest u^(1/w) are a sample without replacement by weight.
        keys = keys.log() / weights
    if source.domains == "within":
        assert source.chances is not None, "or it is no pool of domains"
        choice = torch.multinomial(source.chances, n_tasks, replacement=True, generator=generator)
        keys = keys.masked_fill(~torch.stack(source.groups)[choice], -torch.inf)
    return keys.topk(n_drawn).indices


def _across(generator: Generator, source: Pool, n_drawn: int, n_tasks: int) -> tuple[Tensor, Tensor]:
    assert source.rows is not None, "or it is no pool of pairs of domains"
    assert source.chances is not None, "or it is no pool of pairs of domains"
    choice = torch.multinomial(source.chances, n_tasks, replacement=True, generator=generator)
    first, second = source.rows[torch.tensor(source.pairs)[choice]].unbind(1)  # [T, name]
    keys = torch.rand(first.shape, generator=generator)
    names = keys.masked_fill((first < 0) | (second < 0), -torch.inf).topk(n_drawn).indices
    return first.gather(1, names), second.gather(1, names)


def _examples(
    generator: Generator, split: Split, classes: Tensor, n_drawn: int, allowed: Tensor | None = None
) -> Tensor:
    if split.has_environments:
        return torch.randint(SEEDS, (*classes.shape, n_drawn), generator=generator)
    n_examples = split.images.shape[1]
    scores = torch.rand(*classes.shape, n_examples, generator=generator)
    if allowed is not None:
        scores = scores.masked_fill(~allowed[classes], -1)  # below every draw, so that topk takes them last
    if split.counts is not None:
        is_missing = torch.arange(n_examples) >= split.counts[classes][..., None]
        scores = scores.masked_fill(is_missing, -1)
    if split.labels:
        # Learners that compare with examples of each label need one; else it is the draw that it would be.
        labels = split.images[classes, :, -split.n_columns].to(scores.device)
        for label in range(len(split.labels)):
            is_of = (labels == label) & (scores >= 0)
            first = scores.where(is_of, -1.0).argmax(-1, keepdim=True)
            scores = scores.scatter_add(-1, first, torch.ones_like(scores[..., :1]))
    # Where there are too few, the last are to be replaced by another domain's.
    n_there = min(n_drawn, n_examples)
    return F.pad(scores.topk(n_there).indices, (0, n_drawn - n_there))


def _apart(generator: Generator, source: Pool, shape: Shape, indices: Indices, redraws: int) -> Indices:
    """Draw queries anew, of groups that their task shows nothing of; all of a task where too few are left."""
    split, query = source.split, slice(shape.max_shots, shape.max_shots + shape.query)
    n_examples, examples = split.images.shape[1], indices.examples.clone()
    left = torch.arange(len(examples))
    for _ in range(TRIES):
        some = part(indices._replace(examples=examples), left)
        asked = some.classes if some.query_classes is None else some.query_classes
        scores = torch.rand(*asked.shape, n_examples, generator=generator)
        is_barred = _is_shown(split, shape, some, asked)
        if source.labelled is not None:
            is_barred = is_barred | ~source.labelled[asked]
        if split.counts is not None:
            is_barred = is_barred | (torch.arange(n_examples) >= split.counts[asked][..., None])
        best = scores.masked_fill(is_barred, -1).topk(shape.query)
        examples[left, :, query] = best.indices
        left = left[(best.values < 0).flatten(1).any(1)]
        if not len(left):
            return indices._replace(examples=examples)
        examples[left] = _of_classes(generator, source, shape, indices.classes[left])
    if redraws:
        others = tensors(sample(generator, source, shape, len(left), redraws - 1))
        whole = tensors(indices._replace(examples=examples))
        return Indices(**{name: rows.index_copy(0, left, others[name]) for name, rows in whole.items()})
    name = split.classes[int(indices.classes[left[0], 0])]
    raise MetabenchError(
        f"group: in {TRIES} draws of {name!r} and others, too few examples are of a group that is not in the "
        "support set; lower shot or the queries, or make the groups smaller"
    )


def _is_shown(split: Split, shape: Shape, indices: Indices, asked: Tensor) -> Tensor:
    """Tell of each example of classes [T, N] whether its task shows one of its group."""
    assert split.groups is not None, "or nothing is grouped"
    end = shape.max_shots + shape.query
    shown = torch.cat([indices.examples[..., : shape.max_shots], indices.examples[..., end:]], -1)
    groups = split.groups[indices.classes[..., None], shown].flatten(1)
    if indices.distractors is not None and indices.distractor_examples is not None:
        others = split.groups[indices.distractors[..., None], indices.distractor_examples]
        groups = torch.cat([groups, others.flatten(1)], 1)
    of_classes = split.groups[asked]
    is_shown = torch.zeros(of_classes.shape, dtype=torch.bool)
    for column in groups.unbind(1):  # all at once would take as many times the memory
        is_shown |= of_classes == column[:, None, None]
    return is_shown


def _shots(generator: Generator, shape: Shape, n_tasks: int) -> Tensor:
    """Divide N * K support examples: one a class, each further one to a random class that has room."""
    shots = torch.ones(n_tasks, shape.way, dtype=torch.int64)
    for _ in range(shape.way * (shape.shot - 1)):
        chance = (shots < shape.max_shots).to(torch.float32)
        shots.scatter_add_(
            1, torch.multinomial(chance, 1, generator=generator), torch.ones_like(shots[:, :1])
        )
    return shots


def tensors(indices: Indices) -> dict[str, Tensor]:
    """Return what indices consist of, by name."""
    return {name: index for name, index in indices._asdict().items() if index is not None}


def part(indices: Indices, chosen: slice | Tensor) -> Indices:
    """Take some of T tasks."""
    return Indices(**{name: index[chosen] for name, index in tensors(indices).items()})


def join(parts: list[Indices]) -> Indices:
    """Put tasks of one shape one after another."""
    names = tensors(parts[0])
    return Indices(**{name: torch.cat([tensors(one)[name] for one in parts]) for name in names})
