"""Omniglot is read from archives or folders alike, its counts are checked, and damage is named."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabench import data
from metabench.core import MetabenchError
from metabench.core.config import TaskConfig
from metabench.data.reading import fetch
from metabench.data.sets import omniglot
from tests.data.reading.server import serving

CHARACTERS = ["Greek/character01", "Greek/character02", "Latin/character01"]
HOMES = {"Greek": "images_background", "Latin": "images_evaluation"}


def drawing(position: int, side: int = 105) -> bytes:
    """Draw a black vertical bar on white."""
    image = np.full((side, side), 255, np.uint8)
    image[20:80, 10 + 4 * position : 16 + 4 * position] = 0
    file = io.BytesIO()
    Image.fromarray(image).convert("1").save(file, "png")
    return file.getvalue()


def members() -> dict[str, dict[str, bytes]]:
    """Make a tiny Omniglot of three characters: set to member to bytes."""
    sets: dict[str, dict[str, bytes]] = {name: {} for name in HOMES.values()}
    for number, character in enumerate(CHARACTERS):
        home = HOMES[character.split("/")[0]]
        for drawer in range(1, 21):
            name = f"{home}/{character}/{number:04}_{drawer:02}.png"
            sets[home][name] = drawing(drawer - 1)
    return sets


def pack(root: Path, sets: dict[str, dict[str, bytes]]) -> Path:
    (root / "omniglot").mkdir(parents=True, exist_ok=True)
    for home, files in sets.items():
        with zipfile.ZipFile(root / "omniglot" / f"{home}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    return root


def test_the_vinyals_split_has_its_sizes_and_no_overlap() -> None:
    classes = omniglot.vinyals_classes()
    assert [len(part) for part in classes.values()] == [1028, 172, 423]
    assert len({name for part in classes.values() for name in part}) == 1623


def test_archives_and_folders_give_the_same_white_strokes(tmp_path: Path) -> None:
    packed = omniglot.read(pack(tmp_path / "packed", members()), CHARACTERS)
    for files in members().values():
        for name, content in files.items():
            path = tmp_path / "unpacked" / "omniglot" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    unpacked = omniglot.read(tmp_path / "unpacked", CHARACTERS)
    assert packed.shape == (3, 20, 28, 28)
    assert (packed == unpacked).all()
    assert packed[0, 0].max() == 255
    assert packed[0, 0, :, 20:].max() == 0
    columns = packed[0].max(1).argmax(1)
    assert (np.diff(columns) >= 0).all(), "drawings are in the order of their drawers"


def test_a_second_read_opens_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pack(tmp_path, members())
    first = omniglot.read(root, CHARACTERS)
    monkeypatch.setattr(omniglot, "_decode", lambda *_: pytest.fail("decoded again"))
    assert (omniglot.read(root, CHARACTERS) == first).all()


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    root = pack(tmp_path, members())
    path = root / "omniglot" / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(MetabenchError, match=rf"{path} \(\d+ bytes\) is truncated or damaged.*Replace it"):
        omniglot.read(root, CHARACTERS)
    with pytest.raises(MetabenchError, match="is truncated or damaged"):
        data.load(TaskConfig(dataset="omniglot"), root)


def test_flipped_bytes_inside_an_archive_are_named(tmp_path: Path) -> None:
    root = pack(tmp_path, members())
    path = root / "omniglot" / "images_evaluation.zip"
    content = bytearray(path.read_bytes())
    content[120:160] = bytes(byte ^ 255 for byte in content[120:160])
    path.write_bytes(content)
    with pytest.raises(MetabenchError, match=r"images_evaluation.zip .* is truncated or damaged"):
        omniglot.read(root, CHARACTERS)


def test_a_missing_drawing_and_a_missing_character_are_named(tmp_path: Path) -> None:
    sets = members()
    del sets["images_background"]["images_background/Greek/character02/0001_07.png"]
    sets["images_evaluation"].clear()
    with pytest.raises(MetabenchError) as error:
        omniglot.read(pack(tmp_path, sets), CHARACTERS)
    message = str(error.value)
    assert "must hold 3 characters x 20 drawings; 2 characters of Greek, Latin do not fit" in message
    assert "Greek/character02: 19 drawings, must be 20" in message
    assert "Latin/character01: 0 drawings, must be 20" in message


def test_a_character_too_many_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match="Latin/character01: 20 drawings, must be 0"):
        omniglot.read(pack(tmp_path, members()), CHARACTERS[:2])


@pytest.mark.parametrize("content", [drawing(0, side=28), b"not a picture", drawing(0)[:60]])
def test_a_member_that_is_no_drawing_is_named(tmp_path: Path, content: bytes) -> None:
    sets = members()
    sets["images_background"]["images_background/Greek/character01/0000_03.png"] = content
    with pytest.raises(MetabenchError, match=r"Greek/character01/0000_03.png: (must be 105x105|is not a)"):
        omniglot.read(pack(tmp_path, sets), CHARACTERS)


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("member", "content", "problem"),
    [
        ("../../evil/character01/0000_01.png", b"", "leads out of the archive"),
        ("images_background/../../evil.png", b"", "leads out of the archive"),
        ("/tmp/evil.png", b"", "leads out of the archive"),
        ("C:/evil.png", b"", "leads out of the archive"),
        (link("images_background/Greek/character09/0000_01.png"), b"/etc/passwd", "is a link"),
        ("images_background/Greek/character09/0000_01.png", bytes(100_001), "unpacks to 100001 bytes"),
    ],
    ids=["upward", "upward inside", "absolute", "drive", "link", "bomb"],
)
def test_archives_that_no_honest_person_packed_are_refused(
    tmp_path: Path, member: str | zipfile.ZipInfo, content: bytes, problem: str
) -> None:
    root = pack(tmp_path / "a" / "b", members())
    path = root / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(MetabenchError, match=rf"{path}: '.*' {problem}.*Replace it"):
        omniglot.read(root, CHARACTERS)
    assert set(tmp_path.rglob("*")) == before


def test_a_member_without_a_name_is_left_alone(tmp_path: Path) -> None:
    root = pack(tmp_path, members())
    path = root / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("?", b"")
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")  # zipfile reads members without a name, but writes none
    size = struct.unpack_from("<I", content, content.rindex(b"PK\x05\x06") + 12)[0]
    entry = bytearray(content[start : start + 46])
    struct.pack_into("<H", entry, 28, 0)
    end = bytearray(content[start + 47 :])
    struct.pack_into("<I", end, 12, size - 1)
    local = content.rindex(b"PK\x03\x04", 0, start)
    first = bytearray(content[:start])
    struct.pack_into("<H", first, local + 26, 0)
    path.write_bytes(bytes(first) + bytes(entry) + bytes(end))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[-1] == ""
    assert omniglot.read(root, CHARACTERS).shape == (3, 20, 28, 28)


def test_an_archive_that_is_a_bomb_in_sum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pack(tmp_path, members())
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))  # which has not seen these bytes
    monkeypatch.setattr(omniglot, "LARGEST_IN_ALL", 1_000)
    with pytest.raises(MetabenchError, match="unpacks to more than 1000 bytes"):
        omniglot.read(root, CHARACTERS)


def test_the_filter_is_an_option(tmp_path: Path) -> None:
    root = pack(tmp_path, members())
    filtered = {name: omniglot.read(root, CHARACTERS, name).tobytes() for name in omniglot.RESIZES}
    assert filtered["box"] == omniglot.read(root, CHARACTERS).tobytes()
    assert len(set(filtered.values())) == len(omniglot.RESIZES)


@pytest.mark.parametrize(("split", "sizes"), [("maml", [1100, 100, 423]), ("lake", [813, 151, 659])])
def test_every_split_cuts_the_same_characters_without_overlap(split: str, sizes: list[int]) -> None:
    classes = omniglot.CLASSES[split]()
    assert list(classes) == ["meta_train", "meta_validation", "meta_test"]
    assert [len(part) for part in classes.values()] == sizes
    names = {name for part in classes.values() for name in part}
    assert names == {name for part in omniglot.vinyals_classes().values() for name in part}


def test_lakes_split_shares_no_alphabet_and_is_that_of_the_archives(data_root: Path) -> None:
    if not omniglot.DATASET.is_available(data_root):
        pytest.skip(f"no Omniglot under {data_root}")
    classes = omniglot.lake_classes()
    alphabets = [{name.split("/")[0] for name in part} for part in classes.values()]
    assert [len(part) for part in alphabets] == [25, 5, 20]
    with zipfile.ZipFile(data_root / "omniglot" / "images_evaluation.zip") as archive:
        in_archive = {name.split("/")[1] for name in archive.namelist() if name.endswith(".png")}
    assert in_archive == alphabets[2]


def test_the_archives_are_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, here = pack(tmp_path / "served", members()) / "omniglot", tmp_path / "here"
    with serving(served) as (url, behaviour):
        with pytest.raises(
            MetabenchError, match=r"images_background.zip: damaged or replaced: its MD5 is \w+, must"
        ):
            omniglot.fetch(here, "vinyals", None, fetch.Order(url=url))
        assert not list((here / "omniglot").glob("*.zip*"))
        sums = {name: hashlib.md5((served / name).read_bytes()).hexdigest() for name in omniglot.MD5}
        monkeypatch.setattr(omniglot, "MD5", sums)
        behaviour.cuts = [1000, 1000]
        omniglot.fetch(here, "vinyals", None, fetch.Order(url=url))
        n_seen, messages = len(behaviour.seen), []
        omniglot.fetch(here, "vinyals", None, fetch.Order(url=url, say=messages.append))
        assert len(behaviour.seen) == n_seen
        assert [line.endswith(".zip is here already") for line in messages] == [True, True]
    images = omniglot.read(here, CHARACTERS)
    assert (images == omniglot.read(tmp_path / "served", CHARACTERS)).all()


def test_the_real_archives_are_fetched_byte_for_byte(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = [data_root / "omniglot" / name for name in omniglot.MD5]
    if not all(path.is_file() for path in archives):
        pytest.skip(f"no Omniglot archives under {data_root}")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in archives}
    monkeypatch.setattr(omniglot, "MD5", sums)  # packed again, so not the official ones
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    with serving(data_root / "omniglot") as (url, behaviour):
        behaviour.codes, behaviour.cuts = [500, 500], [0, 0, 3_000_000]
        omniglot.fetch(tmp_path, "vinyals", None, fetch.Order(url=url))
    for path in archives:
        assert (tmp_path / "omniglot" / path.name).read_bytes() == path.read_bytes()


def test_support_of_one_alphabet_has_no_query_in_another() -> None:
    with pytest.raises(MetabenchError, match="domains=across: classes that have the same name in two"):
        data.configure(TaskConfig(dataset="omniglot", domains="across"))
    data.configure(TaskConfig(dataset="omniglot", domains="within"))
    data.configure(TaskConfig(dataset="folder", domains="across"))


def test_one_missing_set_is_told(tmp_path: Path) -> None:
    root = pack(tmp_path, members())
    (root / "omniglot" / "images_evaluation.zip").unlink()
    assert not omniglot.DATASET.is_available(root)
    with pytest.raises(MetabenchError, match=r"neither images_evaluation.zip nor a folder images_evaluation"):
        omniglot.read(root, CHARACTERS)


def test_rotations_of_the_real_characters_are_training_classes_only(data_root: Path) -> None:
    if not omniglot.DATASET.is_available(data_root):
        pytest.skip(f"no Omniglot under {data_root}")
    splits = data.load(TaskConfig(dataset="omniglot"), data_root)
    parts = (splits.meta_train, splits.meta_validation, splits.meta_test)
    assert [len(part.classes) for part in parts] == [4 * 1028, 172, 423]
    assert splits.meta_train.classes[1028] == f"{splits.meta_train.classes[0]}/90"
    images = splits.meta_train.images
    assert torch.equal(images[1028 + 5], torch.rot90(images[5], 1, (2, 3)))
    assert len({domain for part in parts for domain in part.domains}) == 50
    plain = data.load(TaskConfig(dataset="omniglot", options={"rotations": False}), data_root)
    assert torch.equal(plain.meta_train.images, images[:1028])
    assert torch.equal(plain.meta_test.images, splits.meta_test.images)
