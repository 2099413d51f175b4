"""The table of sinusoids holds what it says, anywhere, and each split has functions of its own."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metabench import data
from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen as episodes

OPTIONS = {"functions": 2000, "points": 20}
TASK = TaskConfig(dataset="sinusoid", options=OPTIONS, way=1, shot=5, query=10, test_query=10)
PARTS = ("meta_train", "meta_validation", "meta_test")


def splits(**options: int) -> Splits:
    return data.load(TASK.model_copy(update={"options": {**OPTIONS, **options}}))


def fitted(split: Split) -> tuple[NDArray[np.float64], ...]:
    """Fit y = a sin x + b cos x to each function; return amplitudes, phases and the largest residual."""
    table = split.images.double().numpy()
    amplitudes, phases, residual = [], [], 0.0
    for x, y in zip(table[..., 0], table[..., 1], strict=True):
        basis = np.stack([np.sin(x), np.cos(x)], 1)
        (a, b), *_ = np.linalg.lstsq(basis, y)
        residual = max(residual, float(np.abs(basis @ [a, b] - y).max()))
        # A sin(x - phase) = A cos(phase) sin x - A sin(phase) cos x
        amplitudes.append(math.hypot(a, b))
        phases.append(math.atan2(-b, a))
    return np.array(amplitudes), np.array(phases), np.array(residual)


def test_every_row_is_a_sinusoid_with_amplitude_phase_and_points_uniform_in_their_ranges() -> None:
    split = splits().meta_train
    assert split.images.dtype == torch.float32
    assert split.images.shape == (2000, 20, 2)
    amplitudes, phases, residual = fitted(split)
    assert residual < 1e-5  # x in [-5, 5] and y in [-5, 5] are rounded to float32: 5 * 2**-24 each, and A dx
    points = split.images[..., 0].double().flatten().numpy()
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, math.pi), (points, -5, 5)):
        assert low - 1e-5 <= values.min() < values.max() <= high + 1e-5
        rank = np.arange(1, len(values) + 1) / len(values)
        gap = np.abs((np.sort(values) - low) / (high - low) - rank).max()
        assert gap < 2 / math.sqrt(len(values))  # Kolmogorov: a uniform sample is farther once in 1500


def test_the_bytes_are_the_same_in_another_process_and_others_with_another_seed() -> None:
    code = "from tests.data.sets.test_sinusoid import splits; print(splits().fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == splits().fingerprint
    assert splits(seed=1).fingerprint != splits().fingerprint


def test_splits_share_no_function_and_no_point() -> None:
    loaded = splits()
    names = [name.split(maxsplit=2)[2] for part in PARTS for name in getattr(loaded, part).classes]
    assert len(names) == 2400
    amplitudes = np.concatenate([fitted(getattr(loaded, part))[0] for part in PARTS])
    assert len(set(amplitudes.round(9))) == 2400
    points = torch.cat([getattr(loaded, part).images[..., 0].flatten() for part in PARTS])
    # 48,000 draws of the 10 * 2**21 or so float32 numbers in [-5, 5] meet about a hundred times by chance.
    assert len(points.unique()) > 0.99 * len(points)


def test_more_functions_keep_the_first_ones() -> None:
    few, many = splits(functions=1000).meta_train, splits().meta_train
    assert torch.equal(few.images, many.images[:1000])
    assert few.classes == many.classes[:1000]


def test_a_task_is_one_function_whose_support_and_query_are_distinct_points() -> None:
    loaded = splits()
    frozen = episodes.frozen(loaded, "meta_test", TASK, 6, "test")
    tasks = episodes.gather(loaded.meta_test.images, frozen.groups[0].indices, frozen.groups[0].shape)
    assert tasks.support.x.shape == tasks.support.y.shape == (6, 5, 1)
    assert tasks.query.x.shape == tasks.query.y.shape == (6, 10, 1)
    for index, row in enumerate(tasks.classes.flatten().tolist()):
        points = torch.cat([tasks.support.x[index], tasks.query.x[index]]).flatten()
        curve = loaded.meta_test.images[row]
        assert len(points.unique()) == 15
        assert torch.isin(points, curve[:, 0]).all()
        for x, y in zip(tasks.query.x[index], tasks.query.y[index], strict=True):
            assert torch.equal(y, curve[curve[:, 0] == x, 1])


def test_ways_that_do_not_fit_the_kind_are_refused_before_anything_is_counted() -> None:
    loaded = splits()
    data.check(TASK, loaded)
    with pytest.raises(MetabenchError, match=r"^way=5: sinusoid/maml is regression, .* set way to 1$"):
        data.check(TASK.model_copy(update={"way": 5, "shot": 1000}), loaded)
    with pytest.raises(MetabenchError, match=r"^way=1: sinusoid/maml is classification; way must be >= 2$"):
        data.check(TASK, loaded._replace(kind="classification"))
    with pytest.raises(MetabenchError, match=r"shot=15 and query=10 need 25 .* has only 20"):
        data.check(TASK.model_copy(update={"shot": 15}), loaded)
