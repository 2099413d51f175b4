"""The notebook is run from its first cell to its last, as a reader runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.snippets import ROOT

pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'metabench[test]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'metabench[test]'")

NOTEBOOK = ROOT / "docs" / "guides" / "notebook.ipynb"

# In a process of its own, as what runs a kernel warns of matters of its own.
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbformat.validate(notebook)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "done.ipynb")
"""


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any], kind: str) -> str:
    """Return what a cell shows of a kind."""
    parts = [one.get("data", {}).get(kind, one.get("text", "")) for one in cell["outputs"]]
    return "".join("".join(part) for part in parts)


def test_it_is_kept_without_what_its_cells_show() -> None:
    assert len(cells(NOTEBOOK)) == 10
    assert not [cell for cell in cells(NOTEBOOK) if cell["outputs"] or cell["execution_count"]]


@pytest.mark.slow
def test_its_cells_go_from_pictures_to_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    command = [sys.executable, "-c", RUN, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, look, run, _, results, board, new, predictions, picture, last = cells(tmp_path / "done.ipynb")
    assert "'meta_test': 12" in shown(look, "text/plain")
    assert "runs/protonet-folder-5w1s-seed0" in shown(run, "text/plain")
    assert "protonet" in shown(results, "text/plain")
    assert "nearest_mean" in shown(board, "text/html")
    assert "LEFT PARENTHESIS" in shown(new, "text/plain")
    assert float(shown(predictions, "text/plain").split()[1]) > 0.3  # chance is 0.2
    assert shown(picture, "image/png")
    assert "the same numbers" in shown(last, "text/plain")
    assert not (tmp_path / "my_pictures").exists()
