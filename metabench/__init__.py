"""Search, train and compare meta-learning algorithms that learn from a handful of examples."""

import importlib
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabench import data as data
    from metabench import predict as predict
    from metabench.api.boards import Board as Board
    from metabench.api.boards import leaderboard as leaderboard
    from metabench.api.labelling import Labels as Labels
    from metabench.api.labelling import label as label
    from metabench.api.results import Result as Result
    from metabench.api.runs import Run as Run
    from metabench.api.runs import test as test
    from metabench.api.runs import train as train
    from metabench.api.searches import search as search
    from metabench.core import MetabenchError as MetabenchError
    from metabench.predict import FewShotClassifier as FewShotClassifier
    from metabench.predict import load as load

__version__ = "0.1.0"

PROTOCOL = 3
"""Raised when results stop being comparable; a leaderboard refuses to mix protocols."""

CALLED = {"search": "metabench.api.searches", "leaderboard": "metabench.api.boards"}
"""Packages that are called as the function of their name, to where that is."""

PACKAGES = (*CALLED, "data", "predict")
"""Packages that need no import of their own."""

NAMES = {
    **dict.fromkeys(("load", "FewShotClassifier"), "metabench.predict"),
    **dict.fromkeys(("train", "test", "Run"), "metabench.api.runs"),
    **dict.fromkeys(("label", "Labels"), "metabench.api.labelling"),
    "Result": "metabench.api.results",
    "Board": "metabench.api.boards",
    "MetabenchError": "metabench.core",
}
"""Names that are imported when they are asked for, to where they are."""


class CalledPackage(types.ModuleType):
    """A package that can be called as the function of its name.

    An import of a package binds it in the place of any function of its name, whichever came first. So the one
    object is both, and neither order of imports changes what a name means.
    """

    @property
    def function(self) -> Any:
        """Return the function."""
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(CALLED[name]), name)

    def __getattr__(self, name: str) -> Any:
        """Say what the function takes, where a notebook asks; of the class itself there is no such thing."""
        if name == "__signature__":
            return importlib.import_module("inspect").signature(self.function)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Let a function that uses it be sent to another process, as with any module."""
        return importlib.import_module, (self.__name__,)


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, which a command that only reads a board need not wait for.
    if name in PACKAGES:
        return importlib.import_module(f"metabench.{name}")
    if name in NAMES:
        return getattr(importlib.import_module(NAMES[name]), name)
    raise AttributeError(f"module 'metabench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PACKAGES, *NAMES})
