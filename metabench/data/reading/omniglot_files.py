"""Reading Omniglot's drawings out of the official archives, or out of folders unpacked from them."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Mapping
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
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
DOWNLOAD = "To download: metabench datasets fetch omniglot"
LARGEST = 100_000
"""Bytes of one file of an archive at most; a drawing has a few hundred."""

LARGEST_IN_ALL = 500_000_000
"""Bytes of an unpacked archive at most; the real ones have some 10 million."""

RESIZES = ("box", "nearest", "bilinear", "hamming", "bicubic", "lanczos")
MEMBER = re.compile(r"(?:(?:images_background|images_evaluation)/)?([^/]+/character\d\d)/(\d{4}_\d\d\.png)")

NO_PICTURE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What decoding a damaged PNG may raise."""

Drawings = dict[str, dict[str, Array]]
"""Characters to file names to drawings."""


def is_available(root: Path | None) -> bool:
    """Say whether both sets are under root, packed or not."""
    return len(sources(root)) == len(SETS)


def sources(root: Path | None) -> list[Path]:
    """List the archives or folders of both sets that are under root."""
    places = [archives.find(root / FOLDER, f"{name}.zip", name) for name in SETS] if root is not None else []
    return [place for place in places if place is not None]


def fetch(root: Path, order: _fetch.Order) -> None:
    """Fetch the official archives of the sets that are not here."""
    folder = root / FOLDER
    _fetch.archives(
        folder, URL, MD5, lambda name: archives.find(folder, name, name.removesuffix(".zip")), order
    )


def read(root: Path | None, characters: list[str], resize: str = "box") -> Array:
    """Return white strokes on black, uint8 [character, drawer, 28, 28], in the order asked for."""
    if root is None:
        raise MetabenchError(
            f"omniglot: METABENCH_DATA is not set; set it to the folder that holds {FOLDER}/. {DOWNLOAD}"
        )
    places = sources(root)
    missing = [name for name in SETS if name not in {place.name.removesuffix(".zip") for place in places}]
    if missing:
        lacks = " and ".join(f"neither {name}.zip nor a folder {name}" for name in missing)
        raise MetabenchError(f"omniglot: {root / FOLDER} holds {lacks}. {DOWNLOAD}")
    files = [
        file for place in places for file in ([place] if place.is_file() else sorted(place.glob("*/*/*.png")))
    ]
    names = [str(file.relative_to(root)) for file in files]
    key = Key(checksum(files), (VERSION, PIL.__version__, names, characters, resize))
    return cached("omniglot", key, lambda: _decode(places, characters, resize))


def _decode(places: list[Path], characters: list[str], resize: str) -> Array:
    drawings: Drawings = {}
    for place in places:
        try:
            for member in archives.members(place, archives.Limits(LARGEST, LARGEST_IN_ALL)):
                if match := MEMBER.fullmatch(member.name):  # whatever else lies there is left alone
                    image = _image(member.read(), f"{match[1]}/{match[2]}", resize)
                    drawings.setdefault(match[1], {})[match[2]] = image
        except archives.Refused as error:
            raise MetabenchError(f"omniglot: {error}. Replace it. {DOWNLOAD}") from error
    _check_counts(places[0].parent, drawings, characters)
    return np.stack([[drawings[one][name] for name in sorted(drawings[one])] for one in characters])


def _check_counts(folder: Path, drawings: Mapping[str, Mapping[str, Array]], characters: list[str]) -> None:
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


def _image(content: bytes, name: str, resize: str) -> Array:
    """Decode one drawing; resizing by area ("box") keeps the weight of its strokes."""
    problem = ""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size == (SIDE, SIDE):
                small = image.convert("L").resize((28, 28), Image.Resampling[resize.upper()])
                return 255 - np.asarray(small)
            problem = f"must be {SIDE}x{SIDE} pixels, but is {image.size}"
    except NO_PICTURE as error:
        problem = f"is not a picture ({error})"
    raise MetabenchError(f"omniglot: {name}: {problem}. Replace the files. {DOWNLOAD}")
