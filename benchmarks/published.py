"""Published results and the settings behind them: facts for `reproduce.py`, with their sources.

"Second hand" says that a number was seen quoted by others, not in the paper itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from metabench.leaderboard import published as figures


class Cell(NamedTuple):
    """One published number and how to come to it."""

    name: str
    algorithm: str
    published: float | None  # accuracy in percent, or mean squared error
    published_ci: float | None  # half-width as published
    source: str
    task: dict[str, Any]
    network: dict[str, Any]
    settings: dict[str, Any]
    tasks: int  # meta-train tasks of the publication
    short: int  # meta-train tasks of the two-core subset; 0 where the cell is not in it
    test_tasks: int
    deviations: str


PAPER_CONV = {
    "name": "conv4",
    "width": 64,
    "shrink": "stride",
    "readout": "mean",
    "batch_norm": "transductive",
}
"""The MAML paper's Omniglot network: stride 2 instead of pooling, and a head on the mean over pixels."""

CONV = {"name": "conv4", "width": 64, "batch_norm": "transductive"}


def omniglot(
    way: int, algorithm: str, published: tuple[float, float | None], source: str, **changes: Any
) -> Cell:
    """Describe one 1-shot cell of the Omniglot table; one query a class in meta-training unless changed."""
    cell = Cell(
        name=f"omniglot-{way}w1s-{algorithm}",
        algorithm=algorithm,
        published=published[0],
        published_ci=published[1],
        source=source,
        task={"dataset": "omniglot", "way": way, "shot": 1, "query": 1, "test_query": 15},
        network=PAPER_CONV,
        settings={},
        tasks=60_000 * 32,
        short=0,
        test_tasks=1000,
        deviations="Vinyals' classes; rotations are classes in meta-train and absent from meta-test; torch's "
        "own first weights; weights of the best meta-validation; 15 test queries a class",
    )
    return cell._replace(**changes)


# The authors' loss is a sum over the classes of a shot, so with a mean the inner rate is `way` times theirs.
MAML_5 = {"inner_lr": 0.4 * 5, "inner_steps": 1, "eval_steps": 3, "outer_lr": 1e-3, "task_batch_size": 32}
MAML_SHORT = {
    "inner_lr": 0.4,
    "inner_steps": 1,
    "eval_steps": 3,
    "outer_lr": 3e-3,
    "cosine": True,
    "task_batch_size": 16,
}
MAML_20 = {"inner_lr": 0.1 * 20, "inner_steps": 5, "outer_lr": 1e-3, "task_batch_size": 16}
MAML_PP = {
    "inner_lr": 0.1,
    "inner_steps": 5,
    "outer_lr": 1e-3,
    "task_batch_size": 8,
    "multi_step_fraction": 0.1,
    "first_order_fraction": 0.5,
    "final_lr_fraction": 0.01,
}
PROTONET = {"outer_lr": 1e-3, "task_batch_size": 1}
PROTO_TASK = {"dataset": "omniglot", "shot": 1, "query": 5, "test_query": 15}
PROTO_NOTE = (
    "trained at the way it is tested at, not at 60; constant outer rate; transductive batch norm; rotations "
    "are classes in meta-train; weights of the best meta-validation"
)

OMNIGLOT = [
    omniglot(5, "maml", (98.7, 0.4), "Finn et al. 2017, second hand", settings=MAML_5),
    omniglot(
        5,
        "maml",
        (98.7, 0.4),
        "Finn et al. 2017, second hand",
        name="omniglot-5w1s-maml-short",
        settings=MAML_SHORT,
        network={"name": "conv4", "width": 32, "batch_norm": "transductive"},
        task={"dataset": "omniglot", "way": 5, "shot": 1, "query": 5, "test_query": 15},
        tasks=60_000,
        short=60_000,
        deviations="settings and network of our own for a run of minutes: pooling instead of strides, 32 "
        "channels, 5 training queries a class, and an outer rate that falls; rotations are classes in "
        "meta-train; weights of the best meta-validation",
    ),
    omniglot(5, "fomaml", (98.3, 0.5), "Nichol et al. 2018, second hand", settings=MAML_5),
    omniglot(
        5,
        "maml_pp",
        (99.47, None),
        "Antoniou et al. 2019, second hand: ensemble of 5",
        settings=MAML_PP,
        network=CONV,
        tasks=400_000,
    ),
    omniglot(
        5,
        "protonet",
        (98.8, None),
        "Snell et al. 2017, second hand",
        settings=PROTONET,
        network=CONV,
        task=PROTO_TASK | {"way": 5},
        tasks=200_000,
        short=16_000,
        deviations=PROTO_NOTE,
    ),
    omniglot(20, "maml", (95.8, 0.3), "Finn et al. 2017, second hand", settings=MAML_20, tasks=60_000 * 16),
    omniglot(
        20, "fomaml", (89.4, 0.5), "Nichol et al. 2018, second hand", settings=MAML_20, tasks=60_000 * 16
    ),
    omniglot(
        20,
        "maml_pp",
        (97.65, 0.05),
        "Antoniou et al. 2019, second hand: ensemble of 5, over seeds",
        settings=MAML_PP,
        network=CONV,
        tasks=400_000,
    ),
    omniglot(
        20,
        "protonet",
        (96.0, None),
        "Snell et al. 2017, second hand",
        settings=PROTONET,
        network=CONV,
        task=PROTO_TASK | {"way": 20},
        tasks=200_000,
        deviations=PROTO_NOTE,
    ),
]

CLOUDERA_SHORT = {(20, 5, 1): 50_000, (20, 5, 5): 15_000, (20, 5, 10): 7_000}
"""Drawings of a class, ways and shots to the meta-train tasks of the two-core subset."""


def cloudera(cell: dict[str, Any]) -> Cell:
    """Describe one of the twelve cells of Cloudera Fast Forward's report: as many queries as shots."""
    pool, way, shot = (cell[key] for key in ("examples_per_class", "way", "shot"))
    (published,) = cell["figures"]
    is_large = pool == 100
    settings: dict[str, Any] = {
        "inner_lr": 0.01 if is_large else 0.005,
        "inner_steps": 5,
        "outer_lr": 1e-3 if is_large else 5e-4,
        "task_batch_size": 25 if is_large else 10,
    }
    task = {
        "dataset": "quickdraw",
        "split": "cloudera",
        "options": {"examples_per_class": pool},
        "way": way,
        "shot": shot,
        "query": shot,
        "test_query": 15,
    }
    return Cell(
        name=f"quickdraw{pool}-{way}w{shot}s-maml",
        algorithm="maml",
        published=published["percent"],
        published_ci=None,
        source=published["source"],
        task=task,
        network={"name": "conv4", "width": 20, "batch_norm": "transductive"},
        settings=settings,
        tasks=5_000 * settings["task_batch_size"],
        short=CLOUDERA_SHORT.get((pool, way, shot), 0),
        test_tasks=1000,
        deviations="weights of the best meta-validation instead of the last; 15 test queries a class; "
        "no convolution bias (batch norm cancels it)",
    )


CELLS_OF_CLOUDERA = [cloudera(cell) for cell in figures.cells()["quickdraw"]["cells"]]


def sinusoid(name: str, algorithm: str, **settings: Any) -> Cell:
    """Describe the 10-shot sinusoid; the MAML paper shows curves and prints no number."""
    return Cell(
        name=f"sinusoid-10s-{name}",
        algorithm=algorithm,
        published=None,
        published_ci=None,
        source="Finn et al. 2017, figure 3: no number is printed",
        task={"dataset": "sinusoid", "way": 1, "shot": 10, "query": 10, "test_query": 10},
        network={"name": "mlp", "width": 40, "depth": 2, "norm": "none"},
        settings={"inner_steps": 1, "inner_lr": 0.01, "outer_lr": 1e-3, "task_batch_size": 25} | settings,
        tasks=70_000 * 25,
        short=500_000,
        test_tasks=600,
        deviations="functions and points come from a fixed table; torch's own first weights; weights of the "
        "best meta-validation instead of the last",
    )


SINUSOID = [
    sinusoid("maml", "maml"),
    sinusoid("fomaml", "fomaml"),
    sinusoid("meta_sgd", "meta_sgd"),
    # joint training on all functions, then one step: what meta-learning has to beat
    sinusoid("joint", "maml", inner_steps=0, eval_steps=1),
]

CELLS = [*SINUSOID, *OMNIGLOT, *CELLS_OF_CLOUDERA]
