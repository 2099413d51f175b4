"""The leaderboard's forms: for programs in [0, 1], for people in percent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from metabench import leaderboard
from metabench.core import MetabenchError, metrics
from metabench.core.metrics import PLAIN
from metabench.leaderboard import fairness
from metabench.leaderboard.columns import COLUMNS
from metabench.leaderboard.rows import KEYS, keys
from metabench.storage import files
from tests.leaderboard.folders import accuracies, finish, make_run, make_search

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, Any]:
    return leaderboard.leaderboard([finish(make_search(tmp_path / "search"), MEANS)])


def printed(shown: dict[str, Any], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(leaderboard.as_table(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_write_leaves_three_files_that_say_the_same(tmp_path: Path) -> None:
    shown = leaderboard.write(finish(make_search(tmp_path), MEANS))
    assert files.read_json(tmp_path / "leaderboard.json") == shown
    assert (tmp_path / "leaderboard.csv").read_text() == leaderboard.as_csv(shown)
    assert (tmp_path / "leaderboard.md").read_text() == leaderboard.as_markdown(shown)


def test_pandas_reads_json_and_csv_to_the_same_numbers(tmp_path: Path, finished: dict[str, Any]) -> None:
    from_csv = pd.read_csv(io.StringIO(leaderboard.as_csv(finished)))
    from_json = pd.json_normalize(json.loads(leaderboard.as_json(finished))["rows"], sep="_", max_level=1)
    assert set(KEYS) - {"vs_default", "vs_best"} <= set(from_csv.columns)
    exact = ("accuracy", "ci_low", "class_low", "seed_high", "val_optimism", "training_tasks", "rank")
    for key in (*exact, "vs_default_difference", "vs_default_p", "vs_best_p_holm", "vs_best_difference"):
        pd.testing.assert_series_equal(from_csv[key], from_json[key], check_dtype=False)
    settings = [json.loads(text) for text in from_csv["hyperparameters"].dropna()]
    assert settings == [row["hyperparameters"] for row in finished["rows"] if row["hyperparameters"]]


def test_the_terminal_table_fits_eighty_characters_and_breaks_no_cell(finished: dict[str, Any]) -> None:
    text = printed(finished, width=80)
    assert "small, 5-way 1-shot" in text
    starts = [line.split()[:4] for line in text.splitlines()]
    for row in finished["rows"][:-1]:
        rank, accuracy = str(row["rank"]), f"{100 * row['accuracy']:.1f}"
        assert [row["algorithm"], row["variant"], rank, accuracy] in starts
    cells = (
        "67.4–72.5",
        "+10.1 [+9.6, +10.5]",
        "-6.1 [-6.5, -5.6]",
        "inner_lr=0.4, inner_steps=5",
        "0:00:10",
    )
    for cell in cells:
        assert cell in text


def test_errors_are_plain_numbers_and_the_reader_is_told_that_lower_is_better(tmp_path: Path) -> None:
    shown = leaderboard.leaderboard([finish(make_search(tmp_path, metric="error"), MEANS, "error")])
    for text in (leaderboard.as_markdown(shown), printed(shown, width=80)):
        flat = " ".join(text.split())
        assert "small, 10-shot" in text
        assert "Mean squared error on meta-test, lower is better; 95 % intervals over seeds and tasks" in flat
        assert "+0.101 [+0.0965, +0.105]" in text
        assert "0.675–0.726" in text
        assert "%" not in flat.replace("95 %", "")
    assert "| Error |" in leaderboard.as_markdown(shown)
    assert f"| zero | baseline | 1 | {np.mean(accuracies(0.35, 9)):.3f} |" in leaderboard.as_markdown(shown)
    from_csv = pd.read_csv(io.StringIO(leaderboard.as_csv(shown)))
    assert from_csv["error"].tolist() == [row["error"] for row in shown["rows"]]
    assert from_csv["accuracy"].isna().all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.7, "0.700"), (5.0, "5.00"), (123.4, "123"), (0.01234, "0.0123"), (1234.5, "1.23e+03")],
)
def test_an_error_has_three_significant_digits(value: float, text: str) -> None:
    assert metrics.plain(value) == text
    assert metrics.show(metrics.ERROR, value) == text
    assert metrics.plain(value, "+") == f"+{text}"


def test_markdown_is_a_table_of_as_many_cells_a_line(finished: dict[str, Any]) -> None:
    lines = [line for line in leaderboard.as_markdown(finished).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(finished["rows"])
    assert len({line.count("|") for line in lines}) == 1
    assert "| maml | tuned | 1 | 70.0 |" in lines[2]
    assert "inner_lr=0.4, inner_steps=5" in lines[2]


def test_what_all_rows_share_is_said_once(finished: dict[str, Any]) -> None:
    text = leaderboard.as_markdown(finished)
    assert "seeds: 2; test tasks: 40; test classes: 12; model: single; batch norm: transductive" in text
    assert "Batch norm |" not in text
    finished["rows"][0]["batch_norm"] = "support_stats"
    assert "Batch norm |" in leaderboard.as_markdown(finished)


def test_runs_alone_have_no_columns_of_a_search(tmp_path: Path, finished: dict[str, Any]) -> None:
    assert "| Search tasks | Search time |" in leaderboard.as_markdown(finished)
    alone = leaderboard.as_markdown(leaderboard.leaderboard([make_run(tmp_path / "run", "maml", 0, 0.6)]))
    assert "Search" not in alone.split("|", 1)[1]
    assert "| Training tasks | Training time |" in alone


def test_missing_seeds_and_repeated_openings_are_told(finished: dict[str, Any]) -> None:
    finished["rows"][0] |= {"seeds": 1, "times_opened": 2}
    for text in (leaderboard.as_markdown(finished), printed(finished)):
        assert "1 of 2" in text
        assert "opened more than once for: maml tuned." in " ".join(text.split())


def test_a_running_search_says_so_and_shows_no_accuracy(tmp_path: Path) -> None:
    running = leaderboard.leaderboard([make_search(tmp_path)])
    text = leaderboard.as_markdown(running)
    assert "still running" in text
    assert "| maml | tuned |  | 45.0 |" in text
    assert "maml" in printed(running)
    assert pd.read_csv(io.StringIO(leaderboard.as_csv(running)))["accuracy"].count() == 1


def test_a_bar_in_a_setting_does_not_break_the_markdown_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a|b", "maml", 0, 0.6)
    shown = leaderboard.leaderboard([run])
    shown["rows"][0]["hyperparameters"]["mode"] = "a|b"
    assert r"mode=a\|b" in leaderboard.as_markdown(shown)


def test_every_column_shows_every_row(finished: dict[str, Any]) -> None:
    of_best = {"verdict", "p", "p_holm", "p_tasks", "higher"}  # parts of vs_best
    shown = {key for metric in PLAIN for key in keys(metric)} | {*fairness.KEYS}
    assert {column.key for column in COLUMNS} <= shown | of_best
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(isinstance(column.show(row), str) for column in COLUMNS for row in finished["rows"])
    assert set(leaderboard.FORMATS) == {"table", "json", "csv", "md", "latex"}


def test_asked_columns_are_shown_alone_and_a_typo_gets_the_nearest_name(finished: dict[str, Any]) -> None:
    lines = leaderboard.as_markdown(finished, ["p_holm", "rank", "opened", "class_ci"]).splitlines()
    assert "| Algorithm | Setting | p (Holm) | Rank | Last opened | New classes |" in lines
    assert any(line.startswith("| maml | tuned |  | 1 | 2026-01-01 | ") for line in lines)
    with pytest.raises(MetabenchError, match=r"no column 'clas_ci'. Did you mean 'class_ci'\?"):
        leaderboard.as_markdown(finished, ["clas_ci"])
    for whole in (leaderboard.as_json, leaderboard.as_csv):
        with pytest.raises(MetabenchError, match="hold every column"):
            whole(finished, ["rank"])


def test_latex_holds_every_cell_and_escapes_its_marks(finished: dict[str, Any]) -> None:
    finished["rows"][0]["algorithm"] = "ma_ml & 50 %"
    text = leaderboard.as_latex(finished)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    cells = [line.removesuffix(r" \\").split(" & ") for line in body]
    assert r"ma\_ml \& 50 \% & tuned & 1 & 70.0 & 67.4--72.5" in text
    assert len(body) == len(finished["rows"])
    columns = text[text.index("{tabular}{") + len("{tabular}{") :].split("}")[0]
    assert {len(line) for line in cells[1:]} == {len(columns)}
    header = text[text.index(r"\toprule") : text.index(r"\midrule")]
    assert r"Tuned $-$ default" in header
    assert all(line.startswith("%") for line in text[: text.index(r"\begin")].splitlines())


def test_a_board_of_many_rows_stays_within_its_width(tmp_path: Path) -> None:
    names = [f"algorithm_{number}" for number in range(12)]
    means = {name: (0.9 - 0.01 * number, 0.5) for number, name in enumerate(names)}
    shown = leaderboard.leaderboard([finish(make_search(tmp_path, tuple(names)), means)])
    for width in (60, 80, 100, 120):
        assert max(len(line) for line in printed(shown, width).splitlines()) <= width


def test_columns_that_have_no_room_go_into_a_further_table_and_no_number_is_broken(
    finished: dict[str, Any],
) -> None:
    asked = [
        "rank",
        "accuracy",
        "ci",
        "seed_ci",
        "class_ci",
        "vs_best",
        "vs_default",
        "p_holm",
        "higher",
        "opened",
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(leaderboard.as_table(finished, asked))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("Algorithm") == 3
    row = finished["rows"][1]
    for column in COLUMNS:
        if column.name in asked:
            assert column.show(row) in text
