"""Which other data a run can be tested on: inputs, actions, fixed labels and the backbone are its own."""

from __future__ import annotations

from pathlib import Path

from metabench.core import MetabenchError, Splits
from metabench.core.control import Environment
from metabench.data.reading import scaling
from metabench.data.tasks import frozen
from metabench.training import inputs


def refuse_shape(folder: Path, splits: Splits, tested: Splits) -> None:
    """Refuse data that a network of other data cannot take."""
    if splits.kind != tested.kind:
        raise MetabenchError(
            f"{folder}: was trained for {splits.kind}, and {tested.name} is {tested.kind}; take other data"
        )
    here, there = map(frozen.input_shape, (splits, tested))
    if here != there:
        takes, has = ("x".join(map(str, shape)) for shape in (here, there))
        raise MetabenchError(
            f"{folder}: takes inputs of {takes}, and those of {tested.name} are {has}; choose options of the "
            "data set that give the same (folder has size and channels), or other data"
        )
    if splits.environment and tested.environment:
        chosen, taken = map(_actions, (splits.environment, tested.environment))
        if chosen != taken:
            raise MetabenchError(
                f"{folder}: chooses {chosen}, and {tested.name} takes {taken}; choose options of the data "
                "set that give the same, or other data"
            )


def _actions(environment: Environment) -> str:
    """Say in words what an action is."""
    n = environment.n_actions
    return f"one of {n} actions" if environment.is_discrete else f"actions of {n} numbers"


def as_trained(trained: Splits, tested: Splits) -> Splits:
    """Let other data be standardised as a run's own are, by the moments of its meta-train."""
    if trained.moments is None or tested.moments is None or trained.moments == tested.moments:
        return tested
    return tested._replace(meta_test=scaling.moved(tested.meta_test, tested.moments, trained.moments))


def refuse_labels(folder: Path, splits: Splits, tested: Splits) -> None:
    """Refuse data whose classes are not those that the outputs of a run of fixed labels stand for."""
    expected, here = splits.meta_train.shared, tested.meta_test.shared
    if expected != here:
        listed, there = (", ".join(shared) or "none" for shared in (expected, here))
        raise MetabenchError(
            f"{folder}: has labels=fixed for the classes {listed}, and those of {tested.name} are {there}; "
            "take data of the same classes, or a run of labels=shuffled"
        )


def refuse_backbone(folder: Path, splits: Splits) -> None:
    """Refuse features of another backbone than those that a run learnt from."""
    if splits.features is None:
        return
    trained = inputs.read(folder).features
    expected, here = "" if trained is None else trained.backbone, splits.features.backbone
    if expected != here:
        raise MetabenchError(
            f"{folder}: learnt behind another backbone than features of {splits.name} are of (digest "
            f"{expected[:12] or 'none'} there, {here[:12]} here); put its weights back"
        )
