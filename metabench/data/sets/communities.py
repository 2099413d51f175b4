"""Communities and crime: is a community's crime low for its state, by census columns; states are tasks.

Protected are communities of which more people are black than white, or black than Hispanic and than Asian
where more are white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from metabench.core import MetabenchError, Splits, setting
from metabench.core.config import attempt
from metabench.data import Dataset
from metabench.data.reading import splits
from metabench.data.sets import table

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = "communities"

FILE = "communities_and_crime/communities_and_crime.csv"

SUFFIX = r" (numeric|string)$"
"""What stands behind the names of columns in the file."""

CRIME, STATE = "ViolentCrimesPerPop", "state"

BLACK, WHITE, OTHERS = "racepctblack", "racePctWhite", ("racePctAsian", "racePctHisp")

NO_INPUTS = ("communityname", "community", "county", "fold", BLACK, WHITE, *OTHERS)
"""Names, numbers that mean nothing, and the shares that the group is made of."""

LOW, PROTECTED = "low_crime", "protected"
"""The columns that are added."""


@dataclass(frozen=True)
class Options(table.Cut):
    """Which states are tasks, what is left out, and how states are split."""

    smallest: int = setting(20, "states of fewer communities are left out", minimum=2)
    drop: str = setting(
        "",
        "columns that are no inputs besides, by commas, such as those that say much of the group: "
        "blackPerCap, whitePerCap, PctForeignBorn",
    )


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the file, say of each community whether its crime is low, and cut the states."""
    problems: list[str] = []
    path = attempt(problems, splits.locate, root, FILE, "METABENCH_DATA")
    frame = None if path is None else attempt(problems, _read, path)
    if frame is None or problems:
        splits.refuse(NAME, problems)
    dropped = [one.strip() for one in options.drop.split(",") if one.strip()]
    frame = prepared(frame)
    if strange := [one for one in dropped if one not in frame.columns]:
        there = ", ".join(one for one in frame.columns if one not in (LOW, PROTECTED, STATE))
        splits.refuse(NAME, [f"drop={options.drop!r}: no column {strange[0]!r}; there are {there}"])
    frame = frame.drop(columns=dropped)
    described = table.Options(
        label=LOW,
        task=STATE,
        group=PROTECTED,
        smallest=options.smallest,
        **{one.name: getattr(options, one.name) for one in fields(table.Cut)},
    )
    return table.of_frame(f"{NAME}/{split}", frame, described)


def _read(path: Path) -> DataFrame:
    import pandas as pd

    try:
        frame = pd.read_csv(path, index_col=0, na_values=["?"])
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise MetabenchError(f"{path}: cannot be read as a table: {str(error).strip()}") from None
    frame.columns = frame.columns.str.replace(SUFFIX, "", regex=True)
    lacking = [one for one in (CRIME, STATE, BLACK, WHITE, *OTHERS) if one not in frame.columns]
    if lacking:
        raise MetabenchError(f"{path}: has no column {', '.join(lacking)}; get the file again")
    return frame


def prepared(frame: DataFrame) -> DataFrame:
    """Return inputs, state, label and group of each community whose crime is known.

    The median that a label compares with is of all the state's communities: it belongs to what the task is.
    """
    frame = frame.dropna(subset=[CRIME])
    median = frame.groupby(STATE)[CRIME].transform("median")
    black, white = frame[BLACK], frame[WHITE]
    others = frame[list(OTHERS)].max(axis=1)
    is_protected = (black > white) | ((white > black) & (black > others))
    lacking = [one for one in frame.columns if frame[one].isna().any()]
    kept: Sequence[str] = [one for one in frame.columns if one not in {*lacking, *NO_INPUTS, CRIME}]
    return (
        frame[kept]
        .assign(**{LOW: (frame[CRIME] <= median).astype(int), PROTECTED: is_protected.astype(int)})
        .reset_index(drop=True)
    )


DATASET = Dataset(
    name=NAME,
    summary="communities by state: whether crime is at or below the state's median, by 96 census columns, "
    "and fairly to those where black people are the largest group or minority; nothing is downloaded",
    size="30 states of 20 to 278 communities, 96 columns",
    licence="CC BY 4.0 (UCI)",
    url="https://archive.ics.uci.edu/dataset/183/communities+and+crime",
    citation="Redmond and Baveja 2002; as tasks: Slack, Friedler and Givental 2020, arXiv 1908.09092",
    splits=("states",),
    options=Options,
    load=load,
    is_available=lambda root: root is not None and (root / FILE).is_file(),
    has_group=lambda options: True,
    has_pictures=False,
    sources=lambda root, split, options: [root / FILE] if root is not None else [],
)
