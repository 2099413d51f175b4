"""A classifier in scikit-learn's manner, of what a run or a search has learnt; scikit-learn is not needed."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabench.core import MetabenchError, Support, Tree
from metabench.core.device import pick
from metabench.data.reading.cache import Array
from metabench.nets import layers
from metabench.predict import members, pictures
from metabench.training import vectorise
from metabench.training.inputs import Inputs
from metabench.training.vectorise import Model

PLAIN = (str, int, float, bool)
"""Types of labels that make an array of their own type."""


COVERAGE = 0.9
"""Of sets, where no other is asked for."""


class FewShotClassifier:
    """Learns classes from a few pictures of each, and says of other pictures which class they show.

    Each picture is classified by itself: which others are classified with it changes nothing.

    Args:
        path: folder of a run, or folder or address of a search.
        row: of a search, such as maml:tuned; the best tuned row by confirmation where it is not given.
        prepared: images are inputs [C, H, W] as those of the data set are, uint8 or in [0, 1], or rows [D]
            where it learnt from features, and are taken as they are; else they are pictures, cut, resized and
            scaled as the data set's were.
        device: where to compute: cpu, cuda or cuda:1; auto takes a GPU where there is one.
    """

    def __init__(
        self, path: str | Path, row: str | None = None, prepared: bool = False, device: str = "cpu"
    ) -> None:
        self.path = path
        self.row = row
        self.prepared = prepared
        self.device = device

    @property
    def members(self) -> members.Members:
        """Open the runs that predict, once."""
        asked = self._asked
        if getattr(self, "_opened", (None, None))[0] != asked:
            self._opened = (asked, members.open_members(str(self.path), self.row, str(pick(self.device))))
        return self._opened[1]

    @property
    def _asked(self) -> tuple[str, str | None, str]:
        """Return what says which runs predict, and where."""
        return str(self.path), self.row, self.device

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what a user should know of the predictions."""
        return (*self.members.notes, *getattr(self, "_beyond", ()))

    def fit(self, images: Any, labels: Any) -> FewShotClassifier:
        """Learn classes from pictures and their labels.

        Args:
            images: paths, images of Pillow's, arrays [H, W] or [H, W, C], or tensors [H, W] or [C, H, W];
                arrays and tensors hold uint8, uint16, or numbers in [0, 1].
            labels: one a picture, anything hashable; a class may have any number of pictures.
        """
        shown, names = pictures.listed(images, self._taken), _listed(labels)
        if len(shown) != len(names):
            raise MetabenchError(f"{len(names)} labels for {len(shown)} images; give one label an image")
        classes = list(dict.fromkeys(names))  # in the order in which they come, whatever they are called
        if len(classes) < 2:
            raise MetabenchError(f"classes in the support set: {len(classes)}; give pictures of 2 or more")
        models = members.for_classes(self.members, len(classes))
        self._beyond = members.beyond(self.members, Counter(names).values())
        position = {name: row for row, name in enumerate(classes)}
        y = torch.tensor([position[name] for name in names])
        order = y.argsort(stable=True)  # class by class, as in training
        device = pick(self.device)
        x = torch.cat([*self._inputs(shown)])[order.to(device)]
        support = Support(x, y[order].to(device))
        self._learners = [_adapted(model, support) for model in models]
        ascending = _ascending(classes)
        self._columns = [position[name] for name in ascending]
        self.classes_, self._fitted = _as_array(ascending, labels), self._asked
        return self

    def predict_proba(self, images: Any) -> Array:
        """Return the probability of each class for each picture, [n, N], columns as in `classes_`."""
        if not hasattr(self, "classes_"):
            raise MetabenchError("predict: no class is known yet; call fit with a support set first")
        if self._fitted != self._asked:
            raise MetabenchError("predict: its parameters were set anew since it was fitted; call fit again")
        models = members.for_classes(self.members, len(self.classes_))
        parts = [self._shares(models, x) for x in self._inputs(pictures.listed(images, self._taken))]
        return np.concatenate([np.empty((0, len(self.classes_))), *parts])

    @property
    def _taken(self) -> Inputs:
        """Describe what pictures become at first."""
        return self.members.about if self.prepared else self.members.pictures

    def _inputs(self, shown: list[Any]) -> Iterator[Tensor]:
        """Yield inputs of pictures, some at once: a backbone's features, where the runs learnt from those."""
        embedder, device = self.members.embedder, pick(self.device)
        for x in pictures.chunks(shown, self._taken, self.prepared):
            if embedder is None or self.prepared:
                yield x.to(device)
            else:
                with torch.no_grad():  # a picture at a time: its features depend on no other to the last bit
                    yield torch.cat([embedder(one[None].to(device)) for one in x])

    def _shares(self, models: list[Model], x: Tensor) -> Array:
        vectorise.prepare(x.device)
        total = torch.zeros(len(x), len(self.classes_), dtype=torch.float64)
        with torch.no_grad(), _layers(x.device):
            temperatures = members.temperatures(self.members)
            for model, learner, t in zip(models, self._learners, temperatures, strict=True):
                total += (model.algorithm.predict(model.net, learner, x).double() / t).softmax(-1).cpu()
        return (total / len(self._learners)).numpy()[:, self._columns]

    def predict(self, images: Any) -> Array:
        """Return the likeliest class of each picture, [n]."""
        shares = self.predict_proba(images)
        return self.classes_[shares.argmax(1)]

    def predict_set(self, images: Any, coverage: float = COVERAGE) -> Array:
        """Say which classes each picture may show, boolean [n, N], columns as in `classes_`.

        A set holds the picture's class with the probability asked for, over new tasks such as those that the
        run was trained for. It may be empty: of none of the classes is the learner sure enough.
        """
        return self.predict_proba(images) >= self.least_share(coverage)

    def least_share(self, coverage: float) -> float:
        """Return the probability from which on a class is in the sets of a coverage."""
        return members.least_share(self.members, coverage)

    def score(self, images: Any, labels: Any) -> float:
        """Return the share of pictures that get their label."""
        names, answers = _listed(labels), self.predict(images).tolist()
        if len(names) != len(answers) or not names:
            raise MetabenchError(f"{len(names)} labels for {len(answers)} images; give one label an image")
        return sum(map(lambda name, answer: name == answer, names, answers)) / len(names)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the classifier was made with."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Change what the classifier was made with; it must be fitted anew."""
        allowed = [*self.get_params()]
        for name, value in params.items():
            if name not in allowed:
                raise ValueError(f"{name}: no such parameter; allowed: {', '.join(allowed)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Write it as it is made."""
        defaults = inspect.signature(type(self)).parameters
        shown = (
            f"{key}={value!r}" for key, value in self.get_params().items() if value != defaults[key].default
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is read from the folder again."""
        return {key: value for key, value in vars(self).items() if key != "_opened"}

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether there are classes."""
        return hasattr(self, "classes_")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that this is a classifier of what is no table."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False),
        )


def load(
    path: str | Path, row: str | None = None, *, prepared: bool = False, device: str = "cpu"
) -> FewShotClassifier:
    """Open a run, or a row of a search, as a classifier of new classes; see `FewShotClassifier`."""
    classifier = FewShotClassifier(path, row, prepared, device)
    _ = classifier.members  # what cannot be opened is told here
    return classifier


def _adapted(model: Model, support: Support) -> Tree:
    """Adapt to a support set; refuse one on which that does not come to numbers."""
    vectorise.prepare(support.x.device)
    with torch.no_grad(), _layers(support.x.device):
        learner = model.algorithm.adapt(model.net, model.meta, model.buffers, support, model.h)
        outputs = model.algorithm.predict(model.net, learner, support.x)
    if not bool(outputs.isfinite().all()):
        raise MetabenchError("adapting to this support set diverged; take another run, or other pictures")
    return learner


def _layers(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Use torch's own layers on a GPU, as only meta-training can check its kernels."""
    return contextlib.nullcontext() if device.type == "cpu" else layers.plain(device)


def _listed(labels: Any) -> list[Hashable]:
    """Return labels as a list of what is hashable and equal to itself."""
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise MetabenchError(f"labels: {type(labels).__name__}; give a list, one label an image")
    names = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
    if not isinstance(names, list):
        raise MetabenchError(f"labels: {names!r} is one label; give a list, one label an image")
    for name in names:
        if not _is_label(name):
            raise MetabenchError(f"labels: {name!r} names no class; a label must be hashable, and no NaN")
    return names


def _is_label(name: Any) -> bool:
    """Tell whether a label is hashable and equal to itself, as neither NaN nor what pandas has for it is."""
    try:
        hash(name)
        return bool(name == name)
    except (TypeError, ValueError):
        return False


def _ascending(classes: list[Any]) -> list[Any]:
    """Sort classes, where they have an order; else they stay in that in which they came."""
    try:
        return sorted(classes)
    except TypeError:
        return classes


def _as_array(classes: list[Any], labels: Any) -> Array:
    """Return classes as an array [N], of the labels' own type where that holds them."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "O":
        return np.array(classes, labels.dtype)
    if len({type(name) for name in classes}) == 1 and isinstance(classes[0], PLAIN):
        return np.array(classes)
    array = np.empty(len(classes), object)
    array[:] = classes
    return array
