"""The page's order and tables: the answer first, what was searched stands out, no panel without content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench.report.html import page, reading, style, tables
from metabench.report.html.pictures import Omitted, Picture, adaptation, leaderboard, search
from metabench.report.html.reading import Results
from metabench.training import diagnostics
from metabench.training import run as runs
from tests.report.conftest import Written
from tests.support import small


@pytest.fixture(scope="module")
def results(large: Written) -> Results:
    """Return what was read of the search of 500 trials."""
    return reading.read([large.folder])


def changed(results: Results, place: int, **values: Any) -> Results:
    """Return results of which one row of the leaderboard says something else."""
    rows = [{**row, **values} if at == place else row for at, row in enumerate(results.board["rows"])]
    return results._replace(board={**results.board, "rows": rows})


def test_the_answer_comes_first_and_is_escaped(results: Results) -> None:
    answered = results._replace(board={**results.board, "answer": "protonet <b>wins</b>."})
    text = page.render(answered, [], {}, "pictures/")
    answer = text.index('<p class="answer">protonet &lt;b&gt;wins&lt;/b&gt;.</p>')
    assert text.index("<h1>") < answer < text.index("<nav")
    assert 'class="answer"' not in page.render(
        results._replace(board={**results.board, "answer": None}), [], {}, ""
    )


def test_what_was_searched_stands_out_and_the_rest_is_folded(results: Results) -> None:
    table = tables.of_board(results)["setting"]
    (place,) = (at for at, (title, _) in enumerate(table.columns) if title == "Hyperparameters")
    cells = {(row[0].text, row[1].text): row[place] for row in table.rows}
    tuned = cells["maml_pp", "tuned"]
    shown = {part.split("=")[0] for part in tuned.text.split(", ")}
    folded = {part.split("=")[0] for part in tuned.folded.split(", ")}
    assert {"inner_lr", "outer_lr", "inner_steps", "task_batch_size", "multi_step_loss"} <= shown
    assert {"eval_steps", "cosine"} <= folded
    assert tuned.summary == f"{len(folded)} not searched"
    assert "inner_lr" not in cells["protonet", "tuned"].text


def test_panels_are_of_settings_in_which_trials_differ(results: Results) -> None:
    (picture,) = search.draw_slices(results)
    assert isinstance(picture, Picture)
    for width in (style.WIDE, style.NARROW):
        axes = picture.draw(width).axes
        assert len(axes) == 3 * 4 + 2  # protonet has no inner loop
        assert all(axis.lines for axis in axes)
    first = [tried for tried in results.trials if tried.trial.name == "protonet-000"]
    assert isinstance(search.draw_slices(results._replace(trials=first))[0], Omitted)


@pytest.mark.parametrize("width", [style.WIDE, style.NARROW])
@pytest.mark.parametrize(("low", "high", "mean"), [(0.95, 1.055, 1.0), (-0.058, 0.02, 0.0)])
def test_no_axis_of_shares_passes_none_or_all(
    results: Results, width: float, low: float, high: float, mean: float
) -> None:
    extreme = changed(results, 0, accuracy=mean, ci_low=low, ci_high=high)
    (ranking,), (cost,) = leaderboard.draw_ranking(extreme), leaderboard.draw_cost(extreme)
    assert isinstance(ranking, Picture)
    assert isinstance(cost, Picture)
    limits = [ranking.draw(width).axes[0].get_xlim(), *(axis.get_ylim() for axis in cost.draw(width).axes)]
    assert all(0 <= bottom < top <= 100 for bottom, top in limits)


def test_one_query_at_a_time_is_shown_where_it_differs(results: Results) -> None:
    (same,) = leaderboard.draw_ranking(changed(results, 0, accuracy_one_at_a_time=None))
    (less,) = leaderboard.draw_ranking(changed(results, 0, accuracy_one_at_a_time=0.3))
    assert isinstance(same, Picture)
    assert isinstance(less, Picture)
    assert "classified by itself" in less.caption
    assert "classified by itself" not in same.caption
    keys = [
        [text.get_text() for text in picture.draw(style.WIDE).legends[0].get_texts()]
        for picture in (same, less)
    ]
    assert set(keys[1]) - set(keys[0]) == {"one query at a time"}


def test_classes_of_the_best_row_are_shown_where_they_were_counted(results: Results) -> None:
    assert tables.classes(results) == []
    hardest, confused = [["a", 0.25, 40]], [["a", "b", 0.41, 30]]
    counted = changed(results, 0, hardest=hardest, confused=confused)
    errs, mixes = tables.classes(counted)
    assert [cell.text for cell in errs.rows[0]] == ["a", "25.0%", "40"]
    assert [cell.text for cell in mixes.rows[0]] == ["a", "b", "41%", "30"]
    assert results.name(counted.board["rows"][0]) in errs.caption
    assert len(tables.classes(changed(results, 0, hardest=hardest))) == 1


def test_a_long_adaptation_is_drawn_to_its_end(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "STEPS", 10)
    config = small.config("finetune", tasks=8, rungs=(4, 8))
    config = config.model_copy(update={"hyperparameters": {"inner_steps": 100}})
    runs.train_run(config, small.splits(), tmp_path / "run")
    (picture,) = adaptation.draw_steps(reading.read([tmp_path / "run"]))
    assert isinstance(picture, Picture)
    assert "Lines over 0 to 100 inner steps" in picture.alt
    assert "after 100 steps" in picture.alt
    (axis,) = picture.draw(style.WIDE).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "5", "10", "20", "50", "100"]
