"""Intervals, comparisons, and how sure one may be; numbers in, numbers out, NaN stays NaN.

docs/statistics.md explains each number, and `benchmarks/coverage.py` shows by simulation that the intervals
cover what they promise.
"""

from __future__ import annotations

from metabench.stats.classes import Design, class_interval, design, kappa, weighed
from metabench.stats.compare import Paired, holm, p_best, paired, paired_classes, paired_se, rank_ranges
from metabench.stats.conformal import most_coverage, temperature, threshold
from metabench.stats.crossed import CONFIDENCE, Floats
from metabench.stats.domains import domain_interval, paired_domains
from metabench.stats.fairness import count, hypervolume, measures, n_defined, thresholds
from metabench.stats.intervals import (
    CLASSES,
    FEW_SEEDS,
    PICTURES,
    SEEDS,
    SEEDS_AND_TASKS,
    SEEDS_CLASSES,
    SEEDS_PICTURES,
    TASKS,
    Interval,
    Scale,
    bounds,
    mean_interval,
    seed_interval,
    seeds_and_tasks,
    tasks_half_width,
)
from metabench.stats.pictures import Influences, influences, picture_interval

__all__ = [
    "CLASSES",
    "CONFIDENCE",
    "FEW_SEEDS",
    "PICTURES",
    "SEEDS",
    "SEEDS_AND_TASKS",
    "SEEDS_CLASSES",
    "SEEDS_PICTURES",
    "TASKS",
    "Design",
    "Floats",
    "Influences",
    "Interval",
    "Paired",
    "Scale",
    "bounds",
    "class_interval",
    "count",
    "design",
    "domain_interval",
    "holm",
    "hypervolume",
    "influences",
    "kappa",
    "mean_interval",
    "measures",
    "most_coverage",
    "n_defined",
    "p_best",
    "paired",
    "paired_classes",
    "paired_domains",
    "paired_se",
    "picture_interval",
    "rank_ranges",
    "seed_interval",
    "seeds_and_tasks",
    "tasks_half_width",
    "temperature",
    "threshold",
    "thresholds",
    "weighed",
]
