"""Drawing which classes and examples make up tasks: uniform or unbalanced, within or across domains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metabench.core import MetabenchError, Split, seeds
from metabench.core.config import TaskConfig

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

    @property
    def n_rows(self) -> int:
        """Return how many rows of the split a task is drawn from: a class each, or the one that it is."""
        return 1 if self.columns else self.way

    @property
    def max_shots(self) -> int:
        """Return the most support examples that a class may have."""
        return self.most_shots or self.shot

    @property
    def is_function(self) -> bool:
        """Tell whether a task is one function, whose points hold their target; classes are two or more."""
        return self.way == 1


class Indices(NamedTuple):
    """Which classes and examples make up T tasks; the position along N is the label."""

    classes: Tensor  # int64 [T, N]
    # int64 [T, N, max_shots + Q + U], distinct along the last axis: support, query, unlabelled; of control
    # the seeds of trajectories
    examples: Tensor
    shots: Tensor | None = None  # int64 [T, N], where the support is unbalanced; its sum is N * K
    query_classes: Tensor | None = None  # int64 [T, N], where queries come from another domain
    distractors: Tensor | None = None  # int64 [T, D], classes
    distractor_examples: Tensor | None = None  # int64 [T, D, U], examples of these
    order: Tensor | None = None  # int64 [T, (N + D) * U], in which the unlabelled examples are shown


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


def shapes(
    task: TaskConfig, query: int, n_tasks: int, generator: Generator, columns: int = 0
) -> list[tuple[Shape, Tensor]]:
    """Draw the ways and shots of T tasks; return each shape that occurs with the positions of its tasks.

    Args:
        columns: as `Split.n_columns`.
    """
    rest = (query, task.most_shots or 0, task.unlabelled, task.distractors, columns)
    (low, high), (fewest, most) = task.ways, task.shots
    if low == high and fewest == most:
        return [(Shape(low, fewest, *rest), torch.arange(n_tasks))]
    ways = torch.randint(low, high + 1, (n_tasks,), generator=generator)
    shots = torch.randint(fewest, most + 1, (n_tasks,), generator=generator)
    return [
        (Shape(way, shot, *rest), torch.nonzero((ways == way) & (shots == shot)).flatten())
        for way, shot in sorted(set(zip(ways.tolist(), shots.tolist(), strict=True)))
    ]


def pool(split: Split, task: TaskConfig) -> Pool:
    """Prepare a split for drawing a kind of task from it; refuse what no task can be drawn from."""
    need = task.ways[1] + task.distractors
    if task.domains == "any":
        return Pool(split, task.domains)
    names = tuple(dict.fromkeys(split.domains))
    place = torch.tensor([names.index(domain) for domain in split.domains])
    weights = torch.ones(len(split.domains)) if split.weights is None else split.weights
    if task.domains == "within":
        groups = [place == index for index in range(len(names))]
        kept = tuple(group for group in groups if int(group.sum()) >= need)
        if not kept:
            largest = max(int(group.sum()) for group in groups)
            raise MetabenchError(
                f"domains=within: no domain has the {need} classes of a task; the largest has {largest}; "
                "lower way or distractors"
            )
        chances = torch.stack([weights[group].sum() for group in kept])
        return Pool(split, task.domains, groups=kept, chances=chances)
    rows = _rows(split, names)
    has = rows >= 0
    both = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    pairs = tuple((a, b) for a, b in both if int((has[a] & has[b]).sum()) >= need)
    if not pairs:
        shared = max((int((has[a] & has[b]).sum()) for a, b in both), default=0)
        raise MetabenchError(
            f"domains=across: no two of the domains ({', '.join(names[:8])}) share the {need} classes of a "
            f"task, by their names after `domain/`; the most that two share is {shared}"
        )
    total = torch.stack([weights[place == index].sum() for index in range(len(names))])
    chances = torch.stack([total[a] * total[b] for a, b in pairs])
    return Pool(split, task.domains, rows=rows, pairs=pairs, chances=chances)


def training_pool(split: Split, task: TaskConfig, seed: int) -> Pool:
    """Prepare meta-train: the examples that have a label are the same in all of a run's tasks."""
    source = pool(split, task)
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


def _rows(split: Split, names: tuple[str, ...]) -> Tensor:
    """Return the row of every class name in every domain: int64 [domain, name], -1 where there is none."""
    words = [
        name.removeprefix(f"{domain}/") for name, domain in zip(split.classes, split.domains, strict=True)
    ]
    columns = {word: column for column, word in enumerate(dict.fromkeys(words))}
    rows = torch.full((len(names), len(columns)), -1)
    for row, (word, domain) in enumerate(zip(words, split.domains, strict=True)):
        rows[names.index(domain), columns[word]] = row
    return rows


def sample(generator: Generator, source: Pool, shape: Shape, n_tasks: int) -> Indices:
    """Draw tasks: distinct classes, then distinct examples of each, as the pool and the shape say.

    No class has fewer examples than support, query and unlabelled need together.
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
    n_needed = shape.max_shots + shape.query
    if labelled is None:
        examples = _examples(generator, split, classes, n_needed + shape.unlabelled)
    else:
        parts = ((n_needed, labelled), (shape.unlabelled, rest))
        examples = torch.cat([_examples(generator, split, classes, *part) for part in parts], -1)
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
    return indices


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
    return scores.topk(n_drawn).indices


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
