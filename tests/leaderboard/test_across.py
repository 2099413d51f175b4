"""Ranks over settings: what is counted, what is left out, and when a test is made of it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from metabench import leaderboard
from metabench.core import MetabenchError
from metabench.leaderboard import across
from metabench.leaderboard.across import about_settings
from metabench.storage import files
from tests.leaderboard.folders import accuracies, alone, finish, make_search

mpl.use("agg")


def make_settings(folder: Path, n: int, **extra: float) -> list[Path]:
    """Make searches that differ in their shots: maml ahead of fomaml in all but the first."""
    made = []
    for shot in range(1, n + 1):
        ahead = -0.02 if shot == 1 else 0.05
        means = {"maml": (0.6 + ahead, 0.5), "fomaml": (0.6, 0.4)}
        path = finish(make_search(folder / f"s{shot}"), means)
        record = files.read_json(path / files.SEARCH)
        record["space"]["task"]["shot"] = shot
        files.write_json(path / files.SEARCH, record)
        made.append(path)
    return made


def test_mean_ranks_wins_and_profiles_are_those_of_the_errors(tmp_path: Path) -> None:
    result = across.across(leaderboard.read(make_settings(tmp_path, 3)))
    rows = {row["name"]: row for row in result["rows"]}
    assert [row["name"] for row in result["rows"]] == [
        "maml:tuned",
        "fomaml:tuned",
        "maml:default",
        "fomaml:default",
    ]
    assert rows["maml:tuned"]["ranks"] == [2, 1, 1]
    assert rows["maml:tuned"]["mean_rank"] == pytest.approx(4 / 3)
    assert (rows["maml:tuned"]["wins"], rows["fomaml:tuned"]["wins"]) == (2, 1)
    assert rows["maml:tuned"]["costs"][1] == pytest.approx(1 - np.mean([accuracies(0.65, s) for s in (0, 1)]))
    # 0.42 / 0.40 = 1.05 in the first setting, 0.40 / 0.35 = 1.14 in the others.
    assert rows["fomaml:tuned"]["profile"]["1.1"] == pytest.approx(1 / 3)
    assert rows["fomaml:tuned"]["profile"]["1.25"] == 1
    assert result["tests"] is None
    assert result["settings"][0] == "small, 5-way 1-shot"
    assert "Too few settings" in about_settings(result)


def test_from_eight_settings_on_there_are_tests_and_a_diagram(tmp_path: Path) -> None:
    result = across.across(leaderboard.read(make_settings(tmp_path, 9)))
    table = np.array(result["tests"]["signed_rank_p_holm"])
    names = [row["name"] for row in result["rows"]]
    assert table.shape == (4, 4)
    # Tuned beats default in all nine: p = 2 / 2^9, adjusted for at most six pairs.
    assert table[names.index("maml:tuned"), names.index("maml:default")] < 0.05
    assert result["tests"]["friedman_p"] < 0.05
    assert "maml:tuned > maml:default" in about_settings(result)
    with Image.open(io.BytesIO(across.diagram(result))) as image:
        assert image.format == "PNG"
        assert np.ptp(np.asarray(image.convert("L"))) > 200


def test_too_few_settings_for_many_pairs_are_told(tmp_path: Path) -> None:
    result = across.across(leaderboard.read(make_settings(tmp_path, 8)))
    # Six pairs at 2 / 2^8 are just enough; with all of them doubled they would not be.
    assert "too few" not in about_settings(result)
    names = [{**row, "name": f"{row['name']}{copy}"} for copy in "ab" for row in result["rows"]]
    doubled = {**result, "rows": names, "tests": {"signed_rank_p_holm": np.ones((8, 8)).tolist()}}
    assert "8 settings are too few for 28 pairs: the surest would have p = 0.22." in about_settings(doubled)


def test_what_not_every_setting_has_is_left_out_and_named(tmp_path: Path) -> None:
    first, second = make_settings(tmp_path, 2)
    for path in (second / files.FINAL).glob("fomaml-default-*"):
        (path / files.TEST).unlink()
    result = across.across(leaderboard.read([first, second]))
    assert result["missing"] == ["fomaml:default"]
    assert "Left out, since not every setting has them: fomaml:default." in about_settings(result)


def test_who_has_less_one_at_a_time_is_named(tmp_path: Path) -> None:
    first, second = make_settings(tmp_path, 2)
    for seed in (0, 1):
        alone(second / files.FINAL / f"maml-tuned-seed{seed}", 0.4)
        alone(second / files.FINAL / f"fomaml-tuned-seed{seed}", 0.6)
    ranking = across.across(leaderboard.read([first, second]))
    assert ranking["worse_one_at_a_time"] == ["maml:tuned"]
    assert "Ranked by all queries of a task together; worse one at a time: maml:tuned." in about_settings(
        ranking
    )


def test_what_cannot_be_ranked_over_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_settings(tmp_path, 2)
    with pytest.raises(MetabenchError, match="only one setting, small, 5-way 1-shot"):
        across.across(leaderboard.read([first]))
    again = finish(make_search(tmp_path / "again"), {"maml": (0.6, 0.5), "fomaml": (0.6, 0.4)})
    with pytest.raises(MetabenchError, match="more than once in"):
        across.across(leaderboard.read([first, again, second]))
    with pytest.raises(MetabenchError, match="needs 8 settings or more"):
        across.diagram(across.across(leaderboard.read([first, second])))
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    result = across.across(leaderboard.read([first, second]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MetabenchError, match=r"pip install 'metabench\[report\]'"):
        across.diagram({**result, "tests": {}})
    record = files.read_json(second / files.SEARCH)
    files.write_json(second / files.SEARCH, {**record, "protocol": 9})
    with pytest.raises(MetabenchError, match="several protocols"):
        across.across(leaderboard.read([first, second]))
