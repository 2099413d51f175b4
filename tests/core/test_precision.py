"""Products keep float32's precision on a GPU, unless torch was told otherwise, in old words or new."""

from __future__ import annotations

import subprocess
import sys

import pytest

TOLD = {
    "": (True, False),
    "torch.set_float32_matmul_precision('highest')": (True, False),
    "torch.set_float32_matmul_precision('high')": (False, True),
    "torch.backends.cuda.matmul.allow_tf32 = True": (False, True),
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'": (False, True),
    "torch.backends.cuda.matmul.fp32_precision = 'ieee'": (True, False),
    "torch.backends.fp32_precision = 'tf32'": (False, True),
    "torch.backends.cudnn.allow_tf32 = False": (True, False),
}
"""What a user may say: whether products are exact then, and whether convolutions may take tf32."""

ASK = """
import os, sys
import torch
from metabench.core import device
for line in sys.argv[1:]:
    if not os.fork():
        exec(line)
        device.match_cudnn_tf32()
        print(device.is_exact(), torch.backends.cudnn.conv.fp32_precision == "tf32", flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, line
"""
"""Each line in a process where nothing was said before, but what takes long is imported."""


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    """Return what processes answer in which a line was said."""
    run = subprocess.run([sys.executable, "-c", ASK, *TOLD], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return dict(zip(TOLD, map(str.split, run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("line", TOLD)
def test_convolutions_are_as_exact_as_matrix_products(line: str, answers: dict[str, list[str]]) -> None:
    assert answers[line] == [str(word) for word in TOLD[line]]
