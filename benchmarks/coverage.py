"""Draw results whose truth is known, again and again, and count how often each 95 % interval covers it.

A result is what a leaderboard gets: the accuracies of S seeds on the same T tasks, with an effect of each
seed, of each task, of each class in a task, and of both seed and task. "normal": all effects are normal;
"accuracy": 75 queries a task, each right with a probability that is beta distributed over tasks; "ceiling":
the same near 98 %, where the distribution over tasks is far from normal; "error": squared errors of
regression, skewed over tasks, seeds and both. Boards of several rows count what is wrongly told apart.
Pictures: points about the means of a few classes, which tasks share and a nearest mean classifies.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metabench import stats
from metabench.core.metrics import ACCURACY
from metabench.leaderboard import scores

Floats = NDArray[np.float64]

MEAN = 0.6
TASK_SD = 0.10  # 5-way 1-shot, 15 queries a class
BOTH_SD = 0.07  # of a task under one seed, about its mean over seeds
QUERIES = 75
KINDS = {"normal": MEAN, "accuracy": MEAN, "ceiling": 0.98, "error": 1.0}
KINDS_AND_SPREADS = {
    "normal": (0.0, 0.005, 0.02),
    "accuracy": (0.005,),
    "ceiling": (0.005,),
    "error": (0.0, 0.05, 0.3),
}
"""Near 98 % is no room for seeds that differ by more. Errors: relative to their mean."""

WAY = 5
BAND = (0.93, 0.97)
BOARD_TASKS = 100  # of boards: with seeds that differ by SEED_SD, T hardly matters
SEED_SD = 0.01


class Drawn(NamedTuple):
    """Scores [seeds, tasks], and the truths that intervals may promise to cover."""

    scores: Floats
    everywhere: float  # new seeds, new tasks
    these_networks: float  # these seeds, new tasks
    these_tasks: float  # new seeds, these tasks


class Covered(NamedTuple):
    """How often an interval covered, and how wide it was."""

    share: float
    half_width: float
    other: float  # how often it covered the truth for new seeds and new tasks, promised or not


def draw(
    rng: np.random.Generator,
    kind: str,
    n_seeds: int,
    n_tasks: int,
    seed_sd: float,
    hard: Floats | None = None,
) -> Drawn:
    """Draw a result.

    Args:
        hard: effects of the tasks [T], where they are not to be drawn here; normal kind only.
    """
    mean = KINDS[kind]
    if kind == "error":
        return _errors(rng, n_seeds, n_tasks, seed_sd)
    if kind == "normal":
        tasks = rng.normal(0, TASK_SD, n_tasks) if hard is None else hard
        seeds = rng.normal(0, seed_sd, n_seeds)
        both = rng.normal(0, BOTH_SD, (n_seeds, n_tasks))
        scores = mean + seeds[:, None] + tasks + both
        return Drawn(scores, mean, mean + float(seeds.mean()), mean + float(tasks.mean()))
    sharpness = mean * (1 - mean) / TASK_SD**2 - 1 if kind == "accuracy" else 12.0
    tasks = rng.beta(mean * sharpness, (1 - mean) * sharpness, n_tasks)
    # Seeds move probabilities that have room to move; the mean over seeds of each task stays.
    room = tasks * (1 - tasks)
    typical = mean * (1 - mean) * sharpness / (sharpness + 1)  # the mean of room
    seeds = np.clip(rng.normal(0, seed_sd / typical, n_seeds), -1, 1)
    scores = rng.binomial(QUERIES, tasks + seeds[:, None] * room) / QUERIES
    return Drawn(scores, mean, mean + float(seeds.mean()) * typical, float(tasks.mean()))


def _errors(rng: np.random.Generator, n_seeds: int, n_tasks: int, seed_sd: float) -> Drawn:
    tasks = rng.gamma(1.0, 1.0, n_tasks)
    log_sd = np.sqrt(np.log1p(seed_sd**2))
    seeds = np.exp(rng.normal(-(log_sd**2) / 2, log_sd, n_seeds))
    both = rng.gamma(4.0, 0.25, (n_seeds, n_tasks))
    return Drawn(seeds[:, None] * tasks * both, 1.0, float(seeds.mean()), float(tasks.mean()))


def scale_of(kind: str) -> stats.Scale:
    """Return the scale of a kind of results."""
    return "positive" if kind == "error" else "share"


def cover(
    interval: Callable[[Floats], stats.Interval],
    truth: Callable[[Drawn], float],
    drawn: Iterator[Drawn],
    repeats: int,
) -> Covered:
    """Count how often an interval covers a truth."""
    counted = []
    for _ in range(repeats):
        one = next(drawn)
        _, low, high, _ = interval(one.scores)
        counted.append((low <= truth(one) <= high, (high - low) / 2, low <= one.everywhere <= high))
    share, _, other = np.mean(counted, axis=0)
    return Covered(float(share), float(np.median([half for _, half, _ in counted])), float(other))


def results(rng: np.random.Generator, *arguments: object) -> Iterator[Drawn]:
    """Draw results without end; arguments as of `draw`."""
    while True:
        yield draw(rng, *arguments)  # type: ignore[arg-type]


def tasks_of(rng: np.random.Generator, n_tasks: int, n_classes: int) -> NDArray[np.int64]:
    """Draw the classes of tasks [T, WAY], distinct within each."""
    return rng.random((n_tasks, n_classes)).argpartition(WAY, axis=1)[:, :WAY]


def with_classes(
    rng: np.random.Generator,
    classes: NDArray[np.int64],
    n_seeds: int,
    seed_sd: float,
    of_classes: float,
    of_pairs: float = 0.0,
) -> Iterator[Drawn]:
    """Draw results on tasks of given classes without end.

    Args:
        of_classes: share of the variance over tasks that is a sum of effects of single classes.
        of_pairs: share that belongs to pairs of classes, such as two that are easily confused.
    """
    n_tasks, way = classes.shape
    n_classes = int(classes.max()) + 1
    pairs = [(i, j) for i in range(way) for j in range(i)]
    while True:
        hard = rng.normal(0, 1, n_classes)[classes].sum(1) * np.sqrt(of_classes / way)
        if of_pairs:
            together = np.triu(rng.normal(0, 1, (n_classes, n_classes)), 1)
            together += together.T
            both = [together[classes[:, i], classes[:, j]] for i, j in pairs]
            hard += sum(both) * np.sqrt(of_pairs / len(pairs))
        hard += rng.normal(0, 1, n_tasks) * np.sqrt(1 - of_classes - of_pairs)
        yield draw(rng, "normal", n_seeds, n_tasks, seed_sd, TASK_SD * hard)


class Few(NamedTuple):
    """Tasks of a few classes that share their pictures."""

    n_classes: int
    pictures: int  # of each class, or of each class in a fold
    way: int
    shot: int
    query: int
    n_tasks: int  # of each fold
    folds: int = 1
    training_sd: float = 0.0  # of what the training of each fold gives: deviation of the features' noise


FEW = (
    Few(3, 10, 3, 1, 5, 300),
    Few(3, 20, 3, 1, 15, 300),
    Few(3, 20, 3, 5, 10, 300),
    Few(2, 30, 2, 5, 15, 300),
    Few(10, 12, 5, 5, 5, 300),
    Few(3, 10, 3, 1, 5, 100, folds=3),
    Few(3, 10, 3, 1, 5, 100, folds=5),
    Few(3, 10, 3, 1, 5, 100, folds=5, training_sd=0.3),
)


def shared_pictures(rng: np.random.Generator, few: Few) -> tuple[Floats, stats.Influences]:
    """Classify tasks by nearest means; return accuracies [1, T], and what each picture moved the mean by."""
    folds = []
    strata = np.repeat(np.arange(few.n_classes), few.pictures)
    centres = np.random.default_rng(5).normal(size=(few.n_classes, 4))
    for _ in range(few.folds):
        noise = rng.normal(size=(few.n_classes, few.pictures, 4))
        pictures = centres[:, None] + noise * np.exp(rng.normal(0, few.training_sd))
        classes = rng.random((few.n_tasks, few.n_classes)).argsort(1)[:, : few.way]
        order = rng.random((few.n_tasks, few.way, few.pictures)).argsort(2)[:, :, : few.shot + few.query]
        support, query = np.split(pictures[classes[:, :, None], order], [few.shot], axis=2)
        means, x = support.mean(2)[:, None], query.reshape(few.n_tasks, -1, 1, 4)
        guess = np.square(x - means).sum(-1).argmin(-1)
        right = (guess == np.repeat(np.arange(few.way), few.query)).astype(float)
        places = classes[:, :, None] * few.pictures + order
        shown, asked = (one.reshape(few.n_tasks, -1) for one in np.split(places, [few.shot], axis=2))
        folds.append((right.mean(1), *stats.influences(right, asked, list(shown), strata), classes))
    starts = few.n_classes * np.arange(few.folds)
    return np.concatenate([one[0] for one in folds])[None], stats.Influences(
        np.concatenate([one[1] for one in folds])[None] / few.folds,
        (starts[:, None] + strata).ravel() if few.folds > 1 else strata,
        float(np.mean([one[2] for one in folds])),
        stats.design([row for start, one in zip(starts, folds, strict=True) for row in start + one[3]]),
        few.folds,
    )


def over_pictures(rng: np.random.Generator, few: Few, repeats: int) -> Covered:
    """Count how often the interval over pictures covers the truth for others; `other`: the one over tasks."""
    many = few._replace(pictures=2 * (few.shot + few.query), n_tasks=5, folds=1000)
    truth = float(shared_pictures(rng, many)[0].mean())
    counted = []
    for _ in range(repeats):
        x, pictures = shared_pictures(rng, few)
        _, low, high, _ = stats.picture_interval(x, pictures, "share")
        _, least, most, _ = stats.seeds_and_tasks(x, "share")
        counted.append((low <= truth <= high, (high - low) / 2, least <= truth <= most))
    share, _, tasks = np.mean(counted, axis=0)
    return Covered(float(share), float(np.median([half for _, half, _ in counted])), float(tasks))


def false_alarms(
    rng: np.random.Generator, kind: str, n_seeds: int, n_tasks: int, seed_sd: float, repeats: int
) -> tuple[float, float, float]:
    """Compare two settings that are equally good.

    Returns:
        how often the interval of the difference covers zero; how often the test over tasks alone says that
        one is better; and how often that of seeds and tasks does.
    """
    counted = []
    for _ in range(repeats):
        a, b = equals(rng, kind, 2, n_seeds, n_tasks, seed_sd)
        compared = stats.paired(a, b, scale=scale_of(kind))
        counted.append((compared.low <= 0 <= compared.high, compared.p_tasks < 0.05, compared.p < 0.05))
    covered, by_tasks, by_both = np.mean(counted, axis=0)
    return float(covered), float(by_tasks), float(by_both)


def equals(
    rng: np.random.Generator, kind: str, n_rows: int, n_seeds: int, n_tasks: int, seed_sd: float
) -> list[Floats]:
    """Draw rows that are equally good, on the same tasks: what is hard in one is hard in all."""
    x = draw(rng, kind, n_rows * n_seeds, n_tasks, seed_sd).scores
    return list(x.reshape(n_rows, n_seeds, n_tasks))


def board(
    rng: np.random.Generator, n_rows: int, n_seeds: int, ahead: float
) -> tuple[list[scores.Record], list[scores.Row]]:
    """Compare and rank rows of which the first is ahead and the others are equally good."""
    drawn = equals(rng, "normal", n_rows, n_seeds, BOARD_TASKS, SEED_SD)
    drawn[0] = drawn[0] + ahead
    entries = [
        scores.Entry({"name": str(row), "accuracy": float(x.mean())}, scores.Scored(x))
        for row, x in enumerate(drawn)
    ]
    compared = scores.compare(entries, ACCURACY)
    scores.rank(entries, compared, ACCURACY)
    return compared, [entry.row for entry in entries]


def wrong_boards(
    rng: np.random.Generator, n_rows: int, n_seeds: int, ahead: float, repeats: int
) -> tuple[float, float, float, float]:
    """Count what boards say wrongly, and how many rows they rightly leave out.

    Returns:
        shares: of pairs of equals with p < 0.05; of boards that tell any equals apart; of boards where a
        row that is the best, alone or with others, is said not to be; of other rows, those that are.
    """
    counted = []
    for _ in range(repeats):
        compared, rows = board(rng, n_rows, n_seeds, ahead)
        among = [pair for pair in compared if not ahead or "0" not in (pair["a"], pair["b"])]
        single = np.mean([pair["p"] < scores.LEVEL for pair in among])
        apart = any(pair["verdict"] in (scores.BETTER, scores.WORSE) for pair in among)
        # Of equals each is a best row: the promise is for any one that is named beforehand.
        others = [not row["may_be_best"] for row in rows[1:]]
        counted.append((single, apart, not rows[0]["may_be_best"], np.mean(others)))
    return tuple(float(share) for share in np.mean(counted, axis=0))  # type: ignore[return-value]


def percent(covered: Covered) -> str:
    """Write coverage in percent, marked where it leaves the band, and the half-width in points."""
    mark = " " if BAND[0] <= covered.share <= BAND[1] else "*"
    return f"{100 * covered.share:5.1f}{mark} {100 * covered.half_width:5.2f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000, help="results that are drawn for each figure")
    parser.add_argument("--tasks", type=int, nargs="+", default=[600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parts = {"means": _means, "differences": _differences, "classes": _classes, "boards": _boards}
    parts |= {"pictures": _pictures}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="which tables")
    options = parser.parse_args()
    for n_tasks in options.tasks:
        for part in options.parts:
            parts[part](options, n_tasks)


def _means(options: argparse.Namespace, n_tasks: int) -> None:
    print(f"\n{n_tasks} tasks: coverage % and median half-width (points; errors: % of the mean)")
    print("  kind      seed SD  seeds   headline       of new seeds   over seeds alone")
    for kind, spreads in KINDS_AND_SPREADS.items():
        scale = scale_of(kind)
        for seed_sd in spreads:
            for n_seeds in options.seeds:
                rng = np.random.default_rng([options.seed, n_tasks, n_seeds, int(1000 * seed_sd)])
                drawn = results(rng, kind, n_seeds, n_tasks, seed_sd)
                one = n_seeds == 1
                both = cover(
                    lambda x, scale=scale: stats.seeds_and_tasks(x, scale),
                    lambda d, one=one: d.these_networks if one else d.everywhere,
                    drawn,
                    options.repeats,
                )
                again = (
                    "      -"
                    if one
                    else percent(
                        cover(
                            lambda x, scale=scale: stats.seed_interval(x, scale),
                            lambda d: d.these_tasks,
                            drawn,
                            options.repeats,
                        )
                    )
                )
                print(
                    f"  {kind:9} {100 * seed_sd:6.1f} {n_seeds:6}   {percent(both)}   {100 * both.other:8.1f}"
                    f"       {again}",
                    flush=True,
                )


def _differences(options: argparse.Namespace, n_tasks: int) -> None:
    print(f"\n{n_tasks} tasks: two equally good settings; false alarms in % at p < 0.05")
    print("  kind      seed SD  seeds   interval covers   test of tasks alone   of seeds and tasks")
    for kind, spreads in KINDS_AND_SPREADS.items():
        for seed_sd in spreads:
            for n_seeds in options.seeds:
                rng = np.random.default_rng([options.seed, n_tasks, n_seeds, int(1000 * seed_sd), 1])
                covered, by_tasks, by_both = false_alarms(
                    rng, kind, n_seeds, n_tasks, seed_sd, options.repeats // 2
                )
                print(
                    f"  {kind:9} {100 * seed_sd:6.1f} {n_seeds:6}   {100 * covered:15.1f}"
                    f"   {100 * by_tasks:19.1f}   {100 * by_both:18.1f}",
                    flush=True,
                )


def _classes(options: argparse.Namespace, n_tasks: int) -> None:
    print(f"\n{n_tasks} tasks of {WAY} classes: coverage of the truth for other classes; seed SD 0.5 points")
    print("  classes  of single %  of pairs %  seeds   over classes    difference   over seeds and tasks")
    repeats = max(200, options.repeats // 4)
    for n_classes in (20, 69, 423):
        for of_classes, of_pairs in ((0.0, 0.0), (0.1, 0.0), (0.4, 0.0), (0.2, 0.2)):
            for n_seeds in (1, 2, 3, 10):
                rng = np.random.default_rng([options.seed, n_tasks, n_seeds, n_classes, int(10 * of_classes)])
                classes = tasks_of(rng, n_tasks, n_classes)
                design = stats.design(classes.tolist())
                spread = 0.005 if n_seeds > 1 else 0.0
                drawn = with_classes(rng, classes, n_seeds, spread, of_classes, of_pairs)
                ours = cover(
                    lambda x, design=design: stats.class_interval(x, design, "share"),
                    lambda d: d.everywhere,
                    drawn,
                    repeats,
                )
                apart = cover(
                    lambda x, design=design, drawn=drawn: stats.paired_classes(
                        x, next(drawn).scores, design, scale="share"
                    ),
                    lambda d: 0.0,
                    drawn,
                    repeats,
                )
                few = max(200, repeats // 5)  # it strays so far that few are enough
                plain = cover(lambda x: stats.seeds_and_tasks(x, "share"), lambda d: d.everywhere, drawn, few)
                cell = f"  {n_classes:7} {100 * of_classes:12.0f} {100 * of_pairs:11.0f} {n_seeds:6}"
                print(f"{cell}   {percent(ours)}    {percent(apart)}    {percent(plain)}", flush=True)


def _pictures(options: argparse.Namespace, n_tasks: int) -> None:
    print("\nfew classes, whose pictures tasks share: coverage of the truth for other pictures")
    print("  classes  pictures  way  shot  query  tasks  folds  training SD   over pictures   over tasks")
    for few in FEW:
        rng = np.random.default_rng([options.seed, *map(int, few[:7])])
        covered = over_pictures(rng, few, options.repeats // 5)
        cell = "  {:7} {:9} {:4} {:5} {:6} {:6} {:6} {:12}".format(*few)
        print(f"{cell}   {percent(covered)}   {100 * covered.other:10.1f}", flush=True)


def _boards(options: argparse.Namespace, n_tasks: int) -> None:
    print(f"\n{BOARD_TASKS} tasks, seeds differ by {100 * SEED_SD:.0f} point: % of pairs and of boards")
    print("  rows  first ahead  seeds   pairs, p < 0.05   boards, Holm   the best left out   others left out")
    for n_rows in (4, 8):
        for ahead in (0.0, 0.05):
            for n_seeds in (2, 3, 5):
                rng = np.random.default_rng([options.seed, n_rows, n_seeds, int(100 * ahead)])
                single, apart, best, others = wrong_boards(rng, n_rows, n_seeds, ahead, options.repeats // 5)
                print(
                    f"  {n_rows:4} {100 * ahead:12.0f} {n_seeds:6}   {100 * single:15.1f}"
                    f"   {100 * apart:12.1f}   {100 * best:17.1f}   {100 * others:15.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
