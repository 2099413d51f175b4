"""What a run keeps of how sure it is: coverage by simulation, and what becomes of the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.storage.files import Damaged
from metabench.training import calibration, evaluate, inputs
from metabench.training import run as runs
from metabench.training.calibration import Outputs
from tests.predict import trained
from tests.support import small

N = 5


def asked(generator: torch.Generator, n_tasks: int, factors: tuple[float, ...]) -> list[Outputs]:
    """Draw what members say: each too sure or too little, of tasks that are easy or hard."""
    y = torch.arange(N).repeat_interleave(5).expand(n_tasks, -1)
    signal = 2 + torch.randn(n_tasks, 1, 1, generator=generator)
    shared = torch.randn(n_tasks, y.shape[1], N, generator=generator)
    members = []
    for factor in factors:
        noise = shared + torch.randn(shared.shape, generator=generator)
        logits = factor * (signal * torch.nn.functional.one_hot(y, N) + noise)
        members.append(Outputs(logits.log_softmax(-1).half(), y.short(), "same"))
    return members


@pytest.mark.parametrize("factors", [(1.0,), (6.0,), (0.2, 1.0, 5.0)])
def test_sets_cover_new_tasks_as_often_as_is_promised(factors: tuple[float, ...]) -> None:
    generator, covered, n_repeats = torch.Generator().manual_seed(0), [], 60
    for _ in range(n_repeats):
        sure = calibration.combine(asked(generator, trained.CALIBRATED, factors))
        new = asked(generator, 200, factors)
        shares = [(one.log_p.double() / t).softmax(-1) for one, t in zip(new, sure.temperatures, strict=True)]
        right = torch.stack(shares).mean(0).gather(-1, new[0].y.long()[..., None])
        covered.append(float((right >= calibration.least(sure, 0.9)).double().mean()))
    assert np.mean(covered) == pytest.approx(
        0.9 + 1 / 151, abs=1 / 151 + 3 * np.std(covered) / n_repeats**0.5
    )
    assert 0.88 < np.mean(covered) < 0.92


def test_a_run_keeps_what_it_says_of_each_query() -> None:
    folder, splits = trained.run("maml"), trained.splits()
    kept = calibration.read(folder)
    assert kept is not None
    run = runs.open_run(folder, splits)
    task = run.config.task
    tasks = frozen.frozen(splits, "meta_validation", task, trained.CALIBRATED, "calibration")
    images = splits.meta_validation.images
    assert kept.tasks_hash == tasks.hash
    assert kept.log_p.shape == (trained.CALIBRATED, task.way * task.test_query, task.way)
    hits = (kept.log_p.argmax(-1) == kept.y).double().mean(1).numpy()
    evaluated = evaluate.evaluate(run.model, images, tasks)
    np.testing.assert_allclose(hits, evaluated.score, atol=1e-6)
    right = kept.log_p.gather(-1, kept.y.long()[..., None])[..., 0]
    np.testing.assert_allclose(-right.double().mean(1), evaluated.loss, rtol=2e-3)  # float16


def test_tasks_of_fewer_classes_are_as_they_are_alone() -> None:
    run, splits = runs.open_run(trained.run("protonet"), trained.splits()), trained.splits()
    images = splits.meta_validation.images
    task = TaskConfig(**{**small.TASK.model_dump(), "way": {"low": 2, "high": 4}})
    tasks = frozen.frozen(splits, "meta_validation", task, 12, "calibration")
    together = calibration.outputs(run.model, images, tasks)
    assert together.log_p.shape == (12, 4 * task.test_query, 4)
    for group in tasks.groups:
        alone = calibration.outputs(run.model, images, frozen.FrozenTasks((group,), ""))
        n, way = group.shape.way * task.test_query, group.shape.way
        log_p, y = together.log_p[group.positions], together.y[group.positions]
        torch.testing.assert_close(log_p[:, :n, :way], alone.log_p)
        torch.testing.assert_close(y[:, :n], alone.y)
        assert (y[:, n:] == calibration.PADDING).all()
        assert (log_p[:, :, way:] == -torch.inf).all()
    scores = calibration.combine([together]).scores
    others = together.y[np.arange(12) % calibration.EVERY > 0]
    assert (np.isnan(scores) == (others == calibration.PADDING).numpy()).all()


def test_a_query_on_which_a_learner_diverged_counts_as_missed() -> None:
    (outputs,) = asked(torch.Generator().manual_seed(0), 200, (1.0,))
    before = calibration.combine([outputs])
    outputs.log_p[1] = torch.nan
    after = calibration.combine([outputs])
    assert np.isinf(after.scores[0]).all()
    assert calibration.least(after, 0.9) < calibration.least(before, 0.9)
    assert calibration.least(after, 0.5) <= calibration.least(before, 0.5)


def test_training_again_makes_a_calibration_that_is_missing_damaged_or_of_other_weights(
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(trained.run(), tmp_path / "run"))
    path, config = folder / files.CALIBRATION, runs.read_config(folder)
    whole = path.read_bytes()
    of_others = (trained.run(seed=1) / files.CALIBRATION).read_bytes()
    assert of_others != whole
    for data, n_damaged in ((None, 0), (whole[:-3], 1), (of_others, 0)):
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        damaged: list[str] = []
        if n_damaged:
            with pytest.raises(Damaged):
                calibration.of([folder])
        else:
            assert calibration.of([folder]) is None
            why = "has no calibration" if data is None else "calibration.safetensors is of other weights"
            assert why in inputs.lacks(folder, files.CALIBRATION)
        with trained.quickly(trained.CALIBRATED):
            runs.train_run(config, trained.splits(), folder, damaged=damaged.append)
        assert path.read_bytes() == whole
        assert len(damaged) == n_damaged


def test_regression_keeps_none(tmp_path: Path) -> None:
    with trained.quickly():
        config = small.regression(tasks=8).model_copy(update={"rungs": [8]})
        runs.train_run(config, small.sinusoids(), tmp_path)
        result = runs.test_run(tmp_path, small.sinusoids(), 4)
    assert not (tmp_path / files.CALIBRATION).exists()
    assert "calibration" not in result
