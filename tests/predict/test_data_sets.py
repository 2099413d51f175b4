"""How a picture becomes an input of each data set: as the data set itself reads such a picture."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metabench import data
from metabench.core import MetabenchError, Pictures, Splits
from metabench.core.config import TaskConfig
from metabench.data.reading import fitting
from metabench.data.sets import omniglot
from metabench.predict import pictures
from metabench.training import inputs
from tests.predict import trained


def taken(splits: Splits, *shown: Any) -> np.ndarray:
    """Return the inputs that pictures become, as bytes."""
    made = pictures.chunks([*shown], inputs.of(splits), False)
    return np.concatenate([x.mul(255).round().byte() for x in made])


@pytest.mark.parametrize("resize", ["box", "lanczos"])
def test_a_drawing_of_omniglot_becomes_what_the_data_set_holds(resize: str, tmp_path: Path) -> None:
    strokes = np.random.default_rng(0).uniform(size=(105, 105)) < 0.9
    content = io.BytesIO()
    Image.fromarray(strokes).save(content, "PNG")
    (tmp_path / "one.png").write_bytes(content.getvalue())
    about = trained.splits(Pictures(resize=resize, is_inverted=True))
    shape = about.meta_train.images.new_zeros(2, 2, 1, 28, 28)
    about = about._replace(meta_train=about.meta_train._replace(images=shape))
    expected = omniglot._image(content.getvalue(), "one", resize)
    assert np.array_equal(taken(about, tmp_path / "one.png")[0, 0], expected)


def test_a_real_drawing_of_omniglot_is_the_input_that_meta_test_asks_about(
    data_root: Path, tmp_path: Path
) -> None:
    splits = data.load(TaskConfig(dataset="omniglot", options={"rotations": False}), data_root)
    name = splits.meta_test.classes[0]
    archives = [data_root / "omniglot" / f"images_{part}.zip" for part in ("background", "evaluation")]
    drawings = {}
    for archive in filter(Path.is_file, archives):
        with zipfile.ZipFile(archive) as opened:
            names = [one for one in opened.namelist() if f"/{name}/" in one and one.endswith(".png")]
            drawings |= {one: opened.read(one) for one in names}
    if not drawings:
        pytest.skip("Omniglot's archives are unpacked here")
    places = []
    for number, one in enumerate(sorted(drawings)):
        places.append(tmp_path / f"{number}.png")
        places[-1].write_bytes(drawings[one])
    assert np.array_equal(taken(splits, *places), splits.meta_test.images[0].numpy())


@pytest.mark.parametrize("options", [{"n_classes": 20, "n_examples": 4}])
def test_what_is_drawn_light_on_dark_takes_pictures_dark_on_light(options: dict[str, Any]) -> None:
    splits = data.load(TaskConfig(dataset="glyphs", options=options))
    drawn = splits.meta_test.images[0].numpy()  # [example, 1, 28, 28]
    assert np.array_equal(taken(splits, *(255 - drawn[:, 0])), drawn)


ARRAYS: dict[str, tuple[Any, dict[str, float], Any]] = {
    "bytes": (np.uint8, {}, 255),
    "bytes up to one": (np.uint8, {"white": 1.0}, 1),
    "twelve bits": (np.uint16, {"white": 4095.0}, 4095),
    "around zero": (np.float32, {"black": -1.0, "white": 1.0}, 2),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_become_what_the_data_set_of_arrays_makes_of_them(kind: str, tmp_path: Path) -> None:
    dtype, options, span = ARRAYS[kind]
    rng, black = np.random.default_rng(0), options.get("black", 0.0)
    images = (rng.integers(0, 511, (60, 9, 12, 3)) / 510 * span + black).astype(dtype)  # half are no bytes
    np.savez(tmp_path / "mine.npz", images=images, labels=np.repeat(np.arange(30), 2))
    task = TaskConfig(dataset="array", options={"path": str(tmp_path / "mine.npz"), **options})
    splits = data.load(task)
    for split in (splits.meta_train, splits.meta_test):
        rows = [2 * int(name) for name in split.classes]
        assert np.array_equal(taken(splits, *images[rows]), split.images[:, 0].numpy())


def test_a_table_takes_its_own_frame_whatever_the_types_and_names_of_its_columns(tmp_path: Path) -> None:
    whole = pd.array(range(36), "Int64")
    frame = pd.DataFrame({0: whole, "is wet": np.arange(36) % 2 == 0, 2: 0.5, "kind": np.arange(36) % 12})
    named = data.from_frame(frame, folder=tmp_path, label="kind", standardise=False)
    splits = data.load(TaskConfig(dataset=named["name"], options=named["options"]))
    about = inputs.of(splits)
    (rows,) = pictures.chunks(pictures.listed(frame, about), about, is_prepared=False)
    name = splits.meta_test.classes[0]
    np.testing.assert_array_equal(rows[frame.kind == int(name)], splits.meta_test.images[0])
    frame.loc[3, 0] = pd.NA
    with pytest.raises(MetabenchError, match=r"picture 3: .*must be finite"):
        list(pictures.chunks(pictures.listed(frame, about), about, is_prepared=False))


def test_a_mixture_takes_pictures_where_its_data_sets_agree_how(tmp_path: Path) -> None:
    folder = trained.classes_on_disk(tmp_path / "mine", n_classes=12, shots=2)
    glyphs = "glyphs?n_classes=20&n_examples=4"
    both = f"{glyphs} + folder?path={folder}&size=28&channels=1"
    alike, apart = (data.load(TaskConfig(dataset="mixture", options={"of": of})) for of in (glyphs, both))
    assert alike.pictures == Pictures(is_inverted=True)
    with pytest.raises(MetabenchError, match="mixture/joined: does not say how a picture becomes an input"):
        taken(apart, folder / "class0" / "0.png")


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (24, 18), (12, 9)])
def test_inputs_that_are_no_squares_show_the_middle_of_a_picture_undistorted(size: tuple[int, int]) -> None:
    across = np.linspace(0, 255, size[0]).astype(np.uint8)[None].repeat(size[1], 0)
    input_ = fitting.fitted(Image.fromarray(across), (1, 9, 12), Pictures())
    assert input_.shape == (1, 9, 12)
    times = min(size[0] / 12, size[1] / 9)
    step = 255 / (size[0] - 1) * times  # of grey, a pixel of the input
    assert np.diff(input_[0].astype(float), axis=1).mean() == pytest.approx(step, abs=1.5)
    assert input_.mean() == pytest.approx(127.5, abs=255 / (size[0] - 1))  # a pixel of the picture
