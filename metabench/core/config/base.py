"""What all models of a user's words are: strict, frozen, and without keys that they do not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str


class Model(BaseModel):
    """A frozen model that refuses unknown keys, values of another type, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
