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
from metabench.core import device
device.match_cudnn_tf32()
print(device.is_exact(), torch.backends.cudnn.conv.fp32_precision == "tf32")
"""


@pytest.mark.parametrize("line", TOLD)
def test_convolutions_are_as_exact_as_matrix_products(line: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import torch\n{line}\n{ASK}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(word) for word in TOLD[line]]
