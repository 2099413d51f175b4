"""A picture of a folder becomes what it shows, whatever its format, and however large, light or turned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabench.core import Pictures
from metabench.data.reading import fitting
from tests.data.sets.test_folder import SIDE, SIX, contents, load, paint, refused, six_classes


def decode(path: Path, side: int, channels: int, background: str) -> np.ndarray[Any, Any]:
    return fitting.fitted(fitting.opened(path), (channels, side, side), Pictures(background))


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.tiff", "a.bmp", "a.webp"])
def test_lossless_formats_give_the_pixels_that_were_written(tmp_path: Path, name: str) -> None:
    pixels = noise(6, 6, 3)
    how = {"lossless": True} if name.endswith("webp") else {}
    decoded = decode(saved(tmp_path / name, Image.fromarray(pixels), **how), 6, 3, "white")
    assert (decoded == pixels.transpose(2, 0, 1)).all()


def test_jpeg_and_gif_are_read_and_only_the_first_picture_of_several(tmp_path: Path) -> None:
    grey, other = Image.new("L", (6, 6), 100), Image.new("L", (6, 6), 200)
    assert abs(int(decode(saved(tmp_path / "a.jpg", grey), 6, 1, "white").mean()) - 100) <= 2
    for name in ("a.gif", "a.tiff", "a.webp"):
        path = saved(tmp_path / name, grey, save_all=True, append_images=[other])
        assert abs(int(decode(path, 6, 1, "white").mean()) - 100) <= 2
    cmyk = saved(tmp_path / "b.jpg", Image.new("CMYK", (6, 6), (0, 0, 0, 0)))
    assert decode(cmyk, 6, 1, "white").min() >= 253


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 257], [128 * 257, 65535]], np.uint16)
    path = saved(tmp_path / name, Image.fromarray(values))
    assert decode(path, 2, 1, "white").tolist() == [[[0, 1], [128, 255]]]


def test_numbers_with_a_point_are_scaled_from_zero_to_one_and_refused_beyond(tmp_path: Path) -> None:
    good = saved(tmp_path / "a.tiff", Image.fromarray(np.array([[0, 0.2], [0.6, 1]], np.float32)))
    assert decode(good, 2, 1, "white").tolist() == [[[0, 51], [153, 255]]]
    for value in (2, float("nan"), -1):
        bad = saved(tmp_path / "b.tiff", Image.fromarray(np.full((2, 2), value, np.float32)))
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; the option white"):
            decode(bad, 2, 1, "white")


def test_palettes_black_and_white_and_grey_become_what_is_asked_for(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    palette = decode(saved(tmp_path / "p.png", red.quantize(4)), 4, 3, "white")
    assert palette[:, 0, 0].tolist() == [255, 0, 0]
    bits = decode(saved(tmp_path / "1.png", Image.new("1", (4, 4), 1)), 4, 3, "white")
    assert bits.shape == (3, 4, 4)
    assert (bits == 255).all()
    grey = decode(saved(tmp_path / "r.png", red), 4, 1, "white")
    assert (grey == 76).all()  # 0.299 of 255, ITU-R 601


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0)])
def test_transparent_pixels_show_the_background(tmp_path: Path, background: str, value: int) -> None:
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    palette = Image.new("P", (4, 4), 0)
    for name, image, how in (
        ("a.png", clear, {}),
        ("a.webp", clear, {"lossless": True}),
        ("b.png", Image.new("LA", (4, 4), (9, 0)), {}),
        ("c.png", palette, {"transparency": 0}),
    ):
        for channels in (1, 3):
            decoded = decode(saved(tmp_path / name, image, **how), 4, channels, background)
            assert (decoded == value).all(), name


def test_the_orientation_of_a_camera_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:, 0] = 255
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif), 4, 1, "white")
    assert decoded[0].tolist() == [[255] * 4, *[[0] * 4] * 3]


def test_the_square_in_the_middle_is_taken_and_shrinking_averages(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = noise(4, 4)
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(wide)), 4, 1, "white")
    assert (decoded[0] == wide[:, 4:8]).all()
    stripes = np.zeros((64, 64), np.uint8)
    stripes[::2] = 255
    small = decode(saved(tmp_path / "b.png", Image.fromarray(stripes)), 8, 1, "white")
    assert abs(small.astype(float) - 127.5).max() < 6, "one line in two, or aliasing would show"


def test_an_image_larger_than_pillow_takes_is_taken_and_one_beyond_our_limit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six_classes(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    paint(tmp_path / "class0" / "scan.png", 9, 12)
    assert 9 in contents(load(tmp_path, **SIX))["class0"]
    assert Image.MAX_IMAGE_PIXELS == 20
    monkeypatch.setattr(fitting, "LARGEST", 143)
    assert "12x12 pixels are more than 143" in refused(tmp_path, **SIX, size=5)


@pytest.mark.parametrize(("peak", "white"), [(255, 255), (1020, 1023), (4095, 4095), (16000, 16383)])
def test_images_of_sixteen_bits_that_use_fewer_are_told_and_scaled_when_asked(
    tmp_path: Path, peak: int, white: int
) -> None:
    six_classes(tmp_path)
    Image.fromarray(np.full((SIDE, SIDE), peak, np.uint16)).save(tmp_path / "class0" / "deep.png")
    message = f"the images of 16 bits go up to {peak} of 65535, and would be nearly black; set white={white}"
    assert message in refused(tmp_path, **SIX)
    assert round(peak * 255 / white) in contents(load(tmp_path, **SIX, white=white))["class0"]
    assert round(peak * 255 / 65535) in contents(load(tmp_path, **SIX, white=65535))["class0"]
