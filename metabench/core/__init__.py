"""The types that every other module speaks: tasks, splits, the algorithm contract and reports.

Shape letters: P trials, T tasks, N ways, K shots, Q queries, S inner steps, C H W image axes.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from metabench.core.metrics import Metric

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from metabench.core.control import Collected, Environment

Tree = Any
"""A nested dict whose leaves are tensors."""

Logs = Mapping[str, Any]
"""Names to scalar tensors."""


class Labelled(Protocol):
    """What has inputs with labels: any support set, whatever else is in it, and any queries."""

    @property
    def x(self) -> Tensor:
        """Return the inputs."""

    @property
    def y(self) -> Tensor:
        """Return their labels."""


class Support(NamedTuple):
    """The labelled examples that an algorithm adapts to."""

    # [N*K, C, H, W], values in [0, 1]; features: [N*K, D]; regression: [K, D]; control: [S, K*H, O]
    x: Tensor
    y: Tensor  # [N*K], int64 in [0, N); regression: [K, 1]; control: `control.Moves` of [S, K, H]


class SemiSupport(NamedTuple):
    """A support set with images beside it that have no label; distractors may be among them."""

    x: Tensor  # [N*K, C, H, W]
    y: Tensor  # [N*K]
    unlabelled: Tensor  # [(N + D)*U, C, H, W], in random order


class GroupedSupport(NamedTuple):
    """A support set of people, or of what is theirs, some of whom are protected."""

    x: Tensor  # [K, D], without the group
    y: Tensor  # [K], int64, 1 for the outcome that is wanted
    group: Tensor  # [K], int64, 1 for who is protected


class Query(NamedTuple):
    """The labelled examples that adaptation is judged on."""

    x: Tensor  # [N*Q, C, H, W], values in [0, 1]; features: [N*Q, D]; regression: [Q, D]; control: [Q*H, O]
    y: Tensor  # [N*Q], int64 in [0, N); regression: [Q, 1]; control: `control.Moves` of [Q, H]


class GroupedQuery(NamedTuple):
    """The examples that adaptation is judged on, of two groups; a prediction sees x alone."""

    x: Tensor  # [Q, D]
    y: Tensor  # [Q]
    group: Tensor  # [Q]


class Task(NamedTuple):
    """One N-way K-shot problem; after vectorisation every leaf has a leading [T]."""

    support: Support  # or a SemiSupport, where there are images without a label, or a GroupedSupport
    query: Query  # or a GroupedQuery
    # int64 [N], each label's row in the split: what pre-training knows a class by; with fixed labels one of
    # each, -1 where the task lacks the class; where examples have labels of their own, the labels
    classes: Tensor


class Split(NamedTuple):
    """The examples of one split, one class a row: pictures, features, a function's points, a task's rows."""

    # uint8 [class, example, C, H, W]; features: float [class, example, D], taken as they are;
    # regression: float [function, point, D + 1], target last; with `labels`: float [task, row, D + 1], label
    # last, or [task, row, D + 2], label and group last; control: float [environment, D], its parameters
    images: Tensor
    classes: tuple[str, ...]
    domains: tuple[str, ...]  # one a class: alphabet, script, or the data set's name
    # int64 [class], where classes have fewer examples than the table has room for; rows beyond are zeros
    counts: Tensor | None = None
    # float [class], how much likelier a class is to be drawn than another; None: all alike
    weights: Tensor | None = None
    # what images were before a frozen backbone: tasks are hashed by these, so that they are the same tasks
    pictures: Tensor | None = None
    labels: tuple[str, ...] = ()  # of examples that have their own: a row is a task then, and no class
    has_group: bool = False  # whether it is known of these examples who is protected
    # classes by their names after `domain/`, in one order, where the same ones are in all splits; else none
    shared: tuple[str, ...] = ()
    # int64 [class, example], where a task must not have examples of one group in both support and query
    groups: Tensor | None = None
    # int64 [class, example], the row of each in somebody's arrays, by which lists of tasks name it; -1: none
    numbers: Tensor | None = None

    @property
    def words(self) -> list[str]:
        """List the classes by their names after `domain/`, by which two domains share them."""
        pairs = zip(self.classes, self.domains, strict=True)
        return [name.removeprefix(f"{domain}/") for name, domain in pairs]

    @property
    def n_columns(self) -> int:
        """Return how many numbers of an example are its label and its group, and no input."""
        return bool(self.labels) + self.has_group

    @property
    def has_pictures(self) -> bool:
        """Tell whether examples are pictures, not rows of numbers."""
        return self.images.dim() == 5

    @property
    def has_environments(self) -> bool:
        """Tell whether rows are the parameters of environments to act in."""
        return self.images.dim() == 2


class Features(NamedTuple):
    """What features were made of, and by what."""

    picture_shape: tuple[int, ...]  # of what passed the backbone: [C, H, W]
    backbone: str  # its digest


class Pictures(NamedTuple):
    """How a picture becomes an input, but for the size and the channels, which are the input's."""

    background: str = "white"  # what transparent pixels show
    black: float = 0.0  # of numbers that are no bytes
    white: float = 0.0  # of the same; 0: 65535 of whole ones, and 1 with a point
    has_scaled_bytes: bool = False  # whether black and white are those of bytes, too
    resize: str = "bilinear"  # Pillow's filter
    is_inverted: bool = False  # whether what is dark in a picture is light in an input


class Rows(NamedTuple):
    """How a row of numbers becomes an input: each less its mean, over its scale."""

    names: tuple[str, ...]  # of the columns
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Moments(NamedTuple):
    """What numbers were standardised by: those of meta-train, of each band, or of inputs and target."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Splits(NamedTuple):
    """A data set cut into meta-train, meta-validation and meta-test: by class, by picture or by domain."""

    name: str
    meta_train: Split
    meta_validation: Split
    meta_test: Split
    fingerprint: str  # sha256 over names and bytes of all three splits
    kind: str = "classification"  # or "regression", or "control"
    pictures: Pictures | None = None  # None: no picture becomes such an input
    features: Features | None = None  # where images are features of a frozen backbone
    rows: Rows | None = None  # None: rows of numbers are inputs as they are
    environment: Environment | None = None  # of control: what rows are the parameters of
    moments: Moments | None = None  # of numbers that are standardised, or could be

    @property
    def shares_classes(self) -> bool:
        """Tell whether meta-test has other pictures of the classes of meta-train, and no new classes."""
        return self.kind == "classification" and self.meta_test.classes == self.meta_train.classes

    @property
    def is_by_domain(self) -> bool:
        """Tell whether meta-test has other domains than meta-train, and the same classes."""
        return bool(self.meta_test.shared) and not self.shares_classes


GROUPED = "grouped classification"
"""The kind of learners that are told of each example whether it is of the protected group."""

SPLITS = ("meta_train", "meta_validation", "meta_test")
"""The fields of `Splits` that hold classes."""


class Objective(NamedTuple):
    """What a prediction is judged by: the loss that is descended, and the figure that is reported."""

    metric: Metric
    loss: Callable[[Tensor, Any], Tensor]  # (outputs [n, O], y [n] or [n, O], or Moves) -> scalar
    score: Callable[[Tensor, Any], Tensor]  # (outputs, y) -> scalar


HEAD = "head"
"""The name of a network's last, linear layer among its parameters."""


class Net(NamedTuple):
    """A network as pure functions over a nested dict of tensors, one entry a layer.

    `embed(params, x, moments=None)` returns `(features [n, F], moments)`, where moments maps each batch norm
    layer to its `{"mean", "var"}`: those given, or, without any, those of `x` itself. It ignores the head.
    """

    init: Callable[[Generator], Tree]  # of all layers, the head among them
    embed: Callable[..., tuple[Tensor, Tree]]
    features: int  # F
    outputs: int  # the most ways, or the numbers to predict
    way: int  # N of the tasks at hand, or again the numbers to predict; outputs beyond are cut off
    objective: Objective
    batch_norm: str  # where query moments come from; see config.NetworkConfig
    norm_channels: Mapping[str, int]  # the batch norm layers and their channels
    norms: tuple[str, ...]  # the layers that hold a norm's scale and shift, of any kind
    n_classes: int  # of meta-train
    max_activation_numel: int  # numbers in the largest of an example's hidden images
    last_block: tuple[str, ...] = ()  # the layers before the head that are fine-tuned together
    built_of: Hashable = None  # what it was built of: of the same, the same operations; None: not known
    environment: Environment | None = None  # of control: in which it acts


class Aux(NamedTuple):
    """What a task loss returns beside the loss; no gradient flows through it."""

    logs: Logs
    buffers: Tree  # the buffers as this task would have them; averaged over tasks


class Optimizer(NamedTuple):
    """An outer optimiser as two pure functions; `progress` in [0, 1] drives schedules."""

    init: Callable[[Tree], Tree]  # meta -> state
    update: Callable[[Tree, Tree, Tree, float], tuple[Tree, Tree, Logs]]  # (grads, state, meta, progress)
    # (collected, state, meta, progress): of control, in place of update, where it looks at trajectories again
    search: Callable[[Collected, Tree, Tree, float], tuple[Tree, Tree, Logs]] | None = None


def normalised_by(net: Net, h: Any) -> str | None:
    """Return where a query's batch norm moments come from, None where there is no batch norm."""
    return net.batch_norm if net.norm_channels else None


class InnerRates(NamedTuple):
    """Where an algorithm keeps the inner learning rates that it learns."""

    entry: str  # of meta: one rate, or a tree of rates by tensor; left out where none is learnt
    first: str  # the setting that they start from
    is_per_step: bool = False  # whether a tensor has one rate an inner step


class Algorithm(NamedTuple):
    """A meta-learning algorithm, written for one task.

    meta is what is learnt across tasks by gradient; buffers are running statistics that no gradient touches.
    """

    hparams: type  # frozen dataclass of settings
    init: Callable[..., tuple[Tree, Tree]]  # (net, h, generator) -> (meta, buffers)
    task_loss: Callable[..., tuple[Tensor, Aux]]  # (net, meta, buffers, task, h, progress)
    adapt: Callable[..., Tree]  # (net, meta, buffers, support, h) -> learner
    predict: Callable[..., Tensor]  # (net, learner, x) -> logits [n, N]
    optimizer: Callable[[Any], Optimizer]  # (h)
    reference: str  # paper, equation numbers, deviations
    also_called: tuple[str, ...] = ()  # by papers, where more than case, blanks, hyphens or + differs
    kinds: tuple[str, ...] = ("classification",)  # of data sets that it can learn
    is_trained: bool = True  # False: nothing is learnt across tasks, so meta-training is skipped
    check: Callable[[Any], list[str]] = lambda h: []  # what is wrong with settings that are right one by one
    batch_norm: Callable[[Net, Any], str | None] = normalised_by  # (net, h), at evaluation
    inner_steps: tuple[str, ...] = ()  # settings; the first that is not negative counts evaluation's steps
    inner_rates: InnerRates | None = None
    has_recompute: bool = False  # whether its setting `recompute` has an effect
    # (learner of a SemiSupport): how far each unlabelled image counted for the task's classes, [M] of 0 to 1
    taken: Callable[[Tree], Tensor] | None = None  # None: it reads none
    # (net, meta, buffers, support, h): what it says of each support example before its label is shown, and
    # the labels, in the order in which it reads them: logits [n, O] and [n]
    reading: Callable[..., tuple[Tensor, Tensor]] | None = None  # None: it reads them all at once
    # how logits follow from features: "linear"; "prototypes", by squared distances; None: in another way
    head: str | None = None
    # whether adapt and predict see an example through net.embed(meta["theta"], .) alone
    is_of_features: bool = False
    # (h, progress): what task_loss gets for progress: floats to compute with, all else to decide by
    schedule: Callable[[Any, float], Any] = lambda h, progress: progress
    # (h): whether all it says of a class is a comparison with the class's support examples
    compares: Callable[[Any], bool] = lambda h: False


class Report(NamedTuple):
    """What training tells at a rung."""

    tasks_seen: int
    finite: bool  # False: the trial diverged and its accuracy means nothing
    val_score: float  # what selection goes by, higher is better: accuracy, or minus the error
    val_accuracy: float  # mean over the frozen meta-validation tasks, in [0, 1]; NaN for regression
    val_ci: float  # half-width of the 95 % t interval over tasks; `stats.bounds` keeps it between the ends
    val_loss: float  # for regression: the error
    val_scores: tuple[float, ...]  # of each frozen task, as val_score, to 6 digits
    train_accuracy: float  # mean over the meta-train queries since the last report; NaN for regression
    train_loss: float
    seconds: float  # of training and validation so far, restarts included
    peak_memory: int  # bytes
    logs: Mapping[str, float]  # learned rates, gradient norm, tasks per second


MOST = 1_000_000


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """Declare one hyperparameter of an algorithm: default, one-line help, allowed values (> above).

    A whole number is at most MOST where nothing else is said: what is counted is computed or kept.
    """
    maximum = MOST if type(default) is int and maximum is None and choices is None else maximum
    limits = {"minimum": minimum, "above": above, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def utc_now() -> datetime.datetime:
    """Return the time in UTC."""
    return datetime.datetime.now(datetime.UTC)


def out_of_memory(error: BaseException) -> str:
    """Say what to do where an error is that memory has run out; nothing where it is another."""
    text = str(error)
    is_ours = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    if not (isinstance(error, MemoryError) or is_ours):
        return ""
    cure = "lower `task_batch_size`, turn `recompute` on, take a smaller network, or run fewer trials at once"
    return f"out of memory: {text.splitlines()[0][:200] if text else 'none is left'}; {cure}"


def printable(text: str, kept: str = "\n") -> str:
    """Return a text in which nothing moves the cursor, but for what is kept."""
    return "".join(one if one.isprintable() or one in kept else ascii(one)[1:-1] for one in text)


class MetabenchError(Exception):
    """A mistake in what a user gave; its message is all that the user is shown."""


class OutOfOrder(MetabenchError):
    """A machine, disk, storage or copy of the data is not as it should be: no fault of what ran there."""
