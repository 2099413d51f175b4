"""CIFAR-100 is read from its archive or folder alike; its splits are those that were published."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metabench import data
from metabench.core import MetabenchError, Splits
from metabench.core.config import TaskConfig
from metabench.data.reading import fetch
from metabench.data.sets import cifar_fs, fc100
from tests.data.reading.server import serving

FINE = sorted(cifar_fs.superclasses())
COARSE = sorted(set(cifar_fs.superclasses().values()))
FEW = {"train.bin": 2, "test.bin": 1}
PARTS = ("meta_train", "meta_validation", "meta_test")


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three images a class enough, and pause for milliseconds where users wait for seconds."""
    monkeypatch.setattr(cifar_fs, "EXAMPLES", FEW)
    monkeypatch.setattr(fetch, "PAUSE", 0.001)


def records(n_examples: int, first: int) -> bytes:
    """Make shuffled records: red is the class, green the number in it, blue darkens from row to row."""
    labels = np.repeat(np.arange(100), n_examples)
    order = np.random.default_rng(first).permutation(len(labels))
    rows = np.zeros((len(labels), 3074), np.uint8)
    rows[:, 0] = [COARSE.index(cifar_fs.superclasses()[FINE[label]]) for label in labels]
    rows[:, 1] = labels
    rows[:, 2 : 2 + 1024] = labels[:, None]
    rows[:, 2 + 2048 :] = np.repeat(np.arange(32), 32)[::-1]
    rows = rows[order]
    for label in range(100):
        rows[rows[:, 1] == label, 2 + 1024 : 2 + 2048] = first + np.arange(n_examples)[:, None]
    return rows.tobytes()


def contents() -> dict[str, bytes]:
    """Make the files of the binary version."""
    return {
        "fine_label_names.txt": "".join(f"{name}\n" for name in FINE).encode(),
        "coarse_label_names.txt": "".join(f"{name}\n" for name in COARSE).encode(),
        "test.bin": records(1, 2),
        "train.bin": records(2, 0),
    }


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def pack(root: Path, files: dict[str, bytes], *others: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = root / "cifar100" / "cifar-100-binary.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(member("cifar-100-binary", tarfile.DIRTYPE))
        for info, content in others:
            archive.addfile(info, io.BytesIO(content))
        for name, content in files.items():
            archive.addfile(member(f"cifar-100-binary/{name}", size=len(content)), io.BytesIO(content))
    return path


def unpack(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def load(root: Path, name: str = "cifar_fs") -> Splits:
    return data.load(TaskConfig(dataset=name), root)


def refused(root: Path) -> str:
    with pytest.raises(MetabenchError) as error:
        load(root)
    assert str(error.value).startswith("cifar_fs: ")
    assert "To download: metabench datasets fetch cifar_fs" in str(error.value)
    return str(error.value)


def test_the_splits_cut_the_same_hundred_classes_as_they_were_published() -> None:
    for classes, sizes in ((cifar_fs.classes(), [64, 16, 20]), (fc100.classes(), [60, 20, 20])):
        assert list(classes) == list(PARTS)
        assert [len(set(part)) for part in classes.values()] == sizes
        assert {name for part in classes.values() for name in part} == set(FINE)
    assert len(FINE) == 100
    assert (FINE[0], FINE[47], FINE[99]) == ("apple", "maple_tree", "worm")


def test_the_splits_are_those_of_their_authors(data_root: Path) -> None:
    folder = data_root / "splits"
    if not folder.is_dir():
        pytest.skip(f"no class lists under {data_root}")
    short = {"meta_train": "train", "meta_validation": "val", "meta_test": "test"}
    homes = cifar_fs.superclasses()
    for part, names in cifar_fs.classes().items():
        listed = json.loads((folder / f"cifar_fs_{short[part]}.json").read_text())
        assert sorted(name for _, name in listed) == names
        assert {name: home for home, name in listed} == {name: homes[name] for name in names}
    for part, names in fc100.classes().items():
        listed = json.loads((folder / f"fc100_{short[part]}.json").read_text())
        assert sorted(listed) == sorted({homes[name] for name in names})


def test_no_superclass_of_fc100_is_in_two_splits_and_each_has_five_classes() -> None:
    homes = cifar_fs.superclasses()
    parts = [sorted(homes[name] for name in part) for part in fc100.classes().values()]
    assert [len(set(part)) for part in parts] == [12, 4, 4]
    assert len({home for part in parts for home in part}) == 20
    assert all(part.count(home) == 5 for part in parts for home in part)


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_every_image_is_in_its_class_upright_and_in_colour(tmp_path: Path, name: str) -> None:
    pack(tmp_path, contents())
    splits = load(tmp_path, name)
    for part in (getattr(splits, one) for one in PARTS):
        assert part.images.shape == (len(part.classes), 3, 3, 32, 32)
        assert part.domains == tuple(cifar_fs.superclasses()[one] for one in part.classes)
        for one, images in zip(part.classes, part.images, strict=True):
            assert (images[:, 0] == FINE.index(one)).all()
            assert images[:, 1, 0, 0].tolist() == [0, 1, 2], "training images come first, in the file's order"
            assert (images[:, 2] == torch.arange(31, -1, -1)[:, None]).all()
    data.check(TaskConfig(dataset=name, way=5, shot=1, query=2, test_query=2), splits)


def test_archive_and_folder_give_the_same_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "packed", contents())
    unpack(tmp_path / "unpacked", contents())
    assert load(tmp_path / "packed").fingerprint == load(tmp_path / "unpacked").fingerprint


def test_a_second_read_opens_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path, contents())
    first = load(tmp_path)
    monkeypatch.setattr(cifar_fs, "_contents", lambda source: pytest.fail("read again"))
    assert load(tmp_path).fingerprint == first.fingerprint
    load(tmp_path, "fc100")


def test_one_download_is_checked_goes_on_and_serves_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, here = pack(tmp_path / "served", contents()), tmp_path / "here"
    messages: list[str] = []
    with serving(served.parent) as (url, behaviour):
        order = fetch.Order(url=url, say=messages.append)
        with pytest.raises(MetabenchError, match=r"binary.tar.gz: damaged or replaced: its MD5 is \w+, must"):
            cifar_fs.DATASET.fetch(here, "bertinetto", None, order)
        assert not cifar_fs.DATASET.is_available(here)
        monkeypatch.setattr(cifar_fs, "MD5", hashlib.md5(served.read_bytes()).hexdigest())
        behaviour.cuts = [1000, 1000]
        behaviour.seen.clear()
        cifar_fs.DATASET.fetch(here, "bertinetto", None, order)
        assert [span for _, span in behaviour.seen] == [None, "bytes=1000-", "bytes=2000-"]
        fc100.DATASET.fetch(here, "oreshkin", None, order)
        assert len(behaviour.seen) == 3
    assert [line.endswith("binary.tar.gz is here already") for line in messages] == [True]
    assert load(here).fingerprint == load(tmp_path / "served").fingerprint


def test_an_address_without_the_archive_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _), pytest.raises(MetabenchError, match=r"binary\.tar\.gz: HTTP 404"):
        cifar_fs.fetch(tmp_path / "here", "", None, fetch.Order(url=url))


def test_a_pickled_version_is_not_read_and_the_message_says_so(tmp_path: Path) -> None:
    assert "pickles" not in refused(tmp_path)
    (tmp_path / "cifar100" / "cifar-100-python").mkdir(parents=True)
    assert "cifar-100-python holds pickles, which are never read" in refused(tmp_path)


def changed(name: str, change: Callable[[bytearray], object]) -> dict[str, bytes]:
    files = contents()
    content = bytearray(files[name])
    change(content)
    return {**files, name: bytes(content)}


def relabel(content: bytearray) -> None:
    content[1] = (content[1] + 1) % 100


def rehome(content: bytearray) -> None:
    content[0] = (content[0] + 1) % 20


def break_label(content: bytearray) -> None:
    content[1] = 100


def rename(content: bytearray) -> None:
    content[:5] = b"appel"


WRONG = {
    "label": ("train.bin", relabel, "train.bin must hold 2 images a class, but has: "),
    "superclass": ("test.bin", rehome, "has 1 images in another superclass than their class, such as"),
    "no label": ("train.bin", break_label, "train.bin has labels up to 100 and 19, must be below 100, 20"),
    "name": ("fine_label_names.txt", rename, "its names are not those of CIFAR-100's classes: ['appel', "),
    "short": ("train.bin", lambda content: content.pop(), "train.bin' has 614799 bytes, must have 614800"),
    "long": ("coarse_label_names.txt", lambda content: content.extend(bytes(20_000)), "10000 or fewer"),
}


@pytest.mark.parametrize(("name", "change", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("put", [pack, unpack])
def test_wrong_contents_are_told(
    tmp_path: Path,
    put: Callable[[Path, dict[str, bytes]], Path],
    name: str,
    change: Callable[[bytearray], object],
    message: str,
) -> None:
    path = put(tmp_path, changed(name, change))
    error = refused(tmp_path)
    assert message in error
    assert str(path) in error
    assert "Replace it" in error


@pytest.mark.parametrize("put", [pack, unpack])
def test_a_missing_file_is_named(tmp_path: Path, put: Callable[[Path, dict[str, bytes]], Path]) -> None:
    files = contents()
    del files["test.bin"]
    put(tmp_path, files)
    assert "test.bin" in refused(tmp_path)


@pytest.mark.parametrize("n_bytes", [5, 2000, 20_000])
def test_an_archive_that_is_cut_off_is_told(tmp_path: Path, n_bytes: int) -> None:
    path = pack(tmp_path, contents())
    path.write_bytes(path.read_bytes()[:-n_bytes])
    assert f"{path} ({path.stat().st_size} bytes) is truncated or damaged" in refused(tmp_path)


def test_a_wrong_pixel_in_an_archive_is_told_by_its_checksum(tmp_path: Path) -> None:
    path = pack(tmp_path, contents())
    plain = gzip.decompress(path.read_bytes())
    other = bytearray(plain)
    other[-20_000] ^= 1
    assert other[-20_000:-10_240].strip(b"\0"), "a pixel, not what fills the archive up"
    end = path.read_bytes()[-8:]  # the checksum and length of the true content
    path.write_bytes(gzip.compress(bytes(other), 1)[:-8] + end)
    assert "is truncated or damaged: CRC check failed" in refused(tmp_path)


DUBIOUS = {
    "upward": (member("../../evil"), b"", "leads out of the archive"),
    "upward inside": (member("cifar-100-binary/../../evil"), b"", "leads out of the archive"),
    "absolute": (member("/tmp/evil"), b"", "leads out of the archive"),
    "link": (member("cifar-100-binary/train.bin", tarfile.SYMTYPE, "/etc/passwd"), b"", "is a link"),
    "hard link": (member("cifar-100-binary/train.bin", tarfile.LNKTYPE, "/etc/passwd"), b"", "is a link"),
    "device": (member("cifar-100-binary/x", tarfile.CHRTYPE), b"", "is neither a plain file nor a folder"),
    "bomb": (member("x", size=1_000_000), bytes(1_000_000), "unpacks to 1000000 bytes, must be at most"),
    "long name": (member("x" * 70_000), b"", "a name of 700"),
}


@pytest.mark.parametrize(("info", "content", "problem"), DUBIOUS.values(), ids=DUBIOUS.keys())
def test_archives_that_no_honest_person_packed_are_refused(
    tmp_path: Path, info: tarfile.TarInfo, content: bytes, problem: str
) -> None:
    path = pack(tmp_path / "a" / "b", contents(), (info, content))
    before = set(tmp_path.rglob("*"))
    error = refused(tmp_path / "a" / "b")
    assert str(path) in error
    assert problem in error
    assert set(tmp_path.rglob("*")) == before


def test_an_archive_that_is_a_bomb_in_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path, contents(), *((member(f"{number}"), b"") for number in range(50)))
    monkeypatch.setattr(cifar_fs, "LARGEST_IN_ALL", 20_000)
    assert "unpacks to more than 20000 bytes" in refused(tmp_path)
