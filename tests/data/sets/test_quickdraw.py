"""Quick, Draw! is cut as Cloudera and Meta-Dataset cut it; bad files are named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from metabench import data
from metabench.core import MetabenchError, Splits
from metabench.core.config import TaskConfig
from metabench.data.reading import fetch as _fetch
from metabench.data.sets import quickdraw
from tests.data.reading.server import Behaviour, serving

ROWS = 26


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make all categories; drawing i of category c has i in its first pixel and c in the next two."""
    folder = tmp_path / quickdraw.FOLDER
    folder.mkdir(parents=True)
    names = sorted(name for part in quickdraw.meta_dataset_classes().values() for name in part)
    for number, name in enumerate(names):
        images = np.zeros((ROWS + number % 3, 784), np.uint8)
        images[:, 0] = np.arange(len(images))
        images[:, 1:3] = divmod(number, 256)
        np.save(folder / f"{name}.npy", images)
    return tmp_path


def load(root: Path, split: str = "cloudera", n: int = 20) -> Splits:
    task = TaskConfig(dataset="quickdraw", split=split, options={"examples_per_class": n})
    return data.load(task, root)


def file_of(root: Path, name: str) -> Path:
    return root / quickdraw.FOLDER / f"{name}.npy"


def test_clouderas_classes_are_those_of_its_code() -> None:
    classes = quickdraw.cloudera_classes()
    assert [len(part) for part in classes.values()] == [207, 69, 69]
    assert classes["meta_train"][:3] == ["nose", "necklace", "pickup truck"]
    assert classes["meta_validation"][:3] == ["river", "wristwatch", "soccer ball"]
    assert classes["meta_test"][:3] == ["spreadsheet", "dumbbell", "hockey stick"]
    listed = hashlib.md5("\n".join(classes["meta_test"]).encode()).hexdigest()
    assert listed == "f51fec0add1a1aa69d0a7597a25d593b"


def test_both_splits_cut_the_same_345_classes_without_overlap() -> None:
    for classes in (quickdraw.cloudera_classes(), quickdraw.meta_dataset_classes()):
        names = [name for part in classes.values() for name in part]
        assert len(names) == len(set(names)) == 345
        assert set(names) == {name for part in quickdraw.cloudera_classes().values() for name in part}
    assert [len(part) for part in quickdraw.meta_dataset_classes().values()] == [241, 52, 52]


def test_rows_are_those_that_clouderas_generator_draws(root: Path) -> None:
    splits = load(root, n=20)
    names = [name for part in quickdraw.cloudera_classes().values() for name in part]
    files = sorted(names, key=lambda name: f"{name}.npy")
    rng = np.random.RandomState(123)
    rng.shuffle(files)
    assert files == names
    for part, n_rows in ((splits.meta_train, 20), (splits.meta_validation, 26), (splits.meta_test, 26)):
        assert part.images.shape == (len(part.classes), n_rows, 1, 28, 28)
        for row, name in enumerate(part.classes):
            chosen = rng.choice(len(np.load(file_of(root, name), mmap_mode="r")), n_rows, replace=False)
            assert part.images[row, :, 0, 0, 0].tolist() == chosen.tolist()


def test_fewer_drawings_are_the_first_of_more_and_change_no_other_split(root: Path) -> None:
    few, many = load(root, n=20), load(root, n=25)
    assert torch.equal(few.meta_train.images, many.meta_train.images[:, :20])
    assert torch.equal(few.meta_test.images, many.meta_test.images)
    assert few.fingerprint != many.fingerprint


def test_the_split_is_part_of_the_name(root: Path) -> None:
    assert load(root).name == "quickdraw/cloudera"
    assert load(root, "meta_dataset").name == "quickdraw/meta_dataset"
    assert data.get("quickdraw").is_available(root)


def test_too_few_rows_name_the_category_what_it_has_and_what_to_set(root: Path) -> None:
    name = quickdraw.cloudera_classes()["meta_train"][5]
    np.save(file_of(root, name), np.zeros((7, 784), np.uint8))
    with pytest.raises(MetabenchError) as error:
        load(root, n=20)
    assert f"1 meta-train categories have fewer rows; '{name}' has 7 and needs 20" in str(error.value)
    assert "Set the option examples_per_class to 7 or less" in str(error.value)


def test_all_bad_files_are_reported_together(root: Path) -> None:
    file_of(root, "cat").unlink()
    file_of(root, "dog").write_bytes(file_of(root, "dog").read_bytes()[:-100])
    file_of(root, "eye").write_bytes(b"")
    np.save(file_of(root, "fan"), np.zeros((30, 783), np.uint8))
    np.save(file_of(root, "fish"), np.zeros((30, 784), np.float32))
    with pytest.raises(MetabenchError) as error:
        load(root)
    message = str(error.value)
    assert "1 of 345 categories are missing (cat)" in message
    assert "dog.npy: cannot be read as a NumPy array" in message
    assert "eye.npy: cannot be read as a NumPy array" in message
    assert "fan.npy: must be uint8 [n, 784], but is uint8 [30, 783]" in message
    assert "fish.npy: must be uint8 [n, 784], but is float32 [30, 784]" in message
    assert not data.get("quickdraw").is_available(root)


def test_a_pickle_is_not_opened(root: Path) -> None:
    np.save(file_of(root, "cat"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MetabenchError, match=r"cat.npy: cannot be read as a NumPy array"):
        load(root)


def test_the_real_files_give_clouderas_sizes(data_root: Path) -> None:
    if not data.get("quickdraw").is_available(data_root):
        pytest.skip(f"no Quick, Draw! under {data_root}")
    splits = load(data_root)
    assert splits.meta_train.images.shape == (207, 20, 1, 28, 28)
    assert splits.meta_test.images.shape[0] == 69
    assert splits.meta_test.images.shape[1] >= 25


@pytest.fixture
def served(root: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve the categories as the official site does."""
    with serving(root / quickdraw.FOLDER) as server:
        yield server


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Make another folder, that knows nothing of what is served."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def fetch(here: Path, url: str, split: str = "cloudera", n: int = 20, **order: bool) -> None:
    options = quickdraw.Options(examples_per_class=n)
    quickdraw.fetch(here, split, options, _fetch.Order(url=url, jobs=4, **order))


def test_fetched_rows_give_what_whole_files_give(
    root: Path, here: Path, served: tuple[str, Behaviour]
) -> None:
    url, behaviour = served
    fetch(here, url)
    assert load(here).fingerprint == load(root).fingerprint
    assert data.get("quickdraw").is_available(here)
    assert {path for path, _ in behaviour.seen} >= {"/hot air balloon.npy", "/The Eiffel Tower.npy"}
    n_seen = len(behaviour.seen)
    fetch(here, url)
    assert len(behaviour.seen) == n_seen, "what is here is not asked for again"


@pytest.fixture
def few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut twelve categories instead of all."""
    names = [name for part in quickdraw.meta_dataset_classes().values() for name in part][:12]
    for split, order in (("cloudera", 1), ("meta_dataset", -1)):
        listed = names[::order]
        classes = {"meta_train": listed[:6], "meta_validation": listed[6:9], "meta_test": listed[9:]}
        monkeypatch.setitem(quickdraw.CLASSES, split, lambda classes=classes: classes)


@pytest.mark.usefixtures("few_classes")
def test_more_rows_and_another_split_are_added_to_what_is_here(
    root: Path, here: Path, served: tuple[str, Behaviour]
) -> None:
    url, behaviour = served
    fetch(here, url, n=10)
    with pytest.raises(
        MetabenchError, match=r"lack some of their rows.*fetch quickdraw, with split=cloudera and the opt"
    ):
        load(here, n=26)
    behaviour.seen.clear()
    fetch(here, url, n=26)
    assert len(behaviour.seen) < 12 * 3, "only meta-train categories lack rows"
    assert load(here, n=26).fingerprint == load(root, n=26).fingerprint
    fetch(here, url, "meta_dataset")
    assert load(here, "meta_dataset").fingerprint == load(root, "meta_dataset").fingerprint
    assert load(here).fingerprint == load(root).fingerprint


@pytest.mark.usefixtures("few_classes")
def test_two_that_fetch_at_once_do_the_work_once(
    root: Path, here: Path, served: tuple[str, Behaviour]
) -> None:
    url, behaviour = served
    messages: list[str] = []
    order = _fetch.Order(url=url, jobs=4, say=messages.append)
    behaviour.silence = 0.01
    with ThreadPoolExecutor(2) as pool:  # the lock is between open files: threads are as good as processes
        both = [pool.submit(quickdraw.fetch, here, "cloudera", quickdraw.Options(20), order) for _ in "ab"]
        assert [one.result() for one in both] == [None, None]
    assert messages == [f"Waiting for another process that fetches into {here / 'quickdraw'}"]
    assert len(behaviour.seen) == len(set(behaviour.seen)), "nothing is asked for twice"
    assert load(here).fingerprint == load(root).fingerprint


def test_a_fetch_that_failed_goes_on_and_ends_the_same(
    root: Path, here: Path, served: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = served
    monkeypatch.setattr(_fetch, "PAUSE", 0.001)
    folder = here / quickdraw.ROWS
    keep = quickdraw.keep

    def keep_100(*args: object) -> None:
        if len(list(folder.glob("*.npz"))) >= 100:
            raise KeyboardInterrupt
        keep(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(quickdraw, "keep", keep_100)
    with pytest.raises(KeyboardInterrupt):
        fetch(here, url)
    kept = sorted(folder.iterdir())
    assert 100 <= len(kept) < 110
    assert all(path.suffix == ".npz" for path in kept), "nothing half is left"
    with pytest.raises(MetabenchError, match="categories are missing"):
        load(here)
    kept[0].write_bytes(kept[0].read_bytes()[:-300])
    monkeypatch.setattr(quickdraw, "keep", keep)
    behaviour.seen.clear()
    behaviour.codes, behaviour.cuts = [500, 503], [10, 0]
    fetch(here, url)
    assert load(here).fingerprint == load(root).fingerprint
    assert kept[1].stem not in {path.strip("/")[:-4] for path, _ in behaviour.seen}


def test_only_the_rows_in_need_travel(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (20_000, 784), np.uint8)
    np.save(tmp_path / "served" / "hot dog.npy", images)
    rows = np.array([3, 4, 20, 9_000, 19_999])
    with serving(tmp_path / "served") as (url, behaviour):
        client = _fetch.Client(url, 1)
        start, count = quickdraw.header(client, url, "hot dog")
        assert (start, count) == (128, 20_000)
        fetched = quickdraw.fetch_rows(client, url, "hot dog", start, count, rows)
        assert (fetched == images[rows]).all()
        first = [int((span or "=0-").split("=")[1].split("-")[0]) for _, span in behaviour.seen]
        assert first == [0, 128 + 3 * 784, 128 + 9_000 * 784, 128 + 19_999 * 784], "neighbours come together"
        assert len(behaviour.connections) == 1


def test_stretches_hold_every_row_and_little_else() -> None:
    rows = np.unique(np.random.default_rng(0).integers(0, 50_000, 5_000))
    spans = quickdraw.stretches(rows)
    inside = np.concatenate([np.arange(*pair) for pair in spans])
    assert np.isin(rows, inside).all()
    assert len(np.unique(inside)) == len(inside), "stretches do not overlap"
    assert max(last - first for first, last in spans) <= quickdraw.LONGEST + quickdraw.GAP


def test_whole_files_are_fetched_only_when_asked_for(
    root: Path, here: Path, served: tuple[str, Behaviour]
) -> None:
    url, behaviour = served
    behaviour.has_ranges = False
    with pytest.raises(MetabenchError, match=r"sends whole files only.*or fetch whole files"):
        fetch(here, url)
    assert not list((here / quickdraw.ROWS).iterdir())
    fetch(here, url, is_whole=True)
    for path in (root / quickdraw.FOLDER).iterdir():
        assert (here / quickdraw.FOLDER / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>" + b"not here" * 99, "does not start as a NumPy array"),
        (None, "has 20640 bytes, but its 26 rows need 20512"),
    ],
    ids=["html", "longer"],
)
def test_a_mirror_with_other_files_is_refused(
    here: Path, served: tuple[str, Behaviour], content: bytes | None, problem: str
) -> None:
    url, behaviour = served
    behaviour.change = lambda path, real: (
        real if path != "aircraft carrier.npy" else real + bytes(128) if content is None else content
    )
    with pytest.raises(MetabenchError, match=f"{url}/aircraft%20carrier.npy: {problem}"):
        fetch(here, url)


def test_a_category_that_a_mirror_lacks_is_named(
    root: Path, here: Path, served: tuple[str, Behaviour]
) -> None:
    file_of(root, "The Mona Lisa").unlink()
    with pytest.raises(MetabenchError, match=rf"{served[0]}/The%20Mona%20Lisa.npy: HTTP 404"):
        fetch(here, served[0])


def test_rows_that_are_not_those_of_their_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.npz"
    images = np.zeros((3, 784), np.uint8)
    for rows in ([2, 1, 3], [0, 1], [0, 1, 9], [-1, 0, 1]):
        np.savez(path, images=images, rows=np.array(rows, np.int64), count=np.int64(9))
        with pytest.raises(MetabenchError, match="its rows are not those of its images"):
            quickdraw.open_one(path)


def test_the_real_files_are_fetched_as_they_are(data_root: Path, here: Path) -> None:
    if not data.get("quickdraw").is_available(data_root):
        pytest.skip(f"no Quick, Draw! under {data_root}")
    with serving(data_root / quickdraw.FOLDER) as (url, _):
        fetch(here, url)
    assert load(here).fingerprint == load(data_root).fingerprint
