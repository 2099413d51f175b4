"""Tables that are opened as spreadsheets: what a user has named is a text there, and never a formula."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from metabench import leaderboard
from metabench.report.exports import tables
from tests.leaderboard.folders import make_run


def test_a_folder_with_the_name_of_a_formula_is_none_in_any_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "=HYPERLINK(1)", "protonet", 7, 0.5)
    shown = leaderboard.leaderboard([folder])
    sources = leaderboard.read([folder])
    tables.write(tmp_path / "out", tables.tables(sources, shown))
    texts = [leaderboard.as_csv(shown), *(path.read_text() for path in (tmp_path / "out").glob("*.csv"))]
    cells = [cell for text in texts for row in csv.reader(io.StringIO(text)) for cell in row]
    assert [cell for cell in cells if cell.startswith("=")] == []
    assert any("'=HYPERLINK(1)" in cell for cell in cells)
    exact = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    assert "=HYPERLINK(1)" in exact.to_csv()
    assert "'=HYPERLINK(1)" not in exact.to_csv()
