"""mini-ImageNet, tiered-ImageNet and CUB are read from what users have; what is wrong with it is named."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabench import data
from metabench.core import MetabenchError, Splits
from metabench.core.config import TaskConfig
from metabench.data.reading import archives
from metabench.data.reading.published import Published
from metabench.data.sets import _published

SETS = ("mini_imagenet", "tiered_imagenet", "cub")
PARTS = ("meta_train", "meta_validation", "meta_test")
WORDS = dict(zip(PARTS, ("train", "val", "test"), strict=True))
SIZES = {"mini_imagenet": (64, 16, 20), "tiered_imagenet": (351, 97, 160), "cub": (100, 50, 50)}
FEW = {"meta_train": 3, "meta_validation": 2, "meta_test": 2}

Files = dict[str, bytes]


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return each data set, cut down to seven of its classes with two images each."""
    shrink(request.param, monkeypatch)
    return str(request.param)


def photos_of(name: str) -> Published:
    return data.get(name).load.args[0]  # type: ignore[attr-defined, no-any-return]


def change_photos(name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let a data set know other things of its images."""
    photos, dataset = photos_of(name)._replace(**changes), data.get(name)
    functions: dict[str, Any] = {key: getattr(dataset, key) for key in ("load", "is_available")}
    changed = {key: partial(function.func, photos) for key, function in functions.items()}
    unchanged, other = _published.published, dataset._replace(**changed)
    monkeypatch.setattr(_published, "published", lambda path: other if path.stem == name else unchanged(path))


def shrink(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {part: names[: FEW[part]] for part, names in photos_of(name).classes.items()}
    change_photos(name, monkeypatch, classes=classes, fewest=2, most=2, total=14)


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut mini-ImageNet down."""
    shrink("mini_imagenet", monkeypatch)


def classes_of(name: str) -> dict[str, list[str]]:
    return photos_of(name).classes


def photo(value: int) -> bytes:
    pixels = np.full((6, 9, 3), value, np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, 9)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


def by_class(name: str, prefix: str = "") -> Files:
    """Make folders of classes; the image's brightness tells its class and number."""
    names = [one for row in classes_of(name).values() for one in row]
    return {
        f"{prefix}{one}/{one}_{number}.jpg": photo(20 * row + 10 * number)
        for row, one in enumerate(names)
        for number in range(2)
    }


def by_split(name: str) -> Files:
    """Make folders of classes inside folders of splits."""
    homes = {one: WORDS[part] for part, row in classes_of(name).items() for one in row}
    return {f"top/{homes[path.split('/')[0]]}/{path}": content for path, content in by_class(name).items()}


def by_list(name: str) -> Files:
    """Make Ravi and Larochelle's layout: all images in one folder, and three lists."""
    plain = by_class(name)
    files = {f"images/{path.split('/')[1]}": content for path, content in plain.items()}
    for part, row in classes_of(name).items():
        lines = [f"{path.split('/')[1]},{one}" for one in row for path in plain if path.startswith(one)]
        files[f"{WORDS[part]}.csv"] = "\n".join(["filename,label", *lines, ""]).encode()
    return files


LAYOUTS: dict[str, Callable[[str], Files]] = {
    "plain": by_class,
    "as packed by Caltech": lambda name: (
        by_class(name, "CUB_200_2011/images/") | {"CUB_200_2011/README": b""}
    ),
    "splits": by_split,
    "lists": by_list,
}


def unpack(root: Path, name: str, files: Files) -> None:
    for path, content in files.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_bytes(content)


def tar(root: Path, name: str, files: Files, suffix: str = ".tar", *others: tarfile.TarInfo) -> Path:
    path = root / name / f"photos{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w" if suffix == ".tar" else "w:gz") as archive:
        for info in others:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        for member, content in reversed(files.items()):  # whose order must not matter
            info = tarfile.TarInfo(f"./{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(root: Path, name: str, files: Files) -> Path:
    path = root / name / "photos.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


def load(root: Path | None, name: str, **options: Any) -> Splits:
    return data.load(TaskConfig(dataset=name, options={"size": 4, **options}), root)


def refused(root: Path | None, name: str = "mini_imagenet", **options: Any) -> str:
    with pytest.raises(MetabenchError) as error:
        load(root, name, **options)
    assert all(line.startswith(f"{name}: ") for line in str(error.value).splitlines())
    return str(error.value)


@pytest.mark.parametrize("name", SETS)
def test_the_class_lists_have_the_published_sizes_and_no_overlap(name: str) -> None:
    photos = photos_of(name)
    assert tuple(photos.classes) == PARTS
    assert tuple(len(part) for part in photos.classes.values()) == SIZES[name]
    names = [one for part in photos.classes.values() for one in part]
    assert len(set(names)) == sum(SIZES[name])
    assert set(photos.domains) == set(names)
    assert photos.fewest * len(names) <= photos.total <= photos.most * len(names)


def test_no_category_of_tiered_imagenet_is_in_two_splits() -> None:
    photos = photos_of("tiered_imagenet")
    homes = [{photos.domains[one] for one in part} for part in photos.classes.values()]
    assert [len(part) for part in homes] == [20, 6, 8]
    assert len(set.union(*homes)) == 34


def test_the_lists_are_those_of_their_authors(data_root: Path) -> None:
    folder = data_root / "splits"
    if not folder.is_dir():
        pytest.skip(f"no class lists under {data_root}")
    for part, word in WORDS.items():
        ravi = (folder / f"miniimagenet_ravi_classes_{word}.txt").read_text().split()
        assert sorted(ravi) == sorted(photos_of("mini_imagenet").classes[part])
        chen = json.loads((folder / f"cub_{word}.json").read_text())
        assert sorted(chen) == sorted(photos_of("cub").classes[part])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bytes_in_a_folder_and_in_an_archive(
    tmp_path: Path, name: str, layout: str
) -> None:
    unpack(tmp_path / "plain", name, by_class(name))
    files = LAYOUTS[layout](name) | {"__MACOSX/._x.jpg": b"", "notes.csv": b"x"}
    unpack(tmp_path / "folder", name, files)
    tar(tmp_path / "tar", name, files)
    tar(tmp_path / "gz", name, files, ".tgz")
    zipped(tmp_path / "zip", name, files)
    assert not data.get(name).is_available(tmp_path)
    first = load(tmp_path / "plain", name)
    for form in ("folder", "tar", "gz", "zip"):
        assert load(tmp_path / form, name).fingerprint == first.fingerprint
        assert data.get(name).is_available(tmp_path / form)


def test_every_image_is_in_its_class_and_every_class_in_its_split(tmp_path: Path, name: str) -> None:
    tar(tmp_path, name, by_class(name))
    splits = load(tmp_path, name)
    assert splits.name == f"{name}/{data.get(name).splits[0]}"
    row = 0
    for part in PARTS:
        split = getattr(splits, part)
        assert split.classes == tuple(classes_of(name)[part])
        assert split.domains == tuple(photos_of(name).domains[one] for one in split.classes)
        assert split.images.shape == (FEW[part], 2, 3, 4, 4)
        for images in split.images.float():
            red = images[:, 0].mean((1, 2))
            # JPEG rounds each block, and colours once more
            assert red.tolist() == pytest.approx([20 * row, 20 * row + 10], abs=6)
            assert (images[:, 1, :, -1] > images[:, 1, :, 0] + 80).all(), "colour, and the right way round"
            row += 1


def test_the_size_is_an_option_and_the_path_may_lead_elsewhere(tmp_path: Path, mini: None) -> None:
    path = zipped(tmp_path, "elsewhere", by_class("mini_imagenet"))
    for place in ("elsewhere", "elsewhere/photos.zip", str(path)):
        assert load(tmp_path, "mini_imagenet", path=place, size=7).meta_test.images.shape[2:] == (3, 7, 7)
    assert load(None, "mini_imagenet", path=str(path.parent)).meta_test.images.shape[2:] == (3, 4, 4)


def test_a_second_load_reads_no_archive(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(tmp_path, name, by_class(name), ".tar.gz")
    first = load(tmp_path, name)
    monkeypatch.setattr(archives, "members", lambda path, limits: pytest.fail("read again"))
    assert load(tmp_path, name).fingerprint == first.fingerprint


def test_folders_are_taken_before_the_archive_beside_them(tmp_path: Path, name: str) -> None:
    unpack(tmp_path, name, by_class(name))
    (tmp_path / name / "photos.tar").write_bytes(b"anything")
    load(tmp_path, name)


def test_what_is_not_there_is_told_with_what_to_get_where_from_and_where_to_put_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    (tmp_path / "empty" / name).mkdir(parents=True)
    for root in (None, tmp_path, tmp_path / "empty"):
        message = refused(root, name)
        assert data.get(name).url in message
        assert f"put it under {root or 'METABENCH_DATA'}/{name}, or set the option path" in message
        assert "folders of classes" in message
        assert ".tar.gz" in message
        assert not data.get(name).is_available(root)
    assert "METABENCH_DATA is not set" in refused(None, name)
    assert f"{tmp_path / name} is not there" in refused(tmp_path, name)
    assert "path='nowhere'" in refused(tmp_path, name, path="nowhere")


def change(**changes: Callable[[Files], object]) -> list[Any]:
    return [pytest.param(one, id=name) for name, one in changes.items()]


CLASS = "n01532829"
OTHER = "n01855672"


def without(prefix: str) -> Callable[[Files], Files]:
    return lambda files: {path: content for path, content in files.items() if prefix not in path}


def plus(path: str, content: bytes | None = None) -> Callable[[Files], Files]:
    return lambda files: {**files, path: photo(1) if content is None else content}


def moved(old: str, new: str) -> Callable[[Files], Files]:
    return lambda files: {path.replace(old, new): content for path, content in files.items()}


WRONG: dict[str, tuple[Callable[[str], Files], Callable[[Files], Files], str]] = {
    "missing": (by_class, without(CLASS), f"1 of the 3 classes of meta_train are missing: {CLASS}"),
    "missing split": (
        by_split,
        without("/val/"),
        "2 of the 2 classes of meta_validation are missing: n0",
    ),
    "fewer": (by_class, without(f"{CLASS}_0"), f"1 classes have fewer images than the usual 2: {CLASS} (1)"),
    "more": (by_class, plus(f"{CLASS}/x.jpg"), f"1 classes have more images than the usual 2: {CLASS} (3)"),
    "others": (by_class, plus("n99999999/x.jpg"), "1 classes too many: n99999999"),
    "others in a split": (by_split, plus("top/val/n99999999/x.jpg"), "1 classes too many: n99999999"),
    "strayed": (
        by_split,
        moved(f"val/{OTHER}", f"train/{OTHER}"),
        f"1 classes are in another split's folder: {OTHER} of meta_validation is in top/train",
    ),
    "twice": (by_split, plus(f"top/val/{CLASS}/x.jpg"), f"1 classes have two folders: {CLASS}"),
    "two places": (by_class, plus(f"other/{CLASS}/x.jpg"), "folders of classes are in 2 places: ., other"),
    "no list": (by_list, without("val.csv"), "there is no list val.csv beside the others"),
    "no lines": (by_list, plus("val.csv", b"x" * 200_000), "the list of meta_validation must have the first"),
    "no header": (by_list, plus("val.csv", b"a,b\n"), "the list of meta_validation must have the first line"),
    "unlisted": (by_list, without(f"{CLASS}_1"), f"1 images of the lists are not there: {CLASS}_1.jpg"),
    "strange": (by_list, plus("val.csv", b"filename,label\nx.jpg,n9\n"), "1 classes too many: n9"),
    "other list": (
        by_list,
        plus("val.csv", f"filename,label\n{CLASS}_0.jpg,{CLASS}\n".encode()),
        f"1 classes are in another split's list: {CLASS}",
    ),
    "two lists": (by_list, plus("other/val.csv", b""), "lists are in 2 places: ., other"),
    "pickles": (lambda name: {}, plus("mini-imagenet-cache-train.pkl", b""), "pickles (.pkl) are never read"),
    "no image": (
        by_class,
        plus(f"{CLASS}/{CLASS}_0.jpg", b"no"),
        "cannot be decoded: it is damaged, or none",
    ),
}


@pytest.mark.parametrize(("layout", "change", "message"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("put", [unpack, zipped])
def test_what_is_wrong_is_named(
    tmp_path: Path,
    mini: None,
    put: Callable[[Path, str, Files], object],
    layout: Callable[[str], Files],
    change: Callable[[Files], Files],
    message: str,
) -> None:
    put(tmp_path, "mini_imagenet", change(layout("mini_imagenet")))
    assert message in refused(tmp_path)


def test_all_that_is_wrong_is_told_at_once_with_what_to_do(tmp_path: Path, mini: None) -> None:
    files = without(f"{CLASS}_0")(plus("n99999999/x.jpg")(without(OTHER)(by_class("mini_imagenet"))))
    unpack(tmp_path, "mini_imagenet", files)
    message = refused(tmp_path)
    assert len(message.splitlines()) == 5
    assert "take the data set `folder`" in message.splitlines()[-1]


def test_images_that_are_too_few_in_all_are_told(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_photos(name, monkeypatch, fewest=1, most=3)
    unpack(tmp_path, name, without("_1.jpg")(by_class(name)))
    assert "7 images in all, but there are 14 as published" in refused(tmp_path, name)


def test_imagenets_own_folders_are_tiered_imagenet_and_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink("tiered_imagenet", monkeypatch)
    plain = by_class("tiered_imagenet")
    unpack(tmp_path / "a", "tiered_imagenet", plain)
    others = {"train/n01514668/x.JPEG": photo(1), "val/x.JPEG": photo(1), "test/x.JPEG": photo(1)}
    unpack(tmp_path / "b", "tiered_imagenet", by_class("tiered_imagenet", "train/") | others)
    a, b = (load(tmp_path / root, "tiered_imagenet") for root in "ab")
    assert a.fingerprint == b.fingerprint


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


DUBIOUS = {
    "upward": (member(f"../../{CLASS}/x.jpg"), "leads out of the archive"),
    "absolute": (member(f"/{CLASS}/x.jpg"), "leads out of the archive"),
    "drive": (member("C:/x.jpg"), "leads out of the archive"),
    "link": (member(f"{CLASS}/x.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (member(f"{CLASS}/x.jpg", tarfile.LNKTYPE, "/etc/passwd"), "is a link"),
    "pipe": (member(f"{CLASS}/x.jpg", tarfile.FIFOTYPE), "is neither a plain file nor a folder"),
    "bomb": (member(f"{CLASS}/x.jpg", size=50_000), "unpacks to 50000 bytes, must be at most 40000"),
}


@pytest.mark.parametrize(("info", "problem"), DUBIOUS.values(), ids=DUBIOUS.keys())
def test_archives_that_no_honest_person_packed_are_refused(
    tmp_path: Path, mini: None, monkeypatch: pytest.MonkeyPatch, info: tarfile.TarInfo, problem: str
) -> None:
    monkeypatch.setattr("metabench.data.reading.published.LARGEST_FILE", 40_000)
    path = tar(tmp_path / "a" / "b", "mini_imagenet", by_class("mini_imagenet"), ".tar.gz", info)
    before = set(tmp_path.rglob("*"))
    message = refused(tmp_path / "a" / "b")
    assert f"{path}: '" in message
    assert problem in message
    assert set(tmp_path.rglob("*")) == before


def test_a_link_and_a_way_out_in_a_zip_archive_are_refused(tmp_path: Path, mini: None) -> None:
    path = zipped(tmp_path, "mini_imagenet", {**by_class("mini_imagenet"), "../evil.jpg": b""})
    assert "'../evil.jpg' leads out of the archive" in refused(tmp_path)
    zipped(tmp_path, "mini_imagenet", by_class("mini_imagenet"))
    info = zipfile.ZipInfo(f"{CLASS}/x.jpg")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    assert f"'{CLASS}/x.jpg' is a link" in refused(tmp_path)


def test_an_archive_that_is_a_bomb_in_sum_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_photos(name, monkeypatch, largest=9_000)
    tar(tmp_path, name, by_class(name), ".tar.gz", *(member(f"{number}") for number in range(20)))
    assert "unpacks to more than 9000 bytes" in refused(tmp_path, name)


@pytest.mark.parametrize("form", [".tar", ".tgz", ".zip"])
def test_an_archive_that_is_cut_off_is_told(tmp_path: Path, mini: None, form: str) -> None:
    files = by_class("mini_imagenet")
    path = zipped(tmp_path, "mini_imagenet", files) if form == ".zip" else None
    path = path or tar(tmp_path, "mini_imagenet", files, form)
    content = path.read_bytes().rstrip(b"\0")
    for n_bytes in (100, 700, 1200):
        path.write_bytes(content[: len(content) - n_bytes])
        assert f"{path} ({len(content) - n_bytes} bytes) is truncated or damaged" in refused(tmp_path)


def test_a_tar_archive_that_ends_between_two_images_is_told(tmp_path: Path, mini: None) -> None:
    path = tar(tmp_path, "mini_imagenet", by_class("mini_imagenet"))
    with tarfile.open(path) as archive:
        start = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:start])
    assert f"{path} ({start} bytes) is truncated or damaged: it ends in the middle" in refused(tmp_path)


def test_several_archives_and_files_that_are_none_are_told(tmp_path: Path, mini: None) -> None:
    folder = tmp_path / "mini_imagenet"
    folder.mkdir()
    for name in ("a.zip", "b.tar", "c.txt"):
        (folder / name).write_bytes(b"")
    assert "holds a.zip, b.tar; set the option path to the one that is meant" in refused(tmp_path)
    assert "c.txt: must be a folder or an archive (.tar, " in refused(tmp_path, path="mini_imagenet/c.txt")
    assert "a.zip (0 bytes) is truncated or damaged" in refused(tmp_path, path="mini_imagenet/a.zip")
