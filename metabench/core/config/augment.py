"""How images of meta-training are distorted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from metabench.core.config.base import Model


class AugmentConfig(Model):
    """How far meta-train images are distorted at most where the setting `augment` asks for it."""

    flip: bool = Field(False, description="mirror every other image, left to right")
    rotate: float = Field(15, ge=0, le=180, description="degrees to either side")
    scale: float = Field(0.2, ge=0, le=2, description="of the logarithm of each side, up or down")
    shear: float = Field(0.2, ge=0, le=2, description="slant, as a share of the height")
    shift: float = Field(0.1, ge=0, le=1, description="share of a side, to either side")
    contrast: float = Field(0.0, ge=0, le=2, description="of the logarithm of the contrast, up or down")
    brightness: float = Field(0.0, ge=0, le=2, description="of the logarithm of the mean, up or down")
    padding: Literal["zeros", "border", "reflection"] = Field(
        "zeros", description="what comes in from beyond the border"
    )

    @property
    def moves(self) -> bool:
        """Tell whether any pixel may move."""
        return bool(self.flip or self.rotate or self.scale or self.shear or self.shift)

    @property
    def lights(self) -> bool:
        """Tell whether contrast or brightness may change."""
        return bool(self.contrast or self.brightness)
