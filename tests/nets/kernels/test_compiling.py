"""The kernels of every setting compile for the GPUs of today, within what one of their programs may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="no Triton for this platform")

ROOT = Path(__file__).parents[3]
SHARED = 99 * 1024
"""Bytes that a program of a GPU of compute capability 8.6 or 8.9 may share; larger ones have more."""


@pytest.mark.parametrize(
    ("arch", "setting", "forms"),
    [
        (80, "seed", 1),
        *(
            pytest.param(*one, 1000, marks=pytest.mark.slow)
            for one in ((80, "seed"), (90, "omni"), (90, "mini"))
        ),
    ],
)
def test_kernels_compile_and_fit(arch: int, setting: str, forms: int, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/compiled.py", "--arch", str(arch), "--setting", setting]
    command += ["--forms", str(forms), "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    compiled = json.loads(run.stdout)
    assert {one["kernel"] for one in compiled} == {
        *("_convolve", "_correlate", "_pool", "_moments", "_spread", "_gather", "_gather_moments"),
        *("_rectify", "_grad", "_grad_of_channels", "_grad_grad", "_grad_grad_of_channels"),
    }
    for one in compiled:
        assert one["stack"] <= 16, one  # what does not fit registers lies in slow memory
        assert one["shared"] <= SHARED, one
        assert (one["matrix_products"] > 0) == (one["kernel"] in ("_convolve", "_correlate")), one
        if one["kernel"] in ("_pool", "_spread", "_gather", "_rectify", "_grad", "_grad_grad"):
            assert one["wide_loads"] > 0, one
