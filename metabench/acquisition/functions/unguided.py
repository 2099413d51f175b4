"""The two ends that all else lies between: chance, and who knows every label."""

from __future__ import annotations

from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose


def random(view: View, b: int, noise: Tensor) -> Tensor:
    return choose.best(noise[0], view.taken, b)


ACQUISITIONS = {
    "random": Acquisition(random, "Each example that is left, equally likely; without replacement."),
    "oracle": Acquisition(
        None,
        "Whichever label, added to those there are, leaves the task's own queries classified best, and of "
        "equals the one of the lowest cross-entropy: one step ahead, so no bound over several. It looks at "
        "labels and queries, and says how much room there is; nobody can use it.",
    ),
}
