"""Features of a frozen backbone take the place of pictures: same tasks, computed once, same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import metabench
from metabench import data
from metabench.core import SPLITS, MetabenchError, Splits
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.data.tasks import frozen
from metabench.predict.export import export_model
from metabench.training import features, mosaic
from metabench.training import run as runs
from tests.support import backbone

THIRDS = {"meta_train": 0.34, "meta_validation": 0.33}
TASK = {"way": 3, "shot": 1, "query": 2, "test_query": 3}
SHORT = {"tasks": 10, "reports": 1, "validation_tasks": 10, "quiet": True, "device": "cpu"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    backbone.photographs(tmp_path / "photographs")
    backbone.weights(tmp_path / "weights.safetensors")
    return tmp_path


def task(place: Path, size: int = 8) -> TaskConfig:
    options = {"path": str(place / "photographs"), "size": size, **THIRDS}
    return TaskConfig(dataset="folder", options=options, **TASK)


def network(place: Path, **values: object) -> NetworkConfig:
    described = backbone.network(place / "weights.safetensors", **values)
    return NetworkConfig.model_validate(described)


def train(place: Path, algorithm: str, **settings: object) -> metabench.Run:
    described = backbone.network(place / "weights.safetensors")
    asked = {"path": str(place / "photographs"), "size": 8, **THIRDS}
    return metabench.train(
        algorithm,
        {"name": "folder", "options": asked},
        out=place / algorithm,
        **TASK,
        **SHORT,
        **described,
        **settings,
    )


def test_features_are_the_backbones_of_pictures_at_its_own_size(place: Path) -> None:
    embedded = features.load(task(place), network(place))
    larger = data.load(task(place, backbone.SIDE))
    module = features.backbone_of(network(place)).module
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for part in SPLITS:
        pictures, made = getattr(larger, part).images, getattr(embedded, part).images
        with torch.no_grad():
            expected = module((pictures.flatten(0, 1) / 255 - mean) / std)
        torch.testing.assert_close(made.flatten(0, 1), expected)


def test_tasks_and_data_are_those_of_the_pictures(place: Path) -> None:
    pictures, embedded = data.load(task(place)), features.load(task(place), network(place))
    assert embedded.fingerprint == pictures.fingerprint
    hashes = [frozen.frozen(one, "meta_test", task(place), 5, "test").hash for one in (pictures, embedded)]
    assert hashes[0] == hashes[1]


def test_a_machine_computes_features_once_until_weights_change(place: Path) -> None:
    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (place / "cache").rglob("features-*.npy")}

    features.load(task(place), network(place))
    first = kept()
    assert len(first) == len(SPLITS)
    before = features.load(task(place), network(place, hidden=1))
    assert kept() == first, "a head of its own asks for no other features"
    backbone.weights(place / "weights.safetensors", seed=1)
    after = features.load(task(place), network(place))
    assert len(kept()) == 2 * len(SPLITS)
    assert not torch.equal(before.meta_test.images, after.meta_test.images)


def test_features_are_computed_anew_where_code_changes_and_no_weight(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> nn.Module:
        module = plain()
        module.relu = nn.GELU()
        return module

    before, plain = features.load(task(place), network(place)), backbone.make
    monkeypatch.setattr(backbone, "make", make)
    after = features.load(task(place), network(place))
    assert before.features == after.features, "a digest is of weights"
    assert not torch.equal(before.meta_test.images, after.meta_test.images)


@pytest.mark.parametrize("name", ["simpleshot", "logistic", "r2d2", "maml"])
def test_pictures_are_predicted_as_their_features_are_tested(place: Path, name: str) -> None:
    run = train(place, name)
    classifier = run.load()
    folders = sorted((place / "photographs").iterdir())[:3]
    support, labels = [next(one.glob("*.png")) for one in folders], [one.name for one in folders]
    shown = [path for one in folders for path in sorted(one.glob("*.png"))[1:5]]
    shares = classifier.fit(support, labels).predict_proba(shown)
    alone = np.concatenate([classifier.predict_proba([path]) for path in shown])
    np.testing.assert_allclose(shares, alone, atol=1e-6)  # sums of other orders
    rows = features.Embedder(features.backbone_of(run.config.network))
    prepared = metabench.load(run.folder, prepared=True)

    def embed(paths: list[Path]) -> list[np.ndarray]:
        pixels = [Image.open(one).convert("RGB").resize((backbone.SIDE,) * 2, 2) for one in paths]
        with torch.no_grad():
            return [
                *rows(
                    torch.stack([torch.tensor(np.asarray(one)).permute(2, 0, 1) / 255 for one in pixels])
                ).numpy()
            ]

    again = prepared.fit(embed(support), labels).predict_proba(embed(shown))
    np.testing.assert_allclose(again, shares, atol=1e-4)
    assert classifier.predict_set(shown, 0.8).shape == shares.shape
    assert run.test(tasks=20).accuracy > 1 / 3


def test_tasks_are_drawn_as_pictures(place: Path) -> None:
    run = train(place, "simpleshot")
    splits = features.load(task(place), network(place))
    model = runs.open_run(run.folder, splits).model
    tasks = frozen.frozen(splits, "meta_validation", task(place), 2, "confirm")
    for one in mosaic.predict(model, splits.meta_validation, tasks):
        assert one.query.shape[1:] == (3, 8, 8)


def test_another_backbone_than_the_runs_is_refused(place: Path) -> None:
    run = train(place, "simpleshot")
    backbone.weights(place / "weights.safetensors", seed=1)
    with pytest.raises(MetabenchError, match="learnt behind another backbone"):
        run.load()
    (place / "weights.safetensors").unlink()
    with pytest.raises(MetabenchError, match=r"weights\.safetensors"):
        run.load()


def test_features_of_another_backbone_are_not_tested_on(place: Path) -> None:
    run = train(place, "simpleshot")
    before = features.load(task(place), network(place))
    backbone.weights(place / "weights.safetensors", seed=1)
    after = features.load(task(place), network(place))
    with pytest.raises(MetabenchError, match="learnt behind another backbone"):
        run.test(tasks=5)
    with pytest.raises(MetabenchError, match="learnt behind another backbone"):
        runs.test_run(run.folder, before, 5, other=after._replace(fingerprint="f" * 64))


def counted(size: int = 4, classes: int = 5) -> dict[str, list[tuple[torch.Tensor, str]]]:
    """Make a data set whose size is a number of examples."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (3 * classes, size, 3, 8, 8), generator=generator, dtype=torch.uint8)
    parts = zip(SPLITS, pictures.split(classes), strict=True)
    return {
        part: [(picture, f"{part}{number}") for number, one in enumerate(rows) for picture in one]
        for part, rows in parts
    }


def test_a_size_of_somebody_s_own_data_set_is_not_a_picture_s(place: Path) -> None:
    described = TaskConfig(dataset=f"module:{__name__}:counted", options={"size": 5}, **TASK)
    embedded = features.load(described, network(place))
    assert embedded.meta_train.images.shape[:2] == (5, 5)
    assert embedded.features is not None
    assert embedded.features.picture_shape == (3, 8, 8)


def test_an_image_size_that_a_data_set_cannot_make_is_named(place: Path) -> None:
    with pytest.raises(MetabenchError, match=r"^network\.image_size=1100: must be <= 1024; folder makes no"):
        features.load(task(place), network(place, image_size=1100, layer="pool", head=None))


def test_an_embedder_moves_alone(place: Path) -> None:
    opened = features.backbone_of(network(place))
    features.Embedder(opened).to("meta")
    assert {one.device.type for one in opened.module.state_dict().values()} == {"cpu"}


def test_an_exported_model_takes_pictures_and_holds_the_backbone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = train(place, "r2d2").load()
    folders = sorted((place / "photographs").iterdir())[:3]
    support, labels = [next(one.glob("*.png")) for one in folders], [one.name for one in folders]
    classifier.fit(support, labels)
    embedder = classifier.members.embedder
    with monkeypatch.context() as patch:
        moved: list[nn.Module] = []
        patch.setattr(features.Embedder, "cpu", lambda one: moved.append(one) or one)
        export_model(classifier, place / "exported", "torch")
    assert embedder not in moved, "the classifier goes on where it was"
    program = torch.export.load(place / "exported" / "model.pt2").module()
    with torch.no_grad():
        pixels = [Image.open(one).convert("RGB").resize((backbone.SIDE,) * 2, 2) for one in support]
        x = torch.stack([torch.tensor(np.asarray(one)).permute(2, 0, 1) / 255 for one in pixels])
        shares = program(x).numpy()
    np.testing.assert_allclose(shares, classifier.predict_proba(support), atol=1e-4)


def test_only_pictures_of_classes_have_features(place: Path) -> None:
    splits: Splits = data.load(TaskConfig(dataset="sinusoid", way=1, shot=5))
    with pytest.raises(MetabenchError, match="holds no pictures"):
        features.embedded(splits, TaskConfig(dataset="sinusoid", way=1, shot=5), network(place))
