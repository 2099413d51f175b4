"""What a network must be told of its data to be built, and to take pictures, where the data are not.

It stands in a run's folder, so that the folder is enough to predict with.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from metabench import PROTOCOL
from metabench.core import GROUPED, Features, MetabenchError, Pictures, Rows, Splits
from metabench.core.control import Environment
from metabench.data.tasks import frozen
from metabench.storage import files, models, records


class Inputs(NamedTuple):
    """What is learnt from."""

    data: str  # name and split
    kind: str  # of the data: classification, regression or control
    shape: tuple[int, ...]  # of one input: [C, H, W], or [D]
    n_classes: int  # of meta-train, or the labels of examples that have their own
    pictures: Pictures | None  # how a picture becomes an input, where that can be said
    rows: Rows | None = None  # how a row of numbers does
    features: Features | None = None  # where inputs are features of a frozen backbone
    mean: Tensor | None = None  # of features over meta-train, which stands in no file
    has_group: bool = False  # whether a learner is told who of a support set is protected
    shared: tuple[str, ...] = ()  # see `core.Split`
    environment: Environment | None = None  # of control, which stands in no file either

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of learners that can learn it."""
        return (self.kind, GROUPED) if self.has_group else (self.kind,)


def of(splits: Splits) -> Inputs:
    """Describe the inputs of a data set."""
    table, features = splits.meta_train.images, splits.features
    shape, mean = frozen.input_shape(splits), None
    n_classes = len(splits.meta_train.labels) or len(table)
    if features is not None:
        counts = splits.meta_train.counts
        n_pictures = table.shape[:2].numel() if counts is None else int(counts.sum())
        mean = table.sum((0, 1)) / n_pictures  # rows beyond the counts are zeros
    return Inputs(
        splits.name,
        splits.kind,
        shape,
        n_classes,
        splits.pictures,
        splits.rows,
        features,
        mean,
        splits.meta_train.has_group,
        splits.meta_train.shared,
        splits.environment,
    )


def write(folder: Path, splits: Splits) -> None:
    """Write down what a run learns from, unless its folder says so already."""
    path = folder / files.INPUTS
    if records.recover(path, models.INPUTS) is None:
        record = of(splits)._asdict()
        keys = ("rows", "features", "mean", "has_group", "shared", "environment")
        rows, features, _, has_group, shared, _ = (record.pop(key) for key in keys)
        record |= {"has_group": True} if has_group else {}
        record |= {"shared": shared} if shared else {}
        record |= {} if rows is None else {"rows": rows._asdict()}
        record |= {} if features is None else features._asdict()
        record["pictures"] = record["pictures"] and record["pictures"]._asdict()
        files.write_json(path, {"protocol": PROTOCOL, **record})


def lacks(folder: Path, name: str) -> str:
    """Say what adds a file that an older version did not write, or that is of other weights."""
    copied, place = "", str(folder)
    if files.search_around(folder) is not None:
        copied, place = "copy the run out of its search; then ", "COPY"
    cure = f"{copied}`metabench train --config {place} --out {place}` adds it, and trains nothing anew"
    if (folder / name).exists():
        return f"{folder}: its {name} is of other weights; {cure}"
    return f"{folder}: has no {name}, as an older version left it; {cure}"


def read(folder: Path) -> Inputs:
    """Read what a run learnt from."""
    path = folder / files.INPUTS
    if not path.exists():
        raise MetabenchError(lacks(folder, files.INPUTS))
    record = records.read(path, models.INPUTS)
    pictures, rows, shape = record["pictures"], record.get("rows"), record.get("picture_shape")
    return Inputs(
        record["data"],
        record["kind"],
        tuple(record["shape"]),
        record["n_classes"],
        None if pictures is None else Pictures(**{key: pictures[key] for key in Pictures._fields}),
        None if rows is None else Rows(*(tuple(rows[key]) for key in Rows._fields)),
        None if shape is None else Features(tuple(shape), record["backbone"]),
        shared=tuple(record.get("shared", ())),
        has_group=record.get("has_group", False),
    )
