"""The classifier keeps scikit-learn's conventions, without needing it; labels may be anything hashable."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pandas
import pytest
import sklearn.base
import torch
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_set_params,
)
from sklearn.utils.validation import check_is_fitted

import metabench
from metabench.core import MetabenchError
from tests.predict import trained

SUPPORT, QUERIES = [*trained.draw(6)], [*trained.draw(4, seed=1)]


def classifier(**params: Any) -> metabench.FewShotClassifier:
    return metabench.FewShotClassifier(trained.run(), **params)


def test_scikit_learn_s_own_checks_of_parameters_pass() -> None:
    check_no_attributes_set_in_init("few-shot", classifier())
    check_get_params_invariance("few-shot", classifier())
    check_set_params("few-shot", classifier())
    with pytest.raises(ValueError, match="no such parameter; allowed: path, row, prepared, device"):
        classifier().set_params(shots=3)


def test_a_clone_has_the_parameters_and_not_what_was_fitted() -> None:
    fitted = classifier(prepared=False).fit(SUPPORT, [0, 1] * 3)
    copy = sklearn.base.clone(fitted)
    assert copy.get_params() == fitted.get_params()
    check_is_fitted(fitted)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(copy)
    assert sklearn.base.is_classifier(copy)
    assert get_tags(copy).target_tags.required
    assert repr(classifier(device="cpu", row=None)) == f"FewShotClassifier(path={trained.run()!r})"


def test_it_is_cross_validated_and_searched_over_like_any_other() -> None:
    images, labels = [*trained.draw(12)], [0, 1] * 6
    folds = StratifiedKFold(3)
    shares = cross_val_predict(classifier(), images, labels, cv=folds, method="predict_proba")
    assert shares.shape == (12, 2)
    paths = [trained.run("protonet"), trained.run("maml")]
    chosen = GridSearchCV(classifier(), {"path": paths}, cv=folds).fit(images, labels)
    assert chosen.best_params_["path"] in paths
    assert chosen.predict(QUERIES).tolist() == chosen.best_estimator_.predict(QUERIES).tolist()


def test_it_is_pickled_with_its_classes_and_without_its_weights() -> None:
    fitted = classifier().fit(SUPPORT, ["a", "b"] * 3)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(QUERIES), fitted.predict_proba(QUERIES))


def test_it_works_without_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None;"
        "import metabench, numpy as np; from tests.predict import trained;"
        f"c = metabench.load({str(trained.run())!r}).fit([*trained.draw(4)], [0, 1] * 2);"
        "print(c.predict([*trained.draw(2, 1)]).shape)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "(2,)\n"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([True, False, True], [False, True]),
        ([2.5, 1.5, 2.5], [1.5, 2.5]),
        ([("x", 1), ("w", 2), ("x", 1)], [("w", 2), ("x", 1)]),
        ([None, "a", None], [None, "a"]),  # which have no order
        (np.array([7, 3, 7], np.int8), [3, 7]),
        (torch.tensor([7, 3, 7]), [3, 7]),
        (np.array(["b", "a", "b"]), ["a", "b"]),
    ],
)
def test_labels_may_be_anything_hashable(labels: Any, classes: list[Any]) -> None:
    fitted = classifier().fit(SUPPORT[:3], labels)
    assert fitted.classes_.ndim == 1
    assert fitted.classes_.tolist() == classes
    if isinstance(labels, np.ndarray):
        assert fitted.classes_.dtype == labels.dtype
    answers = fitted.predict(QUERIES)
    assert answers.shape == (4,)
    assert set(answers.tolist()) <= set(classes)
    assert fitted.score(QUERIES, answers) == 1.0


def test_no_pictures_get_no_predictions() -> None:
    assert classifier().fit(SUPPORT, [0, 1] * 3).predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (SUPPORT, [0, 1], "2 labels for 6 images"),
        (SUPPORT, [0] * 6, "classes in the support set: 1; give pictures of 2 or more"),
        (SUPPORT[:2], [0, float("nan")], "nan names no class"),
        (SUPPORT[:2], [0, pandas.NA], "<NA> names no class"),
        (SUPPORT[:2], [[0], [1]], "must be hashable"),
        (SUPPORT[:2], [("a", [0]), ("b",)], "must be hashable"),
        (SUPPORT[:2], np.array(3), "labels: 3 is one label; give a list"),
        (SUPPORT[:2], "ab", "labels: str"),
        ("one.png", ["a"], "is one picture; give a list"),
        (SUPPORT[0], ["a"], r"shape \[16, 16, 1\].*one picture goes into a list"),
        (3, ["a"], "images: int; give a list of pictures"),
        (["no.png", "none.png"], [0, 1], "(?s)'no.png': no such file.*'none.png': no such file"),
        ([3, 4], [0, 1], "picture 0: int: must be the path of a file"),
        ([np.zeros((4, 4), np.int64)] * 2, [0, 1], "picture 0: int64; must be uint8, uint16"),
        ([np.full((4, 4), 1.5)] * 2, [0, 1], r"picture 0: values in \[1.5, 1.5\] must lie in \[0, 1\]"),
        ([np.full((4, 4), np.nan)] * 2, [0, 1], r"picture 0: values in \[nan, nan\]"),
        ([np.zeros((4, 4, 7), np.uint8)] * 2, [0, 1], r"picture 0: shape \[4, 4, 7\]"),
        ([np.zeros((0, 4), np.uint8)] * 2, [0, 1], r"picture 0: shape \[0, 4\]"),
    ],
)
def test_what_is_no_support_set_is_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        classifier().fit(images, labels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((16, 16), np.uint8),
            r"\[16, 16\]; as `prepared` says, it must be an array of shape \[1, 16, 16\]",
        ),
        (np.zeros((1, 16, 16), np.int32), "int32; as `prepared` says, it must be uint8"),
        (np.full((1, 16, 16), -0.1), "float64; as `prepared` says"),
        ("one.png", "str; as `prepared` says"),
    ],
)
def test_what_is_no_prepared_input_is_refused(image: Any, message: str) -> None:
    with pytest.raises(MetabenchError, match=message):
        classifier(prepared=True).fit([image, image], [0, 1])


def test_predicting_before_fitting_says_what_to_do() -> None:
    with pytest.raises(MetabenchError, match="call fit with a support set first"):
        classifier().predict(QUERIES)


def test_predicting_after_parameters_were_set_anew_says_what_to_do() -> None:
    changed = classifier().fit(SUPPORT, [0, 1] * 3).set_params(path=trained.run("maml"))
    with pytest.raises(MetabenchError, match="set anew since it was fitted; call fit again"):
        changed.predict(QUERIES)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(MetabenchError, match=f"`device` {device}: not on this machine"):
        metabench.load(trained.run(), device=device)


def test_parameters_that_are_changed_open_another_run() -> None:
    changed = classifier().fit(SUPPORT, [0, 1] * 3).set_params(path=trained.run("maml"))
    expected = metabench.load(trained.run("maml")).fit(SUPPORT, [0, 1] * 3).predict_proba(QUERIES)
    np.testing.assert_array_equal(changed.fit(SUPPORT, [0, 1] * 3).predict_proba(QUERIES), expected)
