"""What is wrong in a folder of images is named, all at once, or skipped and listed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from metabench.data.reading import images as reader
from tests.data.sets.test_folder import SIX, contents, load, paint, refused, six_classes


def test_hidden_files_what_systems_leave_and_papers_beside_the_classes_are_left_alone(tmp_path: Path) -> None:
    expected = load(six_classes(tmp_path), **SIX).fingerprint
    (tmp_path / "README.md").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"):
        (tmp_path / "class0" / name).write_bytes(b"x")
    assert load(tmp_path, **SIX).fingerprint == expected


def test_links_are_followed_and_loops_of_links_are_harmless(tmp_path: Path) -> None:
    expected = load(six_classes(tmp_path / "real"), **SIX).fingerprint
    (tmp_path / "linked").mkdir()
    for row in range(6):
        (tmp_path / "linked" / f"class{row}").symlink_to(tmp_path / "real" / f"class{row}")
    (tmp_path / "linked" / "loop").symlink_to(tmp_path / "linked")
    (tmp_path / "linked" / "self").symlink_to(tmp_path / "linked" / "self")
    (tmp_path / "real" / "class0" / "up").symlink_to(tmp_path / "real")
    assert load(tmp_path / "linked", **SIX).fingerprint == expected


def damaged(root: Path) -> str:
    path = root / "class0" / "0.png"
    path.write_bytes(path.read_bytes()[:40])
    return "class0/0.png': cannot be decoded"


def not_an_image(root: Path) -> str:
    (root / "class1" / "x.jpg").write_text("hello")
    return "class1/x.jpg': cannot be decoded: it is damaged, or none of PNG"


def other_file(root: Path) -> str:
    (root / "class2" / "notes.txt").touch()
    return "class2/notes.txt': not an image by its name"


def empty_class(root: Path) -> str:
    (root / "hollow").mkdir()
    return "class 'hollow' is empty"


def deeper_folder(root: Path) -> str:
    paint(root / "class3" / "deep" / "a.png")
    return "class3/deep': a folder inside the class 'class3'"


def outside(root: Path) -> str:
    paint(root / "lost.png")
    return "lost.png': an image outside the folders of classes"


def broken_link(root: Path) -> str:
    (root / "class4" / "gone.png").symlink_to(root / "nowhere.png")
    return "class4/gone.png': No such file"


def a_pipe(root: Path) -> str:
    os.mkfifo(root / "class5" / "pipe.png")
    return "class5/pipe.png': is not a file"


def not_unicode(root: Path) -> str:
    os.mkdir(os.fsencode(root) + b"/\xff")
    return "the name is not Unicode"


def same_letters(root: Path) -> str:
    paint(root / "caf\u00e9" / "a.png")
    paint(root / "cafe\u0301" / "a.png")
    return "class 'caf\u00e9' has two folders"


FAULTS = [damaged, not_an_image, other_file, empty_class, deeper_folder]
FAULTS += [outside, broken_link, a_pipe, not_unicode, same_letters]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(tmp_path: Path, fault: Callable[[Path], str]) -> None:
    expected = fault(six_classes(tmp_path))
    message = refused(tmp_path, **SIX)
    assert expected in message
    assert message.count("\n") == 0, "and nothing else is"


def test_all_faults_are_told_at_once_and_nothing_is_kept(tmp_path: Path) -> None:
    six_classes(tmp_path)
    expected = [fault(tmp_path) for fault in FAULTS]
    message = refused(tmp_path, meta_train=0.9, meta_validation=0.1)
    expected += ["together they must be < 1", "meta_test has 0 classes"]
    assert [part for part in expected if part not in message] == []


def heic(root: Path) -> str:
    (root / "class3" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    return "class3/IMG_1.HEIC': no format that is read; convert it to PNG or JPEG"


def heic_by_another_name(root: Path) -> str:
    (root / "class3" / "IMG_2.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    return "class3/IMG_2.jpg': cannot be decoded: it is HEIC or AVIF, whatever its name says; convert it"


def same_but_for_blanks(root: Path) -> str:
    paint(root / "class0 " / "a.png")
    return "class 'class0' has two folders"


FAULTS += [heic, heic_by_another_name, same_but_for_blanks]
SKIPPABLE = [one for one in FAULTS if one not in (same_letters, same_but_for_blanks)]


def test_all_that_is_no_image_of_a_class_is_skipped_and_listed_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(load(six_classes(tmp_path, 4), **SIX))
    said = [fault(tmp_path) for fault in SKIPPABLE]
    expected["class0"].remove(0)  # the damaged one
    assert contents(load(tmp_path, **SIX, skip=True)) == expected
    assert [line for line in said if line not in caplog.text] == []
    assert caplog.text.count("left out: ") == len(said)
    caplog.clear()
    monkeypatch.setattr(reader, "fitted", lambda *_: pytest.fail("decoded again"))
    assert contents(load(tmp_path, **SIX, skip=True)) == expected
    assert all(line in caplog.text for line in said), "also from the cache"


def test_many_problems_are_counted_by_kind_first(tmp_path: Path) -> None:
    six_classes(tmp_path, 1)
    for row in range(30):
        (tmp_path / "class0" / f"{row}.txt").touch()
        (tmp_path / "class1" / f"{row}.HEIC").touch()
    (tmp_path / "class2" / "x.png").write_bytes(b"x")
    first, *rest = refused(tmp_path, **SIX).split("\n")
    assert first.startswith("folder: 61 problems: 30 times ..: no")
    assert "1 times ..: cannot be decoded" in first
    assert len(rest) == 8
    assert rest[-1] == "folder: and 54 more"
