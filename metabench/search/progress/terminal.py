"""What a search shows while it runs: bars of its phases on a terminal, else a line when it has been silent.

It imports little, since it begins before what a search needs is imported.
"""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from metabench.search.progress import view

SILENT_SECONDS = 5.0
"""Longest silence at the beginning, where lines are printed."""

SILENT_SHARE = 1 / 12
"""Longest silence later, as a share of the time so far."""

MOST_SILENT_SECONDS = 300.0

REFRESHES = 2
"""Times a second that a terminal is drawn."""


class Terminal:
    """The error stream of a search, so that its output stays clean for programs."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, force_jupyter=False)
        self.begun = time.monotonic()
        self.stage = next(iter(view.PHASES))
        self.phases: dict[str, dict[str, Any]] = {self.stage: {}}
        self._since = self._spoke = self.begun
        self._standing: dict[str, Any] = {}
        self._table: RenderableType | None = None
        self._live: Live | None = None
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave all out where Ray pickles what says something by it."""
        return {}

    def __enter__(self) -> Terminal:
        """Show, until this is left, what goes on."""
        # A dumb terminal, or one that is only claimed to be there, as in CI, gets lines.
        if self.console.is_interactive and self.console.file.isatty():
            self._live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=REFRESHES)
            self._live.start(refresh=True)
            self.console.show_cursor(True)  # whoever is killed leaves no terminal without one
        elif not self.console.quiet:
            self._ticker = threading.Thread(target=self._break_silence, daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Show nothing any more."""
        self.close()

    def close(self) -> None:
        """Leave the last state on the screen, and show no other."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._live is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._live.stop()
            self._live = None

    @property
    def is_live(self) -> bool:
        """Tell whether the state is drawn, so that lines of it need not be printed."""
        return self._live is not None

    def say(self, text: str) -> None:
        """Print a line."""
        self._spoke = time.monotonic()
        self.console.print(text, soft_wrap=True, markup=False)

    def enter(self, stage: str, total: int | None = None, done: int = 0) -> None:
        """Begin a phase, of which so much is to be done."""
        if stage == self.stage:
            return
        self.phases[self.stage]["seconds"] = time.monotonic() - self._since
        # Another thread draws meanwhile: what it looks up is there, and no dict changes its size under it.
        counted = {} if total is None else {"done": done, "total": total, "before": done}
        self.phases = {**self.phases, stage: counted}
        self.stage, self._since = stage, time.monotonic()

    def advance(self, n_ended: int) -> None:
        """Say how much of the phase has been done since it began."""
        phase = self.phases[self.stage]
        phase["done"] = phase["before"] + n_ended

    def update(self, standing: dict[str, Any], table: RenderableType | None) -> None:
        """Take what is to be shown from now on."""
        self._standing, self._table = standing, table

    def counted(self) -> dict[str, dict[str, Any]]:
        """Return the phases so far: what is counted in them here, and the seconds that they have taken."""
        phases = {name: dict(phase) for name, phase in self.phases.items()}
        phases[self.stage]["seconds"] = time.monotonic() - self._since
        return phases

    def standing(self) -> dict[str, Any]:
        """Return how the search stands at this moment."""
        return {
            **self._standing,
            "stage": self.stage,
            "elapsed": time.monotonic() - self.begun,
            "phases": view.merged(self._standing.get("phases", {}), self.counted()),
            "is_live": self.is_live,
        }

    def _draw(self) -> RenderableType:
        return view.live(self.standing(), self._table)

    def _break_silence(self) -> None:
        while not self._ended.wait(0.5):
            now = time.monotonic()
            longest = min(MOST_SILENT_SECONDS, max(SILENT_SECONDS, SILENT_SHARE * (now - self.begun)))
            if now - self._spoke >= longest - 0.5:
                with contextlib.suppress(OSError, ValueError):  # the stream may be gone
                    self.say(view.line(self.standing()))
