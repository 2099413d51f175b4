"""A leaderboard in Python: what it says in words, its rows as a table, and its best row as a classifier."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from metabench.core import MetabenchError
from metabench.leaderboard import assemble, read
from metabench.leaderboard.table import as_html, as_table, flat
from metabench.storage import files
from metabench.storage.records import open_place

if TYPE_CHECKING:
    from pandas import DataFrame

    from metabench.predict import FewShotClassifier

WIDTH = 110
"""Characters of a line where a board is printed."""


class Board:
    """The leaderboard of searches and runs, as it stood when it was made."""

    def __init__(self, folders: Sequence[str | os.PathLike[str]], published: bool = False) -> None:
        if not folders:
            raise MetabenchError("a leaderboard needs at least one folder of a search or a run")
        self.folders = [
            open_place(folder if isinstance(folder, str) else str(files.path_of(folder, "folders")))
            for folder in folders
        ]
        self.record = assemble(read(self.folders), published)
        """All of it, as in leaderboard.json."""

    @property
    def answer(self) -> str:
        """Return in words which row is best, and how sure that is."""
        return str(self.record["answer"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, the best first, as in leaderboard.json."""
        return list(self.record["rows"])

    @property
    def folder(self) -> Path:
        """Return the folder of the search or the run, where the board is of one."""
        if len(self.folders) > 1:
            listed = ", ".join(map(str, self.folders))
            raise MetabenchError(f"the board is of several folders ({listed}); give one of them to load")
        return self.folders[0]

    @property
    def best(self) -> str:
        """Return the row that `load` opens, such as maml:tuned: the best tuned one by confirmation."""
        return self.load().members.row

    def load(self, row: str | None = None, device: str = "cpu") -> FewShotClassifier:
        """Open a row of the search as a classifier of new classes; see `metabench.load`."""
        from metabench import predict

        return predict.load(self.folder, row, device=device)

    def to_pandas(self) -> DataFrame:
        """Return a row for each row: accuracies in [0, 1] or errors; hyperparameters as JSON."""
        import pandas as pd

        return pd.DataFrame([flat(row) for row in self.rows]).convert_dtypes()

    def __repr__(self) -> str:
        """Write it as the command line prints it."""
        console = Console(file=io.StringIO(), width=WIDTH, force_jupyter=False, color_system=None)
        with console.capture() as capture:
            console.print(as_table(self.record))
        return capture.get().rstrip()

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return as_html(self.record)


def leaderboard(*folders: str | os.PathLike[str], published: bool = False) -> Board:
    """Rank the algorithms of searches and runs, finished or running.

    Args:
        folders: folders or addresses.
        published: show published figures of the same setting beside what was measured.
    """
    return Board(folders, published)
