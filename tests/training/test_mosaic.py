"""Pictures of single tasks: what is framed as right is right, and TensorBoard gets one an inner step."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench.data.tasks import frozen as tasks_of
from metabench.storage import files
from metabench.training import diagnostics, evaluate, mosaic
from metabench.training import run as runs
from metabench.training.mosaic import Episode
from tests.support import small


def episode(guess: list[int], channels: int = 1, size: int = 8) -> Episode:
    """Make a task of two classes with two support images and three queries of each."""
    support = torch.zeros(4, channels, size, size)
    query = torch.ones(6, channels, size, size)
    labels = torch.arange(2)
    return Episode(
        support,
        labels.repeat_interleave(2),
        query,
        labels.repeat_interleave(3),
        torch.tensor(guess),
        ("a", "b"),
    )


def framed(pixels: np.ndarray, colour: tuple[int, int, int], size: int) -> float:
    """Return how many images have a frame of a colour, by its area."""
    factor = max(1, mosaic.SIDE // size)
    side = factor * size
    area = (side + 2 * mosaic.FRAME) ** 2 - side**2
    return float((pixels == colour).all(-1).sum() / area)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 84])
def test_every_image_has_a_frame_of_its_outcome(channels: int, size: int) -> None:
    pixels = mosaic.mosaic(episode([0, 1, 0, 1, 1, 0], channels, size))
    assert framed(pixels, mosaic.SUPPORT, size) == 4
    assert framed(pixels, mosaic.RIGHT, size) == 4
    assert framed(pixels, mosaic.WRONG, size) == 2
    # The second query of the first class and the last of the second are wrong: columns 3 + 1 and 3 + 2.
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 6
    for row, column in ((0, 4), (1, 5)):
        cell = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert framed(cell, mosaic.WRONG, size) == 1


def test_a_class_with_fewer_shots_leaves_room() -> None:
    one = episode([0] * 6)
    shorter = one._replace(support=one.support[1:], support_y=one.support_y[1:])
    assert mosaic.mosaic(shorter).shape == mosaic.mosaic(one).shape
    assert framed(mosaic.mosaic(shorter), mosaic.SUPPORT, 8) == 3


def test_png_holds_the_very_pixels() -> None:
    pixels = mosaic.mosaic(episode([1] * 6, 3))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mosaic.png(pixels)))), pixels)


@pytest.mark.parametrize(("algorithm", "steps"), [("maml", [0, 1, 2]), ("protonet", [0])])
def test_a_trained_run_shows_its_tasks(tmp_path: Path, algorithm: str, steps: list[int]) -> None:
    splits = small.splits()
    config = small.config(algorithm)
    hyperparameters = {"task_batch_size": 4} if algorithm == "protonet" else config.hyperparameters
    runs.train_run(config.model_copy(update={"hyperparameters": hyperparameters}), splits, tmp_path)
    accumulator = EventAccumulator(str(tmp_path / files.TENSORBOARD), {"tensors": 0})
    accumulator.Reload()
    run = runs.open_run(tmp_path, splits)
    few = tasks_of.frozen(splits, "meta_validation", small.TASK, mosaic.SHOWN, "search")
    for number in range(mosaic.SHOWN):
        events = accumulator.Tensors(f"episode/{number + 1}")
        assert [event.step for event in events] == steps
    by_step = diagnostics.over_steps(run.model)
    for step in steps:
        scored = evaluate.evaluate(by_step[step], splits.meta_validation.images, few).score
        seen = list(mosaic.predict(by_step[step], splits.meta_validation, few))
        assert [float((one.guess == one.query_y).double().mean()) for one in seen] == pytest.approx(
            list(scored)
        )
        width, height, png = accumulator.Tensors("episode/1")[steps.index(step)].tensor_proto.string_val
        shown = np.asarray(Image.open(io.BytesIO(png)))
        assert (int(height), int(width)) == shown.shape[:2]
        assert np.array_equal(shown, mosaic.mosaic(seen[0]))
