"""What every test shares: one thread, a cache of its own, and data that may be absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from metabench.training import diagnostics
from tests.support import small

torch.set_num_threads(1)

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's
hypothesis.settings.load_profile("untimed")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for a GPU run in Triton's interpreter, on the CPU

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the session one cache folder: glyphs are rendered once, the user's own is untouched."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METABENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def little_after_training() -> Iterator[None]:
    """Look at few tasks and inner steps after a training: all of them take most of what a small one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "STEPS", 2)
        small.look_at_little(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Write without waiting until it is safe on disk: no test cuts the power, and a busy disk is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real data, or skip where there is none."""
    root = os.environ.get("METABENCH_DATA")
    if not root:
        pytest.skip("METABENCH_DATA is not set: no real data to test on")
    if not Path(root).is_dir():
        pytest.skip(f"METABENCH_DATA={root} is not a folder")
    return Path(root)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Return each device that this machine has."""
    return request.param
