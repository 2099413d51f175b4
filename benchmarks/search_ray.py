"""Plain Ray Tune beside metabench's search, for `search.py`: OptunaSearch, ASHAScheduler, reused actors.

As Ray's documentation has it, with its default loggers or without. Imports neither metabench nor torch.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from search_trials import WAITS, Notes, play


class Listener(tune.Callback):
    """Notes what Ray Tune tells its callbacks."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note the first report."""
        self.notes.reported()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note an ending."""
        self.notes.ended()


def suggest_all(parameters: dict[str, dict[str, Any]], trial: optuna.Trial) -> dict[str, Any]:
    """Ask Optuna for every parameter: its choices, or its low and high ends."""
    for name, parameter in parameters.items():
        if "choices" in parameter:
            trial.suggest_categorical(name, parameter["choices"])
        elif isinstance(parameter["low"], int) and isinstance(parameter["high"], int):
            trial.suggest_int(name, parameter["low"], parameter["high"], log=parameter["log"])
        else:
            trial.suggest_float(name, parameter["low"], parameter["high"], log=parameter["log"])
    return {}


def trainable(config: dict[str, Any], setting: dict[str, Any]) -> None:
    """Run a trial that only reports."""
    play(setting["reports"], setting["work"], Path(setting["folder"]) / WAITS, tune.report)


def run(setting: dict[str, Any], notes: Notes) -> None:
    """Search with Ray Tune alone."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ.setdefault(
        "RAY_AUTH_TOKEN", secrets.token_hex(32)
    )  # or Ray would leave one in the home folder
    if not setting["logs"]:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = TPESampler(n_startup_trials=10, multivariate=True, group=True, constant_liar=True, seed=0)
    define = functools.partial(suggest_all, setting["parameters"])
    store = 100 * 2**20
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=setting["workers"], object_store_memory=store, **quiet)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, setting=setting), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="val_score",
            mode="max",
            search_alg=OptunaSearch(space=define, metric="val_score", mode="max", sampler=sampler),
            scheduler=ASHAScheduler(
                time_attr="tasks_seen",
                max_t=3 ** (setting["reports"] - 1),
                grace_period=1,
                reduction_factor=3,
            ),
            num_samples=setting["trials"],
            max_concurrent_trials=setting["workers"],
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str(Path(setting["folder"]) / "ray"),
            callbacks=[Listener(notes)],
            verbose=0,
        ),
    )
    tuner.fit()
    ray.shutdown()


def main() -> None:
    """Run with the setting given as JSON, and print what was noted."""
    setting, notes = json.loads(sys.argv[1]), Notes()
    run(setting, notes)
    print(json.dumps(notes.dump(setting["begun"])))
