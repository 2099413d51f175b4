"""Any archive gives the very files that were packed, or one refusal that names it; nothing is unpacked."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabench.data.reading import archives as _archives

LIMITS = _archives.Limits(one=200, all=4_000)
FORMS = ("zip", "stored zip", "ustar", "gnu tar", "pax tar", "tar.gz")
KINDS = {
    "folder": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
    "sparse file": tarfile.GNUTYPE_SPARSE,
}
IN_ZIP = {"file", "folder", "link"}


class Packed(NamedTuple):
    """A member as a test packs it."""

    name: str
    content: bytes = b""
    kind: str = "file"


WORDS = st.text("ab.\u00e4 -1", min_size=1, max_size=4).filter(lambda word: word.strip(".") != "")
HONEST_NAMES = st.lists(WORDS, min_size=1, max_size=3).map("/".join) | st.just("long/" * 30 + "name")
WAYS_OUT = ("../a", "a/../../b", "a/..", "/a", "//a", "C:/a", "c:\\a", "..\\a", "\\a")
CONTENTS = st.binary(max_size=LIMITS.one)
HONEST = st.builds(Packed, HONEST_NAMES | HONEST_NAMES.map("./".__add__), CONTENTS, st.just("file")) | (
    st.builds(Packed, HONEST_NAMES, st.just(b""), st.just("folder"))
)
DUBIOUS = st.one_of(
    st.builds(Packed, st.sampled_from(WAYS_OUT), st.binary(max_size=9), st.just("file")),
    st.builds(Packed, HONEST_NAMES, st.just(b""), st.sampled_from(sorted({*KINDS} - {"folder"}))),
    st.builds(Packed, HONEST_NAMES, st.just(bytes(LIMITS.one + 1)), st.just("file")),
)


def archives(max_size: int) -> st.SearchStrategy[list[Packed]]:
    return st.lists(HONEST, max_size=max_size, unique_by=lambda one: one.name.removeprefix("./"))


def pack(path: Path, form: str, members: list[Packed]) -> None:
    """Write an archive; the order of its members is that of the list."""
    if "zip" in form:
        how = zipfile.ZIP_STORED if form == "stored zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", how) as archive:
            for one in members:
                info = zipfile.ZipInfo(one.name + "/" * (one.kind == "folder"))
                info.create_system = 3
                info.compress_type = how
                info.external_attr = (0o120777 if one.kind == "link" else 0o644) << 16
                archive.writestr(info, one.content)
        return
    formats = {"ustar": tarfile.USTAR_FORMAT, "gnu tar": tarfile.GNU_FORMAT}
    mode = "w:gz" if form == "tar.gz" else "w"
    with tarfile.open(path, mode, format=formats.get(form, tarfile.PAX_FORMAT)) as archive:
        for one in members:
            member = tarfile.TarInfo(one.name)
            member.size, member.type = len(one.content), KINDS.get(one.kind, tarfile.REGTYPE)
            member.linkname = "elsewhere" if "link" in one.kind else ""
            archive.addfile(member, io.BytesIO(one.content))


def read(path: Path) -> list[tuple[str, bytes]]:
    return [(one.name, one.read()) for one in _archives.members(path, LIMITS)]


def read_or_refused(path: Path) -> list[tuple[str, bytes]] | str:
    try:
        return read(path)
    except _archives.Refused as error:
        return str(error)


def files(members: list[Packed]) -> list[tuple[str, bytes]]:
    return [(one.name.removeprefix("./"), one.content) for one in members if one.kind == "file"]


def size(members: list[Packed]) -> int:
    return sum(max(len(one.content), _archives.BLOCK) for one in members)


@settings(max_examples=60)
@given(members=archives(7), form=st.sampled_from(FORMS))
def test_any_honest_archive_gives_the_files_that_were_packed(
    members: list[Packed], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("packed") / "archive"
    pack(path, form, members)
    assert read(path) == files(members)
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=60)
@given(
    before=archives(3),
    dubious=DUBIOUS,
    after=archives(3),
    form=st.sampled_from(FORMS),
)
def test_any_archive_with_one_dubious_member_is_refused_by_name(
    before: list[Packed],
    dubious: Packed,
    after: list[Packed],
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if "zip" in form and dubious.kind not in IN_ZIP:
        dubious = Packed("../a")
    after = [one._replace(name=f"after/{one.name}") for one in after]
    before = [one._replace(name=f"before/{one.name}") for one in before]
    path = tmp_path_factory.mktemp("packed") / "archive"
    pack(path, form, [*before, dubious, *after])
    with pytest.raises(_archives.Refused) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert list(path.parent.iterdir()) == [path]
    if dubious.kind != "sparse file":  # which is more damage than a trick: its map is missing
        assert repr(dubious.name) in str(error.value)


@settings(max_examples=30)
@given(n_members=st.integers(0, 12), n_bytes=st.integers(0, LIMITS.one), form=st.sampled_from(FORMS))
def test_an_archive_is_refused_from_the_size_that_is_too_much(
    n_members: int, n_bytes: int, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("packed") / "archive"
    members = [Packed(f"{number}", bytes(n_bytes)) for number in range(n_members)]
    pack(path, form, members)
    if size(members) <= LIMITS.all:
        assert read(path) == files(members)
    else:
        with pytest.raises(_archives.Refused, match=f"unpacks to more than {LIMITS.all} bytes"):
            read(path)


@settings(max_examples=100)
@given(
    members=archives(4),
    form=st.sampled_from(FORMS),
    place=st.floats(0, 1, exclude_max=True),
    flip=st.integers(0, 255),
)
def test_a_cut_or_changed_archive_is_refused_or_stays_within_bounds(
    members: list[Packed], form: str, place: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("packed") / "archive"
    pack(path, form, members)
    content = bytearray(path.read_bytes())
    position = int(place * len(content))
    if flip:
        content[position] ^= flip
    else:
        del content[position:]
    path.write_bytes(content)
    outcome = read_or_refused(path)
    assert list(path.parent.iterdir()) == [path]
    if isinstance(outcome, str):
        assert outcome.startswith(str(path))
        return
    assert sum(max(len(content), _archives.BLOCK) for _, content in outcome) <= LIMITS.all
    for name, content_of_one in outcome:
        assert _archives.problem_of(name, len(content_of_one), LIMITS.one) is None
    if form == "tar.gz":  # all of it is under a checksum
        assert outcome == files(members)
    if "zip" in form:  # contents are
        assert {one for _, one in outcome} <= {one.content for one in members}


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06", b"\x1f\x8b", b"hello", bytes(10_000)])
def test_what_is_no_archive_is_refused_or_empty(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(content)
    outcome = read_or_refused(tmp_path / "archive")
    assert outcome == [] or "is truncated or damaged" in outcome


def test_a_tar_archive_with_a_damaged_header_is_refused_and_does_not_end_there(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    pack(path, "ustar", [Packed("a", b"1"), Packed("b", b"2"), Packed("c", b"3")])
    content = bytearray(path.read_bytes())
    content[2 * _archives.BLOCK] ^= 1
    path.write_bytes(content)
    with pytest.raises(_archives.Refused, match="truncated or damaged: bad checksum"):
        read(path)


def test_a_zip_archive_that_lies_about_a_size_does_not_fill_the_memory(tmp_path: Path) -> None:
    path, n_bytes = tmp_path / "archive", 30_000_000
    pack(path, "zip", [Packed("a", bytes(n_bytes))])
    content = bytearray(path.read_bytes())
    offset = content.rindex(b"PK\x01\x02") + 24  # the unpacked size in the central directory
    assert struct.unpack_from("<I", content, offset) == (n_bytes,)
    struct.pack_into("<I", content, offset, LIMITS.one)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(_archives.Refused, match="is truncated or damaged"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < n_bytes / 10
    finally:
        tracemalloc.stop()


def test_a_tar_archive_that_is_nothing_but_zeros_behind_its_end_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    pack(path, "pax tar", [Packed("a", b"1")])
    with gzip.open(path.with_suffix(".gz"), "wb") as file:
        file.write(path.read_bytes() + bytes(20_000_000))
    tracemalloc.start()
    try:
        assert read(path.with_suffix(".gz")) == [("a", b"1")]
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_archive_packed_in_an_unusual_way_is_refused(how: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w", how) as archive:
        archive.writestr("a", bytes(100))
    with pytest.raises(_archives.Refused, match="'a' is neither stored nor deflated; pack it anew"):
        read(tmp_path / "archive")
