"""A classifier as a folder that needs none of this package: network and rule as a graph, and a predictor."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metabench import __version__
from metabench.core import MetabenchError, Support, Tree, trees
from metabench.core.config import allowed
from metabench.data.reading import fitting
from metabench.nets import layers
from metabench.predict import exported, members
from metabench.predict.classifier import FewShotClassifier
from metabench.storage import files
from metabench.training.vectorise import Model

ABOUT = "predictor.json"
"""What the predictor reads; a folder that holds it is an export."""

FORMATS: Mapping[str, tuple[str, str]] = {
    "onnx": ("model.onnx", "onnxruntime>=1.32"),
    "torch": ("model.pt2", f"torch>={torch.__version__.partition('+')[0]}"),
}
"""Forms of a model to its file, and to what runs it."""

NEEDS = ("numpy>=2.4", "pillow>=13.0")
"""What the predictor needs beside that."""

SOLVE = torch.ops.aten.linalg_lu_solve.default
"""What a learner's system of equations is in a graph; each becomes STEPS of an iteration."""

STEPS = 40
"""Of Newton's iteration, whose error halves at first with each: enough for a condition of 1e9."""


class Adapted(nn.Module):
    """Learners that a support set has taught: pictures [Q, C, H, W] in [0, 1] to probabilities [Q, N].

    Args:
        temperatures: what the outputs of each are divided by.
        embedder: what makes inputs of pictures.
        columns: the row of each class in a learner's outputs.
    """

    def __init__(
        self,
        models: Sequence[Model],
        temperatures: Sequence[float],
        embedder: nn.Module,
        learners: Sequence[Tree],
        columns: Sequence[int],
    ) -> None:
        super().__init__()
        self.models, self.temperatures, self.embedder = models, temperatures, embedder
        self.learners, self.columns = learners, list(columns)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the mean of the learners' probabilities."""
        parts = zip(self.models, self.temperatures, self.learners, strict=True)
        inputs = self.embedder(pictures)
        return _mean([_shares(*one, inputs) for one in parts])[:, self.columns]


class Adapting(nn.Module):
    """Learners that compare with a support set, which comes with the pictures."""

    def __init__(self, models: Sequence[Model], temperatures: Sequence[float], embedder: nn.Module) -> None:
        super().__init__()
        self.models, self.temperatures, self.embedder = models, temperatures, embedder

    def forward(self, support: Tensor, labels: Tensor, n_classes: int, pictures: Tensor) -> Tensor:
        """Return the mean of the learners' probabilities.

        Args:
            support: [S, C, H, W] in [0, 1].
            labels: [S], int64 in [0, n_classes); each class is there.
        """
        shares, seen, inputs = [], Support(self.embedder(support), labels), self.embedder(pictures)
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            net = model.net._replace(way=n_classes)
            learner = model.algorithm.adapt(net, model.meta, model.buffers, seen, model.h)
            shares.append(_shares(model._replace(net=net), temperature, learner, inputs))
        return _mean(shares)


def _shares(model: Model, temperature: float, learner: Tree, pictures: Tensor) -> Tensor:
    return (model.algorithm.predict(model.net, learner, pictures) / temperature).softmax(-1)


def _mean(shares: Sequence[Tensor]) -> Tensor:
    return torch.stack([*shares]).mean(0)


def export_model(classifier: FewShotClassifier, folder: str | Path, to: str = "onnx") -> list[Path]:
    """Write a classifier into a folder that needs none of this package; return its files.

    One that was fitted is written with its classes. One that was not takes a support set with the pictures,
    where its learner compares with one and descends no gradient.

    Args:
        to: onnx or torch.
    """
    if to not in FORMATS:
        raise MetabenchError(f"`to` {to}: no such form.{allowed(to, FORMATS)}")
    missing = [name for name in ("onnx", "onnxscript") if to == "onnx" and not _is_installed(name)]
    if missing:
        raise MetabenchError(f"{' and '.join(missing)}: not installed; do: pip install 'metabench[onnx]'")
    about = classifier.members.about
    if about.pictures is None:
        raise MetabenchError(
            f"{about.data}: does not say how a picture becomes an input, which an exported model must know; "
            "take a run of another data set"
        )
    target = Path(folder)
    if target.exists() and not (target / ABOUT).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise MetabenchError(f"{folder}: is there already, and no export; remove it, or choose another `out`")
    files.check_writable(target)
    with _quietly(), _traced(classifier, to), torch.no_grad(), layers.plain(torch.device("cpu")):
        program = _program(classifier)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as made:
            _write(program, Path(made), to, _described(classifier, to))
            return _move(Path(made), target)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep from a user what torch and ONNX say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _traced(classifier: FewShotClassifier, to: str) -> Iterator[None]:
    """Say in a sentence what of a learner, which may be anybody's, is no graph."""
    try:
        yield
    except (MetabenchError, OSError):
        raise
    except Exception as error:  # whatever comes to torch, to ONNX, and to a learner of one's own
        first = str(error).strip().partition("\n")[0][:200]
        row, kind = classifier.members.row, type(error).__name__
        raise MetabenchError(
            f"{row}: is no graph of {to}: {kind}: {first}; nothing may depend on numbers, and ONNX has fewer "
            "operators than torch: try `to` torch, or predict without exporting"
        ) from error


def _program(classifier: FewShotClassifier) -> ExportedProgram:
    """Trace what a classifier computes, for any number of pictures where one does not exclude the others."""
    runs = classifier.members
    temperatures, embedder = members.temperatures(runs), copy.deepcopy(runs.embedder or nn.Identity()).cpu()
    n_pictures = 1 if _is_one_at_a_time(classifier) else 5
    pictures = torch.zeros(n_pictures, *runs.pictures.shape)
    queries = {0: Dim("pictures")} if n_pictures > 1 else None
    if hasattr(classifier, "classes_"):
        models = members.for_classes(runs, len(classifier.classes_))
        learners, columns = _on_cpu(classifier._learners), classifier._columns
        module = Adapted([*map(_on_cpu, models)], temperatures, embedder, learners, columns)
        return torch.export.export(module, (pictures,), dynamic_shapes=(queries,))
    support, labels = torch.zeros(7, *runs.pictures.shape), torch.arange(7) % 3
    shapes = ({0: Dim("support")}, {0: Dim("support")}, Dim.DYNAMIC, queries)
    try:
        adapting = Adapting(_comparing(runs), temperatures, embedder)
        program = torch.export.export(adapting, (support, labels, 3, pictures), dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError:  # a step of its own for each picture of the support set
        raise _needs_support(runs, "reads its support set one by one") from None
    if sum(node.target is SOLVE for node in program.graph.nodes) > len(runs.runs):
        raise _needs_support(runs, "solves a system at each step of an iteration, too long for a graph")
    return program


def _comparing(runs: members.Members) -> list[Model]:
    """Return learners that take a support set of any number of classes, or refuse them."""
    algorithm, net = runs.runs[0].model[:2]
    if algorithm.inner_steps:
        raise _needs_support(runs, "learns a support set by gradient steps")
    try:
        return [*map(_on_cpu, members.for_classes(runs, net.outputs + 1))]
    except MetabenchError:
        raise _needs_support(runs, "has outputs for a fixed number of classes") from None


def _needs_support(runs: members.Members, why: str) -> MetabenchError:
    return MetabenchError(
        f"`support`: {runs.row} {why}; give the classes it is to be exported with, a folder of folders of "
        "pictures (in Python: `fit` the classifier before)"
    )


def _is_one_at_a_time(classifier: FewShotClassifier) -> bool:
    """Tell whether a picture is normalised together with the support set, which a graph does for one."""
    models = [run.model for run in classifier.members.runs]
    return any(model.algorithm.batch_norm(model.net, model.h) == "with_support" for model in models)


def _on_cpu(nested: Any) -> Any:
    leaves, form = trees.flatten(nested)
    return trees.unflatten([one.cpu() if isinstance(one, Tensor) else one for one in leaves], form)


def _described(classifier: FewShotClassifier, to: str) -> dict[str, Any]:
    """Say what the predictor must know of a model."""
    runs = classifier.members
    assert runs.about.pictures is not None, "or `export_model` had refused"
    classes = getattr(classifier, "classes_", None)
    return {
        "model": FORMATS[to][0],
        "metabench": __version__,
        "row": runs.row,
        "data": runs.about.data,
        "shape": runs.pictures.shape,  # of an input: channels, height, width
        "pictures": runs.about.pictures._asdict(),
        "classes": None if classes is None else [*map(str, classes.tolist())],
        "is_one_at_a_time": _is_one_at_a_time(classifier),
        "notes": classifier.notes,
    }


def _write(program: ExportedProgram, folder: Path, to: str, about: Mapping[str, Any]) -> None:
    """Write a model, and what goes with it."""
    name, runs_on = FORMATS[to]
    if to == "onnx":
        graph = torch.onnx.export(program.run_decompositions(SOLVING), dynamo=True, verbose=False)
        assert graph is not None, "as it is asked for by `dynamo`"
        graph.save(folder / name)
    else:
        torch.export.save(program, folder / name)
    for source in (Path(exported.__file__).parent / "predict.py", Path(fitting.__file__)):
        shutil.copyfile(source, folder / source.name)
    readme = (Path(exported.__file__).parent / f"{to}.md").read_text("utf-8")
    (folder / "README.md").write_text(readme, "utf-8")
    (folder / "requirements.txt").write_text("\n".join([runs_on, *NEEDS, ""]), "utf-8")
    (folder / ABOUT).write_text(json.dumps(files.plain(about), indent=1) + "\n", "utf-8")


def _move(made: Path, target: Path) -> list[Path]:
    """Put files in the place of an earlier export's; what is the user's own there stays."""
    for name, _ in FORMATS.values():
        (target / name).unlink(missing_ok=True)
    paths = sorted(made.iterdir(), key=lambda path: path.name == ABOUT)
    return sorted(path.replace(target / path.name) for path in paths)


def _factors(a: Tensor, *, pivot: bool = True, check_errors: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Pass a matrix on to `_solution`, in the place of its factors."""
    none = a.new_zeros(a.shape[-1], dtype=torch.int32)
    return a, none, none[0]


def _solution(a: Tensor, pivots: Tensor, y: Tensor, **options: bool) -> Tensor:
    """Solve a x = y by matrix products alone, for a symmetric and positive definite `a`."""
    a, identity = a.double(), torch.eye(a.shape[-1], dtype=torch.float64)
    inverse = identity / a.abs().sum(-1).max()  # no eigenvalue is above it
    for _ in range(STEPS):  # Newton's iteration: each squares what is missing, identity - a @ inverse
        inverse = inverse @ (2 * identity - a @ inverse)
    return (inverse @ y.double()).to(y.dtype)


SOLVING: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.linalg_lu_factor_ex.default: _factors,
    SOLVE: _solution,
}
"""ONNX has no operator that solves a system; R2-D2's, the only one that there is, is definite."""
