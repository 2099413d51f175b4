"""What may change about a search that goes on: refused with the difference shown, or recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metabench.core import MetabenchError, utc_now
from metabench.core.config import SPENT, SearchSpace, flatten
from metabench.search import space as spaces
from metabench.search.journal.ledger import look
from metabench.search.propose import warm
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files, models, records, remote

FIXED = (
    "protocol",
    "seed",
    "data_fingerprint",
    "task",
    "network",
    "network_digest",
    "warm_start",
    "budget.validation_tasks",
    "budget.borderline_tasks",
)
"""What all numbers of a search, or those before them, depend on: they could not be compared."""

INVALIDATES_CHOICE = (
    "budget.trials",
    "budget.tasks",
    "budget.confirm_top",
    "budget.confirm_tasks",
    "budget.seconds",
    "budget.environment_steps",
    "budget.grace",
    "budget.rungs",
    "budget.reduction_factor",
    "budget.scheduler",
    "budget.pause",
    "budget.stop_when",
    "budget.max_parameters",
    "algorithms",
    "networks",
    "shared",
    "finish",
)
"""What the choice of a setting rests on."""


def reconcile(
    folder: Path, space: SearchSpace, described: dict[str, Any], accept: bool, say: Callable[[str], None]
) -> SearchSpace:
    """Return the space to go on with, or refuse what is different before anything is written.

    Args:
        described: what the search would be recorded as now.
        accept: take the differences that leave the old numbers comparable, and record them.
    """
    before = records.read(folder / files.SEARCH, models.SEARCH)
    earlier_space = SearchSpace.model_validate(before["space"])
    space = _keep_rungs(earlier_space, _keep_scheduler(earlier_space, space))
    described = {**described, "space": space.model_dump(mode="json")}
    old, new = (flatten({key: record.get(key) for key in described}) for record in (before, described))
    changed = {key: [old.get(key), new.get(key)] for key in {**old, **new} if old.get(key) != new.get(key)}
    is_other = any(not key.startswith(("version", "code")) for key in changed)
    if accept and "finish" in before and (is_other or _is_tested(folder)):
        changed["finish"] = [before.pop("finish"), None]  # what was left out goes on
    if not changed:
        return space
    _refuse(folder, old, new, list(changed), accept)
    _refuse_less(folder, earlier_space, space)
    outside = _replay(folder, space, described["seed"], say)
    place = f"{files.EARLIER}/{len(before.get('changes', [])) + 1}"
    if any(key.startswith(INVALIDATES_CHOICE) for key in changed):
        move(folder, [files.CHOSEN, files.CONFIRM], place)
    if is_other or "finish" in changed:
        boards = sorted(path.name for path in folder.glob(f"{files.LEADERBOARD}.*"))
        move(folder, [files.META_TEST, *boards], place)
    change = {"date": utc_now().isoformat(timespec="seconds"), "changed": changed}
    described |= {"planned": spaces.planned(space), "outside": outside}
    record = {**before, **described, "changes": [*before.get("changes", []), change]}
    files.write_json(folder / files.SEARCH, record)
    return space


def _is_tested(folder: Path) -> bool:
    opened = records.optional(folder / files.META_TEST, models.META_TEST)
    return opened is not None and opened["finished"] is not None


def _replay(folder: Path, space: SearchSpace, seed: int, say: Callable[[str], None]) -> list[str]:
    """Rebuild in memory what the search would go on from; name the trials that are outside of the space."""
    try:
        ledger = look(folder)
        searcher = FairSearcher(space, ledger, seed, warm.earlier_trials(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise MetabenchError(
            f"{folder}: its trials cannot be read in the changed space ({error!r}); choose another name, or "
            "undo what is different"
        ) from error
    outside = []
    for algorithm, study in searcher.studies.items():
        trials = ledger.of(algorithm)
        names = [trials[number].name for number, asked in study.asked.items() if asked is None]
        outside += names
        if names:
            say(
                f"{algorithm}: {len(names)} of {len(trials)} trials have settings that the changed space "
                "has not; they stay in the journal and are no candidates"
            )
    return outside


def _refuse(
    folder: Path, old: dict[str, Any], new: dict[str, Any], changed: Sequence[str], accept: bool
) -> None:
    """Refuse changes that leave no numbers to compare, and others unless they are accepted."""
    labels = {tuple(key.split(".")[:2]) for key in old if key.startswith("networks.")}
    fixed = [
        key
        for key in changed
        if key in FIXED or key.split(".")[0] in FIXED or tuple(key.split(".")[:2]) in labels
    ]
    if accept and not fixed:
        return
    advice = "choose another name, or undo what is different"
    if not fixed:
        advice += ", or go on all the same with `accept_changes`, which records it"
    elif accept:
        advice += f" (`accept_changes` allows no other {', '.join(fixed)}: numbers could not be compared)"
    sides = (("there", old), ("given", new))
    lines = [
        f"  {key}: "
        + ", ".join(f"{repr(flat[key]) if key in flat else 'nothing'} {side}" for side, flat in sides)
        for key in changed
    ]
    raise MetabenchError(f"{folder}: holds another search; {advice}:\n" + "\n".join(lines))


def move(folder: Path, names: list[str], target: str) -> None:
    """Move results into a folder of their own within the search folder, where they are there."""
    for name in names:
        source = folder / name
        remote.refresh(source)
        if source.exists():
            (folder / target / name).parent.mkdir(parents=True, exist_ok=True)
            source.rename(folder / target / name)
            remote.upload(folder / target / name)
            remote.remove(source)


def earlier(folder: Path) -> str | None:
    """Name the folder for results that the latest change has outdated; None where nothing was changed."""
    record = records.optional(folder / files.SEARCH, models.SEARCH) or {}
    changes = record.get("changes", [])
    return f"{files.EARLIER}/{len(changes)}" if changes else None


def _keep_scheduler(before: SearchSpace, space: SearchSpace) -> SearchSpace:
    """Leave it as it was who goes on, where a space does not say: the default was another once."""
    if "scheduler" in space.budget.model_fields_set or space.budget.stop_when is not None:
        return space
    budget = space.budget.model_copy(update={"scheduler": before.budget.scheduler})
    return space.model_copy(update={"budget": budget})


def _keep_rungs(before: SearchSpace, space: SearchSpace) -> SearchSpace:
    """Give a longer search the rungs of the shorter one, and those that follow them."""
    if space.budget.tasks < before.budget.tasks or (
        space.budget.tasks == before.budget.tasks and before.budget.rungs is None
    ):
        return space
    rungs = spaces.rungs(before.budget)
    if space.budget.tasks > before.budget.tasks:
        onwards = {"grace": rungs[-1] * space.budget.reduction_factor, "rungs": None, "scheduler": "asha"}
        rungs = [*rungs, *spaces.rungs(space.budget.model_copy(update=onwards))]
    wanted = {"grace": before.budget.grace, "rungs": rungs}
    return space.model_copy(update={"budget": space.budget.model_copy(update=wanted)})


def _refuse_less(folder: Path, before: SearchSpace, space: SearchSpace) -> None:
    less = [
        f"  budget.{name}: {old} there, {new} given"
        for name in ("trials", "tasks", "seeds", *SPENT)
        if (new := getattr(space.budget, name)) is not None
        and (old := getattr(before.budget, name)) is not None
        and new < old
    ]
    less += [f"  algorithms: {name} is missing" for name in before.algorithms if name not in space.algorithms]
    if less:
        raise MetabenchError(
            f"{folder}: a search can be extended, not shortened; choose another name:\n" + "\n".join(less)
        )
