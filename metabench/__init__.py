"""Search, train and compare meta-learning algorithms that learn from a handful of examples."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabench.predict import FewShotClassifier as FewShotClassifier
    from metabench.predict import load as load

__version__ = "0.1.0"

PROTOCOL = 3
"""Raised when results stop being comparable; a leaderboard refuses to mix protocols."""


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which a command that only reads a board need not wait for.
    if name in ("load", "FewShotClassifier"):
        from metabench import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'metabench' has no attribute {name!r}")
