"""Files of tensors: those of the first versions, which have no checksum, are read too."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from metabench import tensors


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    save_file({"meta.theta": torch.arange(3.0)}, tmp_path / "weights", metadata={"tasks_seen": "20"})
    found, text = tensors.load(tmp_path / "weights")
    assert found["meta.theta"].tolist() == [0, 1, 2]
    assert text == {"tasks_seen": "20"}
