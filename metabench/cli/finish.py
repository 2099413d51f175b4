"""What `finish` does: a request beside a search that runs, in another process or on another machine."""

from __future__ import annotations

import typer

from metabench.cli.show import Folder


def finish(folder: Folder) -> None:
    """Ask a search to finish now: what there is is confirmed and tested, and the board says what is missing.

    It may run meanwhile, or be continued later. During the final runs, those that have ended are tested.
    """
    from metabench.search.progress.finish import ask
    from metabench.storage.records import open_place

    typer.echo(ask(open_place(folder)))
