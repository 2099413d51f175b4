"""The kinds of values that the models of JSON files are made of, each with its bounds."""

from __future__ import annotations

import datetime
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, with_config

from metabench.core.config import Scalar


def _moment(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("must be a time with its zone")
    return text


keys = with_config(ConfigDict(extra="allow", strict=True, allow_inf_nan=False))

Whole = Annotated[int, Field(ge=0, le=2**53)]
Time = Annotated[float, Field(ge=0, le=1e15)]
Real = Annotated[float, Field(ge=-1e300, le=1e300)]
Figures = Annotated[list[Real | None], Field(min_length=1)]
Moment = Annotated[str, AfterValidator(_moment)]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$", max_length=200)]
"""Of a trial, which names a folder."""
Settings = dict[str, Scalar]
ClassRows = Annotated[str, Field(pattern=r"^\d+( \d+)*$")]
"""The classes of a task, by their rows in the split."""


Groups = Annotated[list[Whole], Field(min_length=8, max_length=8)]
"""Queries of a task by group, label and guess."""
