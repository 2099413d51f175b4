"""The network of a run, as a user may write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from metabench.core.config.base import Model, Scalar

MODULE = "module"
"""The name of a network that is a user's own."""

LIBRARIES = (MODULE, "torchvision", "timm")
"""Whose torch modules there are."""


class NetworkConfig(Model):
    """The network that is adapted, and where batch norm takes a query's moments from."""

    name: str = Field(
        "conv4",
        description="name of a network: conv4, resnet12, mlp, cells, torchvision/NAME or timm/NAME; "
        "module where `module` is given",
    )
    width: int = Field(
        32,
        ge=1,
        le=16_384,
        description="channels of each conv4 layer and operation of cells, of resnet12's first block, or "
        "units of an mlp layer",
    )
    depth: int = Field(2, ge=1, le=256, description="hidden layers of an mlp")
    norm: Literal["batch", "group", "none"] = Field("batch", description="normalisation after each layer")
    groups: int = Field(4, ge=1, le=16_384, description="groups of channels of group norm; must divide width")
    batch_norm: Literal["support_stats", "with_support", "transductive", "frozen"] = Field(
        "support_stats",
        description="queries are normalised by the support's moments, each by those of the support and "
        "itself, all together by their own (as many papers do; a picture alone is then far worse off), or "
        "all images by the running moments that came with `weights`",
    )
    shrink: Literal["pool", "stride"] = Field(
        "pool", description="conv4 halves an image by max pooling or by stride 2"
    )
    readout: Literal["flatten", "mean"] = Field(
        "flatten",
        description="the head of conv4 and cells sees every pixel's features, or, as resnet12's, their mean "
        "over pixels",
    )
    module: str | None = Field(
        None, description="package.module:name of a class or function that returns a torch.nn.Module"
    )
    options: dict[str, Scalar] = Field(
        default_factory=dict,
        description="arguments of `module`, torchvision's or timm's network; of cells, the cell",
    )
    head: str | None = Field(
        None,
        description="the linear layer of `module` that classifies and is taken out; else all of it embeds",
    )
    layer: str | None = Field(
        None, description="the layer whose outputs are the features; else what the head would see"
    )
    weights: str | None = Field(
        None,
        description="a .safetensors or .pth file of weights to start from, or DEFAULT or the name of "
        "torchvision's own; else weights are drawn",
    )
    freeze: Literal["none", "body", "all"] = Field(
        "none", description="which weights stay as they are: none, all but the last block's, or all"
    )
    normalise: Literal["weights", "imagenet", "none"] = Field(
        "weights", description="mean and deviation of inputs: torchvision's or timm's, ImageNet's, or as is"
    )
    image_size: int | None = Field(
        None, ge=1, le=4096, description="side that images are resized to before the network"
    )

    hidden: int = Field(
        0,
        ge=0,
        le=256,
        description="with freeze=all: layers of `width` units between the features and the head",
    )

    @property
    def is_module(self) -> bool:
        """Tell whether the network is a torch module of others: a user's, torchvision's or timm's."""
        return self.name.partition("/")[0] in LIBRARIES

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("module") is not None and "name" not in values:
            return {**values, "name": MODULE}
        return values

    @model_validator(mode="after")
    def _together(self) -> NetworkConfig:
        if self.name == MODULE and self.module is None:
            raise ValueError("name=module: needs `module`, package.module:name of what makes the network")
        if self.name != MODULE and self.module is not None:
            raise ValueError(f"module={self.module!r}: is no {self.name}; leave `name` or `module` out")
        if self.freeze == "all" and not self.is_module:
            raise ValueError(
                f"freeze=all: {self.name} has no weights of others; take torchvision/NAME or `module`"
            )
        if self.hidden and self.freeze != "all":
            raise ValueError(
                f"hidden={self.hidden}: stands behind frozen features; set freeze=all, or leave it out"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # Networks that do not use these fields read, and hash, as where there are none.
        fields = type(self).model_fields
        return {
            key: value
            for key, value in handler(self).items()
            if key not in OF_MODULES or value != fields[key].get_default(call_default_factory=True)
        }


OF_MODULES = ("module", "options", "head", "layer", "weights", "freeze", "normalise", "image_size", "hidden")
"""Fields that networks of this package have no use for."""
OF_OURS = ("width", "depth", "norm", "groups", "shrink", "readout")
"""Fields that only networks of this package have."""
