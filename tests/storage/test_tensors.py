"""Files of tensors: what is read is what was written, or it is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metabench.storage import tensors

TREE = {
    "a": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "b": torch.tensor([True, False]),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "none": torch.zeros(0, 2),
}


def test_tensors_and_text_come_back_as_they_were(tmp_path: Path) -> None:
    tensors.save(tmp_path / "x", TREE, {"step": "7", "empty": ""})
    flat, text = tensors.load(tmp_path / "x")
    assert text == {"step": "7", "empty": ""}
    wanted = {"a.weight": TREE["a"]["weight"], "a.count": TREE["a"]["count"]} | {
        name: TREE[name] for name in ("b", "half", "none")
    }
    assert set(flat) == set(wanted)
    assert all(torch.equal(flat[name], wanted[name]) for name in wanted)
    assert all(flat[name].dtype == wanted[name].dtype for name in wanted)


def test_whichever_bit_is_flipped_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tensors.save(path, TREE, {"step": "7"})
    whole = path.read_bytes()
    assert len(whole) < 1000
    for place in range(len(whole)):
        for bit in {0, place % 8}:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(tensors.Damaged, match="is damaged"):
                tensors.load(path)
    path.write_bytes(whole)
    tensors.load(path)


def test_wherever_it_is_cut_off_or_goes_on_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tensors.save(path, TREE, {})
    whole = path.read_bytes()
    for content in [*(whole[:length] for length in range(len(whole))), whole + b"\0", whole + whole]:
        path.write_bytes(content)
        with pytest.raises(tensors.Damaged, match="is damaged"):
            tensors.load(path)


def test_a_file_without_a_checksum_is_refused(tmp_path: Path) -> None:
    save_file({"meta.theta": torch.arange(3.0)}, tmp_path / "weights", metadata={"tasks_seen": "20"})
    with pytest.raises(tensors.Damaged, match="is damaged"):
        tensors.load(tmp_path / "weights")


def test_a_file_that_is_not_there_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tensors.load(tmp_path / "x")


def test_the_same_tensors_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    text = {f"entry {number}": str(number) for number in range(20)}
    tensors.save(tmp_path / "here", TREE, text)
    code = (
        "import sys; from pathlib import Path; from tests.storage.test_tensors import TREE, tensors;"
        "tensors.save(Path(sys.argv[1]), TREE, {f'entry {n}': str(n) for n in range(20)})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert tensors.load(tmp_path / "here")[1] == text
