"""Say how much patches of land cover can tell: with half of a region's labels, not two a class.

For each region of meta-test, logistic regression is fitted to half of its tiles, drawn at random, and
classifies the patches of the others, always between four classes: what is right of each, the mean over every
four that the region has. It sees colours (means, deviations, gradients and percentiles of each channel) and,
with --weights, the features of an EfficientNet-Lite0, too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metabench import data
from metabench.core import MetabenchError, Split
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.training import features

OPTIONS = {
    "path": "sen12ms_rgb/sen12ms_rgb.zip",
    "size": 64,
    "split_by": "domain",
    "meta_train": 0.55,
    "meta_validation": 0.18,
    "group": "(.*)[a-z]{2}[.]",
}
"""Of `search_spaces/landcover.yaml`, with all pixels."""

LITE0 = {
    "module": "efficientnet_lite_pytorch:EfficientNet.from_name",
    "options": {"model_name": "efficientnet-lite0"},
    "head": "_fc",
    "normalise": "imagenet",
    "image_size": 96,
    "freeze": "all",
}
WAY = 4
LEAST = 20
"""Patches of a class that takes part, as in tasks of 2 + 15 with tiles kept apart."""


def colours(images: torch.Tensor) -> np.ndarray:
    """Return what is known of patches [N, 3, H, W] by their colours alone."""
    x = images.double() / 255
    ranks = torch.quantile(x.flatten(2), torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=x.dtype), dim=2)
    edges = [x.diff(dim=axis).abs().mean((2, 3)) for axis in (2, 3)]
    parts = [x.mean((2, 3)), x.std((2, 3)), *edges, *ranks]
    return torch.cat(parts, 1).numpy()


def flat(split: Split, region: str) -> tuple[list[tuple[int, int]], list[str]]:
    """List the places [class, example] of a region's patches, and what each shows."""
    assert split.counts is not None
    rows = [row for row, domain in enumerate(split.domains) if domain == region]
    rows = [row for row in rows if split.counts[row] >= LEAST]
    places = [(row, k) for row in rows for k in range(int(split.counts[row]))]
    return places, [split.words[row] for row, _ in places]


def right(x: np.ndarray, y: np.ndarray, tiles: np.ndarray, repeats: int) -> np.ndarray:
    """Return the accuracy between four classes, for so many halves of the tiles."""
    rng, scores = np.random.default_rng(0), []
    for _ in range(repeats):
        known = np.isin(tiles, rng.permutation(np.unique(tiles))[::2])
        regression = LogisticRegression(class_weight="balanced", max_iter=2000)
        model = GridSearchCV(
            make_pipeline(StandardScaler(), regression),
            {"logisticregression__C": np.logspace(-4, 0, 5)},
            scoring="balanced_accuracy",
            cv=GroupKFold(3),
        ).fit(x[known], y[known], groups=tiles[known])
        scored, others = model.decision_function(x[~known]), y[~known]
        fours = list(itertools.combinations(range(len(model.classes_)), WAY))
        shares = [
            (scored[others == model.classes_[c]][:, four].argmax(1) == k).mean()
            for four in fours
            for k, c in enumerate(four)
        ]
        scores.append(np.mean(shares))
    return 100 * np.array(scores)


def main() -> None:
    """Print a table of regions by what is seen of a patch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="of an EfficientNet-Lite0; see docs/guides/own_data.md")
    parser.add_argument("--repeats", type=int, default=10, help="halves of the tiles of each region")
    options = parser.parse_args()
    task = TaskConfig(dataset="folder", options=OPTIONS, way=WAY, shot=2, query=5, domains="within")
    splits = data.load(task)
    split = splits.meta_test
    seen = {"colours": lambda rows, ks: colours(split.images[rows, ks])}
    if options.weights is not None:
        network = NetworkConfig.model_validate({**LITE0, "weights": str(options.weights)})
        deep = features.embedded(splits, task, network).meta_test.images
        seen["features of ImageNet"] = lambda rows, ks: deep[rows, ks].numpy()
        seen["both"] = lambda rows, ks: np.hstack([one(rows, ks) for one in list(seen.values())[:2]])
    regions = sorted(set(split.domains))
    print("| what is seen | " + " | ".join(regions) + " | mean |\n|" + "---|" * (len(regions) + 2))
    for name, look in seen.items():
        scores = []
        for region in regions:
            places, words = flat(split, region)
            rows, ks = (torch.tensor(one) for one in zip(*places, strict=True))
            assert split.groups is not None
            tiles = split.groups[rows, ks].numpy()
            scores.append(right(look(rows, ks), np.array(words), tiles, options.repeats))
        cells = [f"{one.mean():.1f} ± {one.std(ddof=1):.1f}" for one in scores]
        print(f"| {name} | " + " | ".join(cells) + f" | {np.mean(scores):.1f} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except MetabenchError as error:
        sys.exit(f"landcover: {error}")
