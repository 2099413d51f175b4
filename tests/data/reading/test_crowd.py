"""Of processes that load the same data at once, one decodes and all read the same, though one be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

N_PROCESSES = 8
N_CLASSES, N_IMAGES = 12, 50


def images(folder: Path) -> Path:
    for row in range(N_CLASSES):
        (folder / f"class{row}").mkdir(parents=True)
        for column in range(N_IMAGES):
            image = np.full((4, 4), 20 * row + column % 20, np.uint8)
            Image.fromarray(image).save(folder / f"class{row}" / f"{column}.png")
    return folder


class Crowd:
    """Processes that share a cache; what they decode is logged."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache, self.log = tmp_path / "cache", tmp_path / "log"

    def load(self, n: int, die_after: int, dataset: str, *options: str) -> dict[str, Any]:
        self.log.write_text("")
        environment = {**os.environ, "METABENCH_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "tests.data.reading.crowd",
            str(n),
            str(self.log),
            str(die_after),
            dataset,
        ]
        run = subprocess.run(
            [*command, *options],
            env=environment,
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return dict(json.loads(run.stdout))

    def decoded(self) -> list[int]:
        """Return how many images each process decoded that decoded any."""
        return sorted(Counter(self.log.read_text().split()).values())

    def kept(self) -> list[str]:
        """Return the suffixes of what is in the cache beside the checksum of the source."""
        (checksum,) = self.cache.glob("checksum-*.npy")
        return sorted(path.suffix for path in self.cache.iterdir() if path != checksum)


@pytest.fixture
def crowd(tmp_path: Path) -> Crowd:
    return Crowd(tmp_path)


def test_of_eight_processes_one_decodes_a_folder_and_all_read_the_same(tmp_path: Path, crowd: Crowd) -> None:
    options = [f"path={images(tmp_path / 'images')}", "size=4", "channels=1"]
    together = crowd.load(N_PROCESSES, 0, "folder", *options)
    assert together["codes"] == [0] * N_PROCESSES
    assert len(set(together["fingerprints"])) == 1
    assert crowd.decoded() == [N_CLASSES * N_IMAGES]
    assert crowd.kept() == [".npy"], "neither lock nor half a file is left"


def test_a_process_killed_while_it_writes_leaves_nothing_that_others_take_for_whole(
    tmp_path: Path, crowd: Crowd
) -> None:
    options = [f"path={images(tmp_path / 'images')}", "size=4", "channels=1"]
    last = N_CLASSES * N_IMAGES - 50
    alone = crowd.load(1, last, "folder", *options)
    assert alone["codes"] == [-9]
    assert ".tmp" in crowd.kept()
    assert ".npy" not in crowd.kept()
    (half,) = crowd.cache.glob("*.tmp")
    assert half.stat().st_size > 0
    crowd.log.with_suffix(".killed").unlink()
    together = crowd.load(N_PROCESSES, last, "folder", *options)  # again one of them dies
    assert sorted(together["codes"]) == [-9, *[0] * (N_PROCESSES - 1)]
    assert len(set(together["fingerprints"])) == 1
    few, all_of_them = crowd.decoded()
    assert few < all_of_them == N_CLASSES * N_IMAGES
    assert crowd.kept() == [".npy"], "what the dead left is gone"
    crowd.cache = tmp_path / "another"
    assert crowd.load(1, 0, "folder", *options)["fingerprints"][0] == together["fingerprints"][0]


@pytest.mark.slow
def test_of_eight_processes_one_decodes_omniglot_and_all_read_the_same(data_root: Path, crowd: Crowd) -> None:
    together = crowd.load(N_PROCESSES, 0, "omniglot", "rotations=false")
    assert together["codes"] == [0] * N_PROCESSES
    assert len(set(together["fingerprints"])) == 1
    assert crowd.decoded() == [1623 * 20]
    assert crowd.kept() == [".npy"]
