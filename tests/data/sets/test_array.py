"""Arrays of images and labels give splits of the same pixels, or one message that names all that is wrong."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metabench import data
from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import TaskConfig
from metabench.data.sets import array

Array = np.ndarray[Any, Any]

SIX = {"meta_train": 0.34, "meta_validation": 0.33}
"""Shares that give each split two of six classes."""

LABELS = np.array([5, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0])
"""Six classes: three of 0, two of each other."""


def pixels(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), *shape), np.uint8)


def load(path: Path | str, **options: Any) -> Splits:
    return data.load(TaskConfig(dataset="array", options={"path": str(path), **SIX, **options}))


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(MetabenchError) as error:
        load(path, **options)
    assert all(line.startswith("array: ") for line in str(error.value).split("\n"))
    return str(error.value)


def packed(path: Path, **named: Any) -> Path:
    np.savez(path / "mine.npz", **named)
    return path / "mine.npz"


def parts(splits: Splits) -> tuple[Split, Split, Split]:
    return splits.meta_train, splits.meta_validation, splits.meta_test


def contents(splits: Splits) -> dict[str, Array]:
    """Return the images of each class; no class is in two splits, and rows beyond its images are zeros."""
    by_class: dict[str, Array] = {}
    for part in parts(splits):
        counts = [part.images.shape[1]] * len(part.classes) if part.counts is None else part.counts.tolist()
        for name, images, count in zip(part.classes, part.images, counts, strict=True):
            assert name not in by_class
            by_class[name] = images[:count].numpy()
            assert not images[count:].any()
    return by_class


def check_contents(splits: Splits, images: Array, labels: Array) -> None:
    """Check that each class has its images, of [n, C, H, W], in their order."""
    by_class = contents(splits)
    assert set(by_class) == {str(label) for label in labels.tolist()}
    for label in set(labels.tolist()):
        assert (by_class[str(label)] == images[[one == label for one in labels.tolist()]]).all()


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_an_archive_gives_its_images_by_class(tmp_path: Path, compress: Any) -> None:
    images = pixels(4, 5)
    compress(tmp_path / "mine.npz", images=images, labels=LABELS)
    splits = load(tmp_path / "mine.npz")
    assert [len(part.classes) for part in parts(splits)] == [2, 2, 2]
    assert splits.meta_train.images.dtype == torch.uint8
    check_contents(splits, images[:, None], LABELS)
    others = {load(tmp_path / "mine.npz", seed=seed).meta_train.classes for seed in range(8)}
    assert len(others) > 1, "the seed matters"


def test_a_folder_of_files_gives_the_same_as_an_archive(tmp_path: Path) -> None:
    images = pixels(4, 5)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", LABELS)
    expected = load(packed(tmp_path, images=images, labels=LABELS)).fingerprint
    assert load(tmp_path).fingerprint == expected


def test_what_is_unpacked_of_an_archive_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    images = np.asfortranarray(pixels(4, 5))
    check_contents(load(packed(tmp_path, images=images, labels=LABELS)), images[:, None], LABELS)
    names = sorted(path.name for path in (tmp_path / "cache").glob("*"))
    assert [name.partition("-")[0] for name in names] == ["array", "checksum"]
    assert all(name.endswith(".npy") for name in names)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_channels_may_come_first_or_last(tmp_path: Path, n_channels: int) -> None:
    images = pixels(n_channels, 4, 5)
    for order in (images, images.transpose(0, 2, 3, 1)):
        check_contents(load(packed(tmp_path, images=order, labels=LABELS)), images, LABELS)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_with_a_point_are_scaled_from_zero_to_one(tmp_path: Path, kind: Any) -> None:
    images = pixels(4, 5)
    # half precision keeps 11 bits, which tell 256 levels apart
    path = packed(tmp_path, images=(images / 255).astype(kind), labels=LABELS)
    check_contents(load(path), images[:, None], LABELS)


@pytest.mark.parametrize(
    ("kind", "black", "white"),
    [("i8", 0, 255), ("u2", 0, 1023), ("f4", -1, 1), ("f8", 0, 255), ("i2", -100, 155), ("u1", 0, 1)],
)
def test_numbers_of_any_type_are_scaled_from_black_to_white(
    tmp_path: Path, kind: str, black: float, white: float
) -> None:
    images = pixels(4, 5) // 128 * 255 if white == 1 and kind == "u1" else pixels(4, 5)
    spread = black + images.astype(np.float64) / 255 * (white - black)
    stored = spread.astype(kind) if kind.startswith("f") else np.round(spread).astype(kind)
    splits = load(packed(tmp_path, images=stored, labels=LABELS), black=black, white=white)
    check_contents(splits, images[:, None], LABELS)


def test_true_is_white(tmp_path: Path) -> None:
    images = pixels(4, 5) > 127
    check_contents(
        load(packed(tmp_path, images=images, labels=LABELS)), images[:, None] * np.uint8(255), LABELS
    )


def test_labels_that_differ_in_blanks_or_accents_spelt_apart_are_one_class_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("caf\u00e9{}", " cafe\u0301{} ")
    labels = np.array([words[row % 2].format(row // 2) for row in range(13)])
    splits = load(packed(tmp_path, images=pixels(2, 2), labels=labels))
    assert sorted(name for part in parts(splits) for name in part.classes) == [
        f"café{row}" for row in range(7)
    ]
    assert "6 labels have blanks around them, which are left out: ' cafe\u03010 ' is 'café0'" in caplog.text


@pytest.mark.parametrize("kind", ["U", "S", "u1", "i8", "names"])
def test_labels_are_words_or_whole_numbers(tmp_path: Path, kind: str) -> None:
    names = np.array(["ä b", "日本", "a/b", "'", " x", "zz"])
    labels = names[LABELS] if kind == "names" else LABELS.astype(kind)
    splits = load(packed(tmp_path, images=pixels(2, 2), labels=labels))
    wanted = np.char.strip(names)[LABELS] if kind == "names" else LABELS
    check_contents(splits, pixels(2, 2)[:, None], wanted)


def test_the_array_split_says_where_classes_go_unless_the_seed_is_asked_for(tmp_path: Path) -> None:
    words = np.array(["train", "train", "val", "val", "test", "test"])[LABELS]
    path = packed(tmp_path, images=pixels(2, 2), labels=LABELS, split=words)
    for how in ("auto", "split"):
        splits = load(path, split_by=how)
        assert [part.classes for part in parts(splits)] == [("0", "1"), ("2", "3"), ("4", "5")]
        check_contents(splits, pixels(2, 2)[:, None], LABELS)
        assert splits.meta_train.counts is not None
        assert splits.meta_train.counts.tolist() == [3, 2]
    plain = load(packed(tmp_path, images=pixels(2, 2), labels=LABELS), split_by="seed")
    assert load(path, split_by="seed").fingerprint == plain.fingerprint
    assert "there is no array `split`" in refused(path.parent / "mine.npz", split_by="split")


def test_examples_per_class_takes_that_many(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(6), 5)
    images = np.arange(30, dtype=np.uint8).reshape(30, 1, 1) + np.zeros((1, 2, 2), np.uint8)
    path = packed(tmp_path, images=images, labels=labels)
    few, more = contents(load(path, examples_per_class=2)), contents(load(path, examples_per_class=4))
    for name in few:
        assert len(few[name]) == 2
        assert set(few[name].flatten()) < set(more[name].flatten())
        assert {value // 5 for value in few[name].flatten()} == {int(name)}


GOOD: dict[str, Any] = {"images": pixels(4, 5), "labels": LABELS}
WORDS = np.array(["train", "train", "val", "val", "test", "test"])[LABELS]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "whole numbers": (
        {"images": pixels(4, 5).astype(int)},
        "images: int64 in [0, 255]: of this type it is not",
    ),
    "ten bits": ({"images": pixels(4, 5).astype(np.uint16) * 4}, "such as white=1023"),
    "as photographs": (
        {"images": pixels(4, 5) / 1},
        "are not within [0, 1]; set the number that is white, such as white=255",
    ),
    "about zero": ({"images": pixels(4, 5) / 127.5 - 1}, "such as white=1 and black=-1"),
    "a mask of bytes": ({"images": pixels(4, 5) // 128}, "of 255: nearly black; set white=1, or white=255"),
    "too bright": (
        {"images": pixels(4, 5) / 100},
        "images, the first image 0, are not within [0, 1]; set the number",
    ),
    "not a number": (
        {"images": pixels(4, 5) * np.nan},
        "13 images, the first image 0, are not within [0, 1]",
    ),
    "complex": ({"images": pixels(4, 5) * 1j}, "images: complex128; must be real numbers"),
    "too few axes": ({"images": pixels(4)}, "images: shape [13, 4]; must be [n, H, W]"),
    "too many axes": ({"images": pixels(1, 1, 4, 4)}, "images: shape [13, 1, 1, 4, 4]; must be"),
    "two channels": ({"images": pixels(2, 4, 5)}, "images: shape [13, 2, 4, 5]; must be"),
    "unclear": ({"images": pixels(3, 4, 3)}, "the channels may be the second or the last axis"),
    "no pixels": ({"images": pixels(0, 4)}, "none of them 0"),
    "no images at all": ({"images": pixels(4, 5)[:0], "labels": LABELS[:0]}, "none of them 0"),
    "one label less": ({"labels": LABELS[:-1]}, "labels: 12 of them for 13 images"),
    "labels with axes": ({"labels": LABELS[:, None]}, "labels: shape [13, 1]; must be [n]"),
    "labels with a point": ({"labels": LABELS / 1}, "labels: float64; must be whole numbers or words"),
    "an empty label": ({"labels": np.where(LABELS == 3, "", "a")}, "labels: image 4 has an empty label"),
    "labels in no code": ({"labels": np.array([b"\xff"] * 13)}, "labels: words that are not Unicode"),
    "objects": ({"labels": LABELS.astype(object)}, "holds Python objects, which may run code"),
    "objects as images": (
        {"images": pixels(4, 5).astype(object)},
        "holds Python objects, which may run code",
    ),
    "two classes": ({"labels": LABELS % 2}, "needs 2 or more"),
    "a split that is none": ({"split": np.where(LABELS, WORDS, "tarin")}, "split: 'tarin' is no split"),
    "a class in two splits": (
        {"split": np.where(np.arange(13) == 1, "val", WORDS)},
        "class '0' is in meta_train and in meta_validation",
    ),
    "splits by number": ({"split": LABELS}, "split: int64; must be words"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named_in_archives_and_in_folders(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    assert message in refused(packed(tmp_path, **{**GOOD, **change}))
    for name, values in {**GOOD, **change}.items():
        np.save(tmp_path / f"{name}.npy", values)
    assert message in refused(tmp_path)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = packed(tmp_path, images=pixels(4, 5) / 200.0, labels=LABELS[:-1], split=LABELS)
    message = refused(path, meta_train=0.9, meta_validation=0.2)
    for part in ("are not within [0, 1]", "labels: 12 of them", "split: int64", "together they must be < 1"):
        assert part in message


def test_files_that_are_not_there_or_no_arrays_are_told(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "mine.npz")
    assert "path is not set" in refused("")
    message = refused(tmp_path)
    assert "images.npy: is not there" in message
    assert "labels.npy: is not there" in message
    (tmp_path / "mine.zip").touch()
    assert "must be an .npz file" in refused(tmp_path / "mine.zip")
    assert "images not in it; it holds labels, x" in refused(packed(tmp_path, x=LABELS, labels=LABELS))
    (tmp_path / "mine.npz").write_bytes(b"hello")
    assert "cannot be read as an .npz file" in refused(tmp_path / "mine.npz")
    (tmp_path / "images.npy").write_bytes(b"hello")
    os.mkfifo(tmp_path / "labels.npy")
    message = refused(tmp_path)
    assert "images.npy: cannot be read" in message
    assert "labels.npy: cannot be read: is not a file" in message


def test_a_member_of_an_archive_that_is_no_array_is_told(tmp_path: Path) -> None:
    path = packed(tmp_path, labels=LABELS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images.npy", b"no array")
    assert "images of " in refused(path)


def with_member(path: Path, name: str, header: dict[str, Any], content: bytes) -> Path:
    """Pack good arrays, and one member written by hand in place of its own."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False, **header})
    with zipfile.ZipFile(path / "mine.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, values in GOOD.items():
            good = io.BytesIO()
            np.save(good, values)
            archive.writestr(f"{key}.npy", file.getvalue() + content if key == name else good.getvalue())
    return path / "mine.npz"


BOMBS: dict[str, tuple[str, dict[str, Any], bytes, str]] = {
    "many labels": ("labels", {"descr": "|u1", "shape": (30_000_000,)}, bytes(30_000_000), "for 13 images"),
    "long labels": (
        "labels",
        {"descr": "<U500000", "shape": (13,)},
        bytes(26_000_000),
        "words must have at most 1000 letters",
    ),
    "labels that are not there": (
        "labels",
        {"descr": "<i8", "shape": (13,)},
        b"1234567",
        "it has 135 bytes, but as int64 [13] it must have 232",
    ),
    "more images than told": (
        "images",
        {"descr": "|u1", "shape": (13, 4, 5)},
        bytes(30_000_000),
        "it has 30000128 bytes, but as uint8 [13, 4, 5] it must have 388",
    ),
    "images that are not there": (
        "images",
        {"descr": "|u1", "shape": (13, 10**6, 10**6)},
        b"",
        "it has 128 bytes, but as uint8 [13, 1000000, 1000000] it must have 13000000000128",
    ),
}


@pytest.mark.parametrize(("name", "header", "content", "message"), BOMBS.values(), ids=BOMBS.keys())
def test_an_archive_that_would_fill_the_memory_or_the_disk_is_refused_before_it_is_unpacked(
    tmp_path: Path, name: str, header: dict[str, Any], content: bytes, message: str
) -> None:
    path = with_member(tmp_path, name, header, content)
    tracemalloc.start()
    try:
        assert message in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_images_that_do_not_fit_on_the_disk_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, **{**GOOD, "images": pixels(6, 7)})
    monkeypatch.setattr(array.shutil, "disk_usage", lambda folder: SimpleNamespace(free=600))
    assert "it unpacks to 674 bytes, and " in refused(path)
    monkeypatch.setattr(array.shutil, "disk_usage", lambda folder: SimpleNamespace(free=674))
    check_contents(load(path), pixels(6, 7)[:, None], LABELS)


def test_an_unchanged_file_is_sorted_once_and_its_images_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, **GOOD)
    expected = load(path).fingerprint
    monkeypatch.setattr(array, "table_file", lambda *_: pytest.fail("sorted again"))
    monkeypatch.setattr(array, "_read_images", lambda *_: pytest.fail("unpacked again"))
    assert load(path).fingerprint == expected


def test_a_cut_or_flipped_archive_gives_the_images_or_one_message(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **GOOD)
    whole = file.getvalue()
    for position in range(0, len(whole), 29):
        for content in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :],
        ):
            (tmp_path / "mine.npz").write_bytes(content)
            try:
                splits = load(tmp_path / "mine.npz")
            except MetabenchError:
                continue
            check_contents(splits, GOOD["images"][:, None], LABELS)


SHAPES = st.tuples(st.integers(0, 12), *[st.integers(1, 4)] * 2) | st.tuples(
    st.integers(4, 12), *[st.sampled_from([1, 2, 3, 4])] * 3
)
IMAGES = arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.int16]), SHAPES, elements={"min_value": 0, "max_value": 1}
)
MANY = st.tuples(
    arrays.arrays(np.uint8, (12, 2, 2)),
    arrays.arrays(np.int8, 12, elements=st.integers(0, 7))
    | st.permutations(list("aäb cdeßfgh")).map(np.array),
)
LABEL = st.lists(st.text(max_size=3) | st.integers(-9, 9).map(str), max_size=12).map(
    lambda words: np.array(words, np.str_)
)


@settings(max_examples=60)
@given(drawn=MANY | st.tuples(IMAGES, LABEL), data_seed=st.integers(0, 3))
def test_any_arrays_give_their_own_images_in_disjoint_splits_or_one_message(
    drawn: tuple[Array, Array], data_seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images, labels = drawn
    images = images[: len(labels)] if len(labels) > 5 else images
    path = packed(tmp_path_factory.mktemp("arrays"), images=images, labels=labels)
    try:
        splits = load(path, seed=data_seed)
    except MetabenchError as error:
        message = str(error)
    else:
        axes = array._layout(images)[0]
        ordered = images.transpose(axes) if images.ndim == 4 else images[:, None]
        scaled = np.round(ordered * 255.0).astype(np.uint8) if ordered.dtype.kind == "f" else ordered
        by_class = contents(splits)
        assert sum(map(len, by_class.values())) == len(images)
        assert sorted(one.tobytes() for part in by_class.values() for one in part) == sorted(
            one.tobytes() for one in scaled
        )
        return
    assert all(line.startswith("array: ") for line in message.split("\n"))
