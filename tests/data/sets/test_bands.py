"""Arrays of any number of bands, with domains and groups in arrays of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabench import data
from metabench.core import MetabenchError, Moments, Split, Splits, seeds
from metabench.core.config import AugmentConfig, NetworkConfig, RunConfig, TaskConfig
from metabench.data.reading import scaling
from metabench.data.tasks import frozen
from metabench.training import loop, others

N_BANDS, SIDE, N_IMAGES = 5, 16, 190
SHARES = {"meta_train": 0.5, "meta_validation": 0.25}


def write(folder: Path, order: str = "first", **changes: Any) -> Path:
    """Write six classes of four sites, of which every band has another mean and deviation."""
    rng = np.random.default_rng(0)
    rows = np.arange(N_IMAGES)
    arrays: dict[str, Any] = {
        "images": 100 * np.arange(N_BANDS)[:, None, None]
        + (1 + np.arange(N_BANDS))[:, None, None] * rng.normal(size=(N_IMAGES, N_BANDS, SIDE, SIDE)),
        "labels": np.array([f"class{row % 6}" for row in rows]),
        "site": rows // 6 % 4,
        "tile": rows // 24,
        **changes,
    }
    if order == "last":
        arrays["images"] = np.moveaxis(arrays["images"], 1, -1)
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def load(path: Path, **options: Any) -> Splits:
    asked = {"path": str(path), "split_by": "domain", "domain": "site", **SHARES, **options}
    return data.load(TaskConfig(dataset="array", options=asked))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(MetabenchError) as error:
        load(path, **options)
    return str(error.value)


def test_each_band_has_mean_0_and_deviation_1_over_meta_train_and_only_there(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "a"))
    train = splits.meta_train
    assert train.counts is not None
    has = torch.arange(train.images.shape[1]) < train.counts[:, None]
    seen = train.images[has].double()
    assert seen.shape[1:] == (N_BANDS, SIDE, SIDE)
    assert torch.allclose(seen.mean((0, 2, 3)), torch.zeros(N_BANDS, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(
        seen.std((0, 2, 3), correction=0), torch.ones(N_BANDS, dtype=torch.float64), atol=1e-6
    )
    assert float(splits.meta_test.images.mean().abs()) > 1e-5
    assert bool((train.images[~has] == 0).all())
    assert splits.pictures is None
    assert load(write(tmp_path / "b", "last")).fingerprint == splits.fingerprint


def test_domains_and_groups_are_arrays(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "a"), group="tile")
    assert [len(set(part.domains)) for part in splits[1:4]] == [2, 1, 1]  # type: ignore[misc]
    assert splits.is_by_domain
    numbers = splits.meta_test.groups
    assert numbers is not None
    assert len(numbers[numbers >= 0].unique()) == 8
    by_class = load(tmp_path / "a", split_by="seed", meta_train=0.34, meta_validation=0.33)
    homes = [set(part.words) for part in (by_class.meta_train, by_class.meta_validation, by_class.meta_test)]
    assert [len(home) for home in homes] == [2, 2, 2]
    assert len(set.union(*homes)) == 6


def test_a_network_learns_from_bands(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "a"), group="tile")
    task = TaskConfig(dataset="array", way=2, shot=1, query=2, test_query=2, domains="within", labels="fixed")
    data.check(task, splits)
    config = RunConfig(
        algorithm="maml",
        hyperparameters={"inner_steps": 1, "task_batch_size": 2},
        task=task,
        network=NetworkConfig(width=4),
        tasks=2,
        rungs=[2],
        validation_tasks=2,
    )
    ((report, state),) = loop.train(config, splits)
    assert report.finite
    assert state.meta["theta"]["head"]["weight"].shape[0] == 6
    lit = config.model_copy(
        update={
            "task": task.model_copy(update={"augment": AugmentConfig(contrast=0.2)}),
            "hyperparameters": {"augment": "both"},
        }
    )
    with pytest.raises(MetabenchError, match="inputs have 5 channels, and light is of pictures"):
        loop.build(lit, splits)


def test_what_is_wrong_with_bands_is_told(tmp_path: Path) -> None:
    images = np.ones((N_IMAGES, N_BANDS, SIDE, SIDE))
    images[3, 2] = np.nan
    assert "the first image 3, hold what is no finite number" in refused(write(tmp_path / "a", images=images))
    images = np.random.default_rng(0).normal(size=(N_IMAGES, N_BANDS, SIDE, SIDE))
    images[:, 2] = 7
    path = write(tmp_path / "b", images=images)
    assert "bands 2 are constant in meta-train" in refused(path)
    assert "black and white: are of pictures" in refused(path, white=255)
    assert "split_by=domain: domain is not set" in refused(path, domain="")
    assert "place.npy: is not there" in refused(path, domain="place")
    flat = np.zeros((N_IMAGES, 5, 6, 7))
    assert "square images of other C" in refused(write(tmp_path / "c", images=flat))


def test_groups_are_kept_apart_in_frozen_tasks(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "a"), group="tile")
    task = TaskConfig(dataset="array", way=3, shot=2, test_query=3, domains="within")
    (group,) = frozen.frozen(splits, "meta_test", task, 20, "test").groups
    numbers = splits.meta_test.groups
    assert numbers is not None
    of_tasks = numbers[group.indices.classes[..., None], group.indices.examples]
    for one in of_tasks:
        assert not set(one[:, :2].flatten().tolist()) & set(one[:, 2:].flatten().tolist())


def test_other_bands_are_standardised_as_those_that_were_learnt_from(tmp_path: Path) -> None:
    original = load(write(tmp_path / "a"))
    rng = np.random.default_rng(1)
    images = 5 * np.arange(N_BANDS)[:, None, None] + rng.normal(size=(N_IMAGES, N_BANDS, SIDE, SIDE))
    path = write(tmp_path / "b", images=images)
    assert original.moments is not None
    mean, scale = (np.array(one)[:, None, None] for one in original.moments)
    for shares in (SHARES, {"meta_train": 0, "meta_validation": 0}):
        other = load(path, **shares)
        seen = others.as_trained(original, other)
        part, labels, site = seen.meta_test, np.arange(N_IMAGES) % 6, np.arange(N_IMAGES) // 6 % 4
        place, _, name = part.classes[0].partition("/")
        row = np.flatnonzero((labels == int(name.removeprefix("class"))) & (site == int(place)))[1]
        np.testing.assert_allclose(part.images[0, 1], (images[row] - mean) / scale, rtol=1e-4, atol=1e-4)
        if part.counts is not None:
            assert bool((part.images[torch.arange(part.images.shape[1]) >= part.counts[:, None]] == 0).all())
        assert seen.fingerprint == other.fingerprint
    assert others.as_trained(original, original) is original


def test_inputs_and_target_of_rows_move_between_moments_and_labels_stay() -> None:
    rows = torch.randn(3, 4, 5, generator=seeds.generator("rows"))
    rows[1, 2:] = 0
    split = Split(rows, ("a", "b", "c"), ("table",) * 3, torch.tensor([4, 2, 4]))
    before, after = Moments((1.0, -2.0, 0.0), (2.0, 0.5, 1.0)), Moments((0.0, 3.0, 1.0), (4.0, 1.0, 2.0))
    moved = scaling.moved(split, before, after)
    raw = rows[0, 0, :3] * torch.tensor(before.scale) + torch.tensor(before.mean)
    expected = (raw - torch.tensor(after.mean)) / torch.tensor(after.scale)
    assert torch.allclose(moved.images[0, 0, :3], expected, atol=1e-6)
    assert torch.equal(moved.images[..., 3:], rows[..., 3:])
    assert bool((moved.images[1, 2:] == 0).all())
    assert torch.allclose(scaling.moved(moved, after, before).images, rows, atol=1e-6)
