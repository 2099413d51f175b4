"""Searches and runs as offline runs of Weights & Biases, which `wandb sync` uploads; nothing here does."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from metabench.report.exports.records import Experiment, RunRecord
from metabench.search.journal.ledger import DIVERGED, FAILED

if TYPE_CHECKING:
    import wandb

FILES = ("wandb",)
STEP = "tasks_seen"


def write(experiments: Iterable[Experiment], out: Path) -> str:
    """Write experiments as projects, and say which folders are to be synchronised."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would be sent
    import wandb

    out.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        host="-",
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    try:
        for experiment in experiments:
            project = re.sub(r"[/\\#?%:]", "-", experiment.name)[:128]  # what W&B does not allow there
            for record in experiment.records:
                _write_run(record, project, out, settings)
    finally:
        wandb.teardown()
    pattern = f"{out / FILES[0]}/offline-run-*"
    return f"{pattern}; nothing was sent; to upload: wandb sync {pattern}"


def _write_run(record: RunRecord, project: str, out: Path, settings: wandb.Settings) -> None:
    import wandb

    run = wandb.init(
        mode="offline",
        dir=out,
        project=project,
        id=secrets.token_hex(8),  # another may stand in the environment
        name=record.name,
        group=record.algorithm,
        job_type=record.kind,
        tags=[record.status, *([record.facts["variant"]] if "variant" in record.facts else [])],
        config={**record.settings, "metabench": dict(record.facts)},
        settings=settings,
    )
    run.define_metric("*", step_metric=STEP)
    for seen, values in record.points.items():
        run.log({STEP: seen, **values}, step=seen)
    run.summary["status"] = record.status
    run.finish(exit_code=1 if record.status in (FAILED, DIVERGED) else 0)
