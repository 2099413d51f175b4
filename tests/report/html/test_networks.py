"""The pictures of searched networks: every operation of a cell once and legibly, every trial at its size."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from metabench.core import metrics
from metabench.core.config import NetworkSpace, SearchSpace
from metabench.core.config.genotype import ALL, INPUTS, LAST, OPERATIONS, Edge, Genotype, canonical
from metabench.report.html import reading, style, svg
from metabench.report.html.pictures import Omitted, Picture, cells, sizes
from metabench.report.html.reading import Results
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger
from metabench.search.journal.rule import decide
from metabench.search.propose.feasible import Size
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files
from tests.report import played
from tests.report.conftest import CANARY
from tests.search.played import make_report
from tests.support import small

WIDTHS = {"choices": [4, 8, 16, 32], "default": 4}


def drawn(generator: random.Random) -> Genotype:
    """Draw a cell of any size."""
    nodes = tuple(
        tuple(
            Edge(generator.choice(OPERATIONS), generator.randrange(state))
            for _ in range(generator.choice((1, 2)))
        )
        for state in range(INPUTS, INPUTS + generator.randint(1, 5))
    )
    return canonical(Genotype(nodes, generator.choice((ALL, LAST)), generator.randint(1, 8), 2))


def results(words: list[str], name: str = "protonet") -> Results:
    rows = [
        {"algorithm": f"{name}{number}", "variant": "tuned", "folder": "x", "genotype": word}
        for number, word in enumerate(words)
    ]
    return Results({"rows": rows}, metrics.ACCURACY, (), {}, [], [], [], [], [])


@pytest.mark.parametrize("width", [style.WIDE, style.NARROW])
@pytest.mark.parametrize("seed", range(6))
def test_each_operation_stands_once_and_covers_no_other_word(width: float, seed: int) -> None:
    generator = random.Random(seed)
    words = [str(drawn(generator)) for _ in range(5)]
    (picture,) = cells.draw_cells(results(words))
    assert isinstance(picture, Picture)
    with style.rules():
        figure = picture.draw(width)
        FigureCanvasAgg(figure).draw()
    for axis, word in zip(figure.axes, dict.fromkeys(words), strict=True):
        assert Counter(text.get_text() for text in axis.texts if text.get_text() in OPERATIONS) == Counter(
            edge.split("(")[0] for node in word.split(">")[0].split("|") for edge in node.split("+")
        )
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_a_line_runs_from_what_is_read_to_the_node_that_reads_it() -> None:
    cell = Genotype(
        ((Edge("conv_3x3", 0), Edge("identity", 1)), (Edge("conv_3x3", 2),), (Edge("identity", 1),)),
        ALL,
        8,
        4,
    )
    (picture,) = cells.draw_cells(results([str(cell)]))
    assert isinstance(picture, Picture)
    with style.rules():
        (axis,) = picture.draw(style.WIDE).axes
    places = {text.get_text()[0]: text.get_position() for text in axis.texts if text.get_text()[0].isdigit()}
    ends = Counter(
        (tuple(line.get_xydata()[0]), tuple(line.get_xydata()[-1]))  # type: ignore[call-overload, index]
        for line in axis.lines
    )
    (concat,) = (text.get_position() for text in axis.texts if text.get_text() == "concat")
    edges = [(e.state, node) for node, those in enumerate(cell.nodes, INPUTS) for e in those]
    expected = [(places[str(a)], places[str(b)]) for a, b in edges]
    assert ends == Counter([*expected, *((places[state], concat) for state in "234")])


def test_rows_of_one_cell_share_a_picture_and_their_names_are_text() -> None:
    (picture,) = cells.draw_cells(results(["conv_3x3(1)>all*4/4"] * 2, CANARY))
    assert isinstance(picture, Picture)
    with style.rules():
        assert len(picture.draw(style.WIDE).axes) == 1
        rendered = svg.render(picture)
    assert "<script" not in rendered.inline
    assert "&lt;script" in rendered.inline
    assert cells.draw_cells(results([])) == []


def space(network: dict[str, Any], trials: int = 6) -> SearchSpace:
    """Return a search of two algorithms, whose networks are searched."""
    return played.space(trials, ("protonet", "meta_sgd")).model_copy(
        update={"network": NetworkSpace.model_validate(network)}
    )


def play(folder: Path, space: SearchSpace, size: Any) -> Results:
    """Search with made-up scores that are the better the wider a network is."""
    create_or_resume(folder, space, small.splits(), seed=0)
    searcher = FairSearcher(space, Ledger(folder, 2), seed=0, size_of=size)
    for number in range(searcher.remaining()):
        config = searcher.suggest(str(number))
        assert isinstance(config, dict)
        for rung in searcher.rungs:
            figure = 0.3 + config["hyperparameters"].get("network.width", 4) / 100
            if (
                decide(searcher.ledger, space.budget, config["trial"], make_report(rung, figure))
                != "continue"
            ):
                break
        searcher.hand_back(str(number))
    return reading.read([folder])


def by_width(algorithm: str, hyperparameters: Any) -> Size:
    return Size(1000 * hyperparameters["network.width"] * (2 if algorithm == "meta_sgd" else 1))


@pytest.mark.parametrize("width", [style.WIDE, style.NARROW])
def test_each_trial_stands_at_what_it_learns_and_the_front_rises(tmp_path: Path, width: float) -> None:
    read = play(tmp_path / "sizes", space({"width": WIDTHS}), by_width)
    best = next(trial for trial in read.searches[0].ledger.of("protonet") if trial.status == "complete")
    files.write_json(tmp_path / "sizes" / files.CONFIRM / f"{best.name}.json", {})
    search = read.searches[0].search._replace(chosen={"protonet": {"trial": best.name}})
    read = read._replace(searches=[read.searches[0]._replace(search=search)])
    (picture,) = sizes.draw_sizes(read)
    assert isinstance(picture, Picture)
    with style.rules():
        (axis, *_) = picture.draw(width).axes
    assert axis.get_xscale() == "log"
    front, *points = axis.lines
    assert all(a < b for a, b in zip(front.get_ydata(), front.get_ydata()[1:], strict=False))  # type: ignore
    assert len(points) == len(read.trials) + 1  # and the ring of the one that was chosen
    places = Counter(round(float(line.get_xdata()[0])) for line in points)  # type: ignore[index, arg-type]
    expected = Counter(tried.trial.parameters for tried in read.trials)
    assert places == expected + Counter([best.parameters])


def test_what_was_not_counted_is_left_out_and_said(tmp_path: Path) -> None:
    (omitted,) = sizes.draw_sizes(play(tmp_path / "old", space({"width": WIDTHS}), lambda *_: Size()))
    assert isinstance(omitted, Omitted)
    assert sizes.draw_sizes(play(tmp_path / "one", space({"width": 4}), lambda *_: Size())) == []


@pytest.mark.parametrize(("of_rows", "n_sized"), [((196,), 1), ((196, 196), 1), ((196, 530), 0), ((), 0)])
def test_rows_say_what_trials_learn_where_they_agree(
    tmp_path: Path, of_rows: Sequence[int], n_sized: int
) -> None:
    read = play(tmp_path / "one", space({"width": 4}), lambda *_: Size())
    rows = [{"algorithm": "protonet", "folder": "", "parameters": count} for count in of_rows]
    sized = sizes._sized(read._replace(board={**read.board, "rows": rows}))
    n_trials = sum(trial.algorithm == "protonet" for trial in read.searches[0].ledger.trials.values())
    assert n_trials > 1
    assert [one.parameters for one in sized] == [*of_rows[:1]] * n_trials * n_sized
