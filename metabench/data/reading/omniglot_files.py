"""Reading Omniglot's drawings out of the official archives, or out of folders unpacked from them."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from metabench.core import MetabenchError
from metabench.data.reading import archives
from metabench.data.reading import fetch as _fetch
from metabench.data.reading.cache import Array, Key, cached, checksum

FOLDER = "omniglot"
SETS = ("images_background", "images_evaluation")
N_DRAWINGS = 20
SIDE = 105
VERSION = 2
"""Raised when the same files give other bytes."""

URL = "https://github.com/brendenlake/omniglot/raw/master/python"
MD5 = {
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
DOWNLOAD = "To download: metabench datasets fetch omniglot"
LARGEST = 100_000
"""Bytes of one drawing at most; a real one has a few hundred."""

LARGEST_IN_ALL = 500_000_000
"""Bytes of an unpacked archive at most; the real ones have some 10 million."""

RESIZES = ("box", "nearest", "bilinear", "hamming", "bicubic", "lanczos")
MEMBER = re.compile(r"(?:images_background|images_evaluation)/([^/]+/character\d\d)/(\d{4}_\d\d\.png)")

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)
"""What reading a member of a damaged archive may raise."""

NO_PICTURE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What decoding a damaged PNG may raise."""

Open = Callable[[], bytes]
Drawings = dict[str, dict[str, Open]]
"""Characters to file names to what reads them."""


def is_here(root: Path | None) -> bool:
    """Say whether both sets are under root, packed or not."""
    return root is not None and all(_source(root / FOLDER, name) for name in SETS)


def sources(root: Path | None) -> list[Path]:
    """List the archives or folders of both sets that are under root."""
    found = [_source(root / FOLDER, name) for name in SETS] if root is not None else []
    return [source for source in found if source is not None]


def fetch(root: Path, order: _fetch.Order) -> None:
    """Fetch the official archives of the sets that are not here."""
    base = (order.url or URL).rstrip("/")
    client = _fetch.Client(base, 1)
    folder = root / FOLDER
    with _fetch.alone(folder, order.told):
        for name in SETS:
            if source := _source(folder, name):
                order.told(f"{source} is here already")
                continue
            client.save(f"{base}/{name}.zip", folder / f"{name}.zip", MD5[name], order.progress)


def read(root: Path | None, characters: list[str], resize: str = "box") -> Array:
    """Return white strokes on black, uint8 [character, drawer, 28, 28], in the order asked for."""
    if root is None:
        raise MetabenchError(
            f"omniglot: METABENCH_DATA is not set; set it to the folder that holds {FOLDER}/. {DOWNLOAD}"
        )
    sources = [_source(root / FOLDER, name) for name in SETS]
    missing = [name for name, source in zip(SETS, sources, strict=True) if source is None]
    if missing:
        lacks = " and ".join(f"neither {name}.zip nor a folder {name}" for name in missing)
        raise MetabenchError(f"omniglot: {root / FOLDER} holds {lacks}. {DOWNLOAD}")
    found = [source for source in sources if source is not None]
    files = [file for source in found for file in _files(source)]
    names = [str(file.relative_to(root)) for file in files]
    key = Key(checksum(files), (VERSION, PIL.__version__, names, characters, resize))
    return cached("omniglot", key, lambda: _decode(found, characters, resize))


def _source(folder: Path, name: str) -> Path | None:
    """Return the archive of a set, or else its folder, or None."""
    packed, unpacked = folder / f"{name}.zip", folder / name
    return packed if packed.is_file() else unpacked if unpacked.is_dir() else None


def _files(source: Path) -> list[Path]:
    """List the archive of a set, or the drawings in its folder."""
    return [source] if source.is_file() else sorted(source.glob("*/*/*.png"))


def _decode(sources: list[Path], characters: list[str], resize: str) -> Array:
    with ExitStack() as stack:
        drawings: Drawings = {}
        for source in sources:
            members = _packed(source, stack) if source.is_file() else _unpacked(source)
            for member, opens in members:
                if match := MEMBER.fullmatch(member):  # whatever else lies there is left alone
                    drawings.setdefault(match[1], {})[match[2]] = opens
        _check_counts(sources[0].parent, drawings, characters)
        images = np.empty((len(characters), N_DRAWINGS, 28, 28), np.uint8)
        for row, character in enumerate(characters):
            for column, name in enumerate(sorted(drawings[character])):
                images[row, column] = _image(drawings[character][name], f"{character}/{name}", resize)
    return images


def _packed(path: Path, stack: ExitStack) -> Iterator[tuple[str, Open]]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise _damage(path, error) from error

    def read_member(info: zipfile.ZipInfo) -> bytes:
        try:
            return archives.unzipped(archive, info)
        except DAMAGE as error:
            raise _damage(path, error) from error

    _check_members(path, archive.infolist())
    for info in archive.infolist():
        yield info.filename, lambda info=info: read_member(info)  # type: ignore[misc]


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse what no honest archive of drawings holds; nothing of it would be unpacked anyway."""
    for info in members:
        largest = LARGEST if MEMBER.fullmatch(info.filename) else LARGEST_IN_ALL
        problem = archives.problem_of(info.filename, info.file_size, largest, archives.is_link(info))
        if problem:
            raise MetabenchError(
                f"omniglot: {path}: {info.filename!r} {problem}. Replace the archive. {DOWNLOAD}"
            )
    total = sum(info.file_size for info in members)
    if total > LARGEST_IN_ALL:
        raise MetabenchError(
            f"omniglot: {path}: unpacks to {total} bytes, must be at most {LARGEST_IN_ALL}. Replace the "
            f"archive. {DOWNLOAD}"
        )


def _unpacked(folder: Path) -> Iterator[tuple[str, Open]]:
    for path in folder.glob("*/*/*.png"):
        yield path.relative_to(folder.parent).as_posix(), path.read_bytes


def _damage(path: Path, error: Exception) -> MetabenchError:
    size = path.stat().st_size
    return MetabenchError(
        f"omniglot: {path} ({size} bytes) is truncated or damaged: {error}. Replace it. {DOWNLOAD}"
    )


def _check_counts(folder: Path, drawings: Drawings, characters: list[str]) -> None:
    """Refuse anything but 20 drawings of each of the 1,623 characters."""
    expected = dict.fromkeys(characters, N_DRAWINGS)
    wrong = [
        f"{character}: {n} drawings, must be {expected.get(character, 0)}"
        for character in sorted({*characters, *drawings})
        if (n := len(drawings.get(character, {}))) != expected.get(character, 0)
    ]
    if not wrong:
        return
    alphabets = Counter(line.split("/")[0] for line in wrong)
    some = "\n".join(f"  {line}" for line in wrong[:8])
    more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
    raise MetabenchError(
        f"omniglot: {folder} must hold {len(characters)} characters x {N_DRAWINGS} drawings; "
        f"{len(wrong)} characters of {', '.join(alphabets)} do not fit:\n{some}{more}\n"
        f"Replace the files. {DOWNLOAD}"
    )


def _image(opens: Open, name: str, resize: str) -> Array:
    """Decode one drawing; resizing by area ("box") keeps the weight of its strokes."""
    try:
        with Image.open(io.BytesIO(opens()), formats=("PNG",)) as image:
            if image.size != (SIDE, SIDE):
                raise _not_a_drawing(name, f"must be {SIDE}x{SIDE} pixels, but is {image.size}")
            small = image.convert("L").resize((28, 28), Image.Resampling[resize.upper()])
            return 255 - np.asarray(small)
    except NO_PICTURE as error:
        raise _not_a_drawing(name, f"is not a picture ({error})") from error


def _not_a_drawing(name: str, problem: str) -> MetabenchError:
    return MetabenchError(f"omniglot: {name}: {problem}. Replace the files. {DOWNLOAD}")
