"""Images that are larger than memory are mapped, never read as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabench.data.reading import cache

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")

MB, GB = 10**6, 10**9
SIDE = 84


def load(cache: Path, dataset: str, path: Path, *options: str) -> dict[str, Any]:
    """Load a data set in a process of its own, under a cache of its own, and return what it took."""
    environment = {**os.environ, "METABENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.data.reading.large", dataset, str(path), *options]
    run = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


def write_arrays(folder: Path, n_bytes: int) -> int:
    """Write images of random pixels, a block repeated with a number in its corner, and their labels."""
    folder.mkdir()
    n = n_bytes // (SIDE * SIDE * 3)
    block = np.random.default_rng(0).integers(0, 256, (500, SIDE, SIDE, 3), np.uint8)
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, SIDE, SIDE, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, len(block)):
            block[:, 0, 0, 0] = start // len(block) % 256
            file.write(block[: n - start].data)
    np.save(folder / "labels.npy", np.arange(n) * 100 // n)
    return n * SIDE * SIDE * 3


def write_folder(folder: Path, n_images: int) -> None:
    """Write small images of 40 classes, which loading makes large."""
    for number in range(n_images):
        path = folder / f"class{number % 40:02}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), number % 256, np.uint8)).save(path)


def check(took: dict[str, Any], n_bytes: int, most: int) -> None:
    """Check that a table of some size was loaded within some memory, that of the libraries included."""
    assert took["table"] >= n_bytes
    assert took["anonymous"] < most, took
    assert 0.1 < took["mean"] < 0.9


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_loading_arrays_takes_far_less_memory_than_they_have(tmp_path: Path, form: str) -> None:
    path = tmp_path / "arrays"
    n_bytes = write_arrays(path, 200 * MB)
    if form == "archive":
        with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as archive:
            for name in ("images.npy", "labels.npy"):
                archive.write(path / name, name)
        path = tmp_path / "arrays.npz"
    took = load(tmp_path / "cache", "array", path)
    check(took, n_bytes, took["before"] + 100 * MB)  # a block is 67 MB


@pytest.mark.parametrize("mode", ["read", "written"])
def test_a_kept_array_may_be_larger_than_the_memory_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    swap = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "SwapTotal" in line)
    n_rows = (total + int(swap.split()[1]) * 1024) // 2**20 + 100

    def write(path: Path) -> None:
        with cache.table_file(path, (n_rows, 2**20)) as put:  # a hole: it takes no space
            put(n_rows - 1, 2**20 - 2, np.array([7], np.uint8))

    for _ in range(2 if mode == "read" else 1):
        array = cache.kept("large", 1, write)
        assert array.shape == (n_rows, 2**20)
        assert array[-1, -2:].tolist() == [7, 0]
        array[0, 0] = 1  # stays with the process that writes
    assert cache.kept("large", 1, write)[0, 0] == 0


@pytest.mark.slow
def test_ten_gigabytes_are_loaded_in_less_than_two(tmp_path: Path) -> None:
    n_bytes = write_arrays(tmp_path / "arrays", 10 * GB)
    first = load(tmp_path / "cache", "array", tmp_path / "arrays")
    check(first, n_bytes, 2 * GB)
    again = load(tmp_path / "cache", "array", tmp_path / "arrays")
    check(again, n_bytes, 2 * GB)
    assert again["fingerprint"] == first["fingerprint"]


@pytest.mark.slow
def test_a_folder_that_decodes_to_ten_gigabytes_is_loaded_in_less_than_two(tmp_path: Path) -> None:
    n_images = 10 * GB // (1024 * 1024 * 3) + 1
    write_folder(tmp_path / "images", n_images)
    took = load(tmp_path / "cache", "folder", tmp_path / "images", "size=1024")
    check(took, 10 * GB, 2 * GB)
