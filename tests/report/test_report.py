"""The report as a file: complete, self-contained, escaped, small, quick, and honest about what it leaves "
"out."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from metabench import data, report
from metabench.cli import app
from metabench.core import MetabenchError
from metabench.data.tasks import frozen
from metabench.report.html import reading
from metabench.report.html.pictures import Omitted, Picture, adaptation, gallery
from metabench.search.progress import summary
from metabench.storage import files
from metabench.training import run as runs
from metabench.training.evaluate import evaluate
from tests.report import played
from tests.report.conftest import CANARY, Written
from tests.support import small

FAMILIES = {
    "leaderboard",
    "cost",
    "anytime",
    "curves",
    "final_curves",
    "slices",
    "inner_steps",
    "rates_by_step",
    "rates_by_layer",
}


class Elements(HTMLParser):
    """Every element of a page with its attributes, and every text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def metabench(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_every_family_is_drawn_and_lies_beside_the_page_as_png_and_svg(large: Written) -> None:
    names = {picture.name for picture in large.pictures}
    assert names >= FAMILIES
    assert len(names - FAMILIES) == 4  # episodes of the four algorithms
    files = {path.name for path in (large.out.parent / "report_pictures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    page = Elements(large.out.read_text())
    drawn = {attrs["id"] for tag, attrs in page.elements if tag == "figure"}
    assert drawn == {f"picture-{name}" for name in names}


def test_five_hundred_trials_take_seconds_and_few_megabytes(large: Written) -> None:
    assert large.seconds < 20
    assert large.out.stat().st_size < 5e6
    rows = re.search(r'<table id="trials".*?</table>', large.out.read_text(), re.DOTALL)
    assert rows is not None
    assert rows[0].count("<tr>") == 501


def test_a_page_needs_nothing_else(large: Written) -> None:
    page = Elements(large.out.read_text())
    links = [attrs.get(key) or "" for _, attrs in page.elements for key in ("src", "href", "xlink:href")]
    assert {link.split(":")[0] for link in links if link and link[0] != "#"} <= {"data"}
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "embed", "form")]
    assert "url(http" not in large.out.read_text()


def test_every_picture_has_words_for_who_cannot_see_it(large: Written) -> None:
    for picture in large.pictures:
        assert len(picture.alt) > 40, picture.name
        assert re.search(r"\d", picture.alt), f"{picture.name} says no figure"
        assert picture.caption.endswith("."), picture.name


def test_headings_go_down_one_level_at_a_time_and_ids_are_unique(large: Written) -> None:
    page = Elements(large.out.read_text())
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(ids)) == len(ids)


def test_budgets_of_the_table_are_those_of_the_status(large: Written) -> None:
    algorithms = summary.read(large.folder)["algorithms"]
    text = large.out.read_text()
    for part in algorithms.values():
        assert f">{part['tasks_seen']:,}</td>" in text
        assert "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}".join(map(str, part["rungs"].values())) in text


def test_markup_in_names_and_errors_is_text(hostile: Path) -> None:
    text = hostile.read_text()
    page = Elements(text)
    assert [tag for tag, _ in page.elements].count("script") == 1  # the page's own
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert not [tag for tag, _ in page.elements if tag in ("img", "b")]
    words = "".join(page.texts)
    assert f"{CANARY} ({CANARY}), 3-way 1-shot" in words  # data set and split, in the title
    assert words.count(CANARY) >= 5  # the trial's error, the space, the pictures
    assert "A: " in words
    assert "&#39;name" in text


def test_a_running_search_is_shown_as_far_as_it_has_come(tmp_path: Path, quick: None) -> None:
    folder = played.play(tmp_path / "search", played.space(5), small.splits(), until=9)
    pictures = report.write([folder], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert {"leaderboard", "anytime", "curves", "slices"} <= {picture.name for picture in pictures}
    assert "Still running" in text
    assert "8 of 9 trials have ended" in text
    assert "Left out: nothing that was trained has been tested yet." in text
    assert "Left out: no run to the full budget has weights yet." in text
    assert "on meta-validation" in text


def test_a_search_that_has_just_begun_is_no_mistake(tmp_path: Path, quick: None) -> None:
    folder = played.play(tmp_path / "search", played.space(5), small.splits(), until=0)
    report.write([folder], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("Left out: ") >= 8


def test_a_run_of_regression_is_shown_with_its_functions(tmp_path: Path) -> None:
    config = small.regression(tasks=16).model_copy(update={"rungs": [8, 16], "validation_tasks": 4})
    runs.train_run(config, small.sinusoids(), tmp_path / "run")
    runs.test_run(tmp_path / "run", small.sinusoids(), 6)
    pictures = {
        picture.name: picture for picture in report.write([tmp_path / "run"], tmp_path / "report.html")
    }
    assert pictures.keys() == {
        "leaderboard",
        "cost",
        "speed",
        "final_curves",
        "inner_steps",
        "episodes_1_maml",
    }
    assert "task 3 has a mean squared error of" in pictures["episodes_1_maml"].alt
    assert "error" in pictures["inner_steps"].title.lower()
    assert "metabench train --config run.json" in (tmp_path / "report.html").read_text()


def test_without_the_data_the_gallery_says_so(large: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    results = reading.read([large.folder])

    def absent(task: object, root: object = None) -> None:
        raise MetabenchError("glyphs: no such folder")

    monkeypatch.setattr(data, "load", absent)
    assert gallery.draw(results.learners()) == [Omitted("Episodes", "glyphs: no such folder")]
    others = small.splits()._replace(fingerprint="1" * 64)
    monkeypatch.setattr(data, "load", lambda task, root=None: others)
    (left,) = gallery.draw(results.learners())
    assert isinstance(left, Omitted)
    assert "are others than those it was trained on" in left.why


def test_the_gallery_counts_as_evaluation_does(large: Written) -> None:
    results = reading.read([large.folder])
    final = next(final for final in results.finals if final.label == "protonet")
    splits = small.splits()
    tasks = frozen.frozen(splits, "meta_validation", runs.read_config(final.run.folder).task, 2, "confirm")
    opened = runs.open_run(final.run.folder, splits)
    wanted = evaluate(opened.model, splits.meta_validation.images, tasks).score
    shown = [
        float((one.guess == one.query_y).float().mean()) for one in gallery.predict(final, splits, tasks)
    ]
    assert shown == pytest.approx(list(wanted))


def test_learned_rates_are_those_of_the_weights(large: Written) -> None:
    results = reading.read([large.folder])
    steps, layers = adaptation.draw_rates(results)
    assert isinstance(steps, Picture)
    assert isinstance(layers, Picture)
    final = next(final for final in results.finals if (final.label, final.variant) == ("alpha_maml", "tuned"))
    alpha = float(runs.open_run(final.run.folder, small.splits()).model.meta["alpha"])
    assert f"alpha_maml: all layers {alpha:.3g}" in layers.alt
    assert "meta_sgd: slowest " in layers.alt
    assert "maml_pp: slowest " in steps.alt
    assert "protonet" not in steps.alt + layers.alt


def test_a_scale_of_outputs_is_no_learned_rate(tmp_path: Path) -> None:
    """R2-D2's scale is called alpha, as learned rates are elsewhere, and starts from another setting."""
    config = small.config("r2d2", tasks=8, rungs=(8,)).model_copy(update={"hyperparameters": {}})
    runs.train_run(config, small.splits(), tmp_path / "run")
    names = {picture.name for picture in report.write([tmp_path / "run"], tmp_path / "report.html")}
    assert "final_curves" in names
    assert (
        "no run whose algorithm learns its rates otherwise has weights yet"
        in (tmp_path / "report.html").read_text()
    )


def test_the_command_writes_where_it_is_told_and_says_so(tmp_path: Path, quick: None) -> None:
    folder = played.play(tmp_path / "search", played.space(2, ("protonet",)), small.splits())
    result = metabench("report", folder, "--out", tmp_path / "new" / "page.html")
    assert result.exit_code == 0, result.output
    assert re.search(r"page.html: \d pictures, also as PNG and SVG in .*new/page_pictures", result.stdout)
    assert (tmp_path / "new" / "page.html").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [("report.pdf", "must end in .html"), ("taken.html", "is a folder; give a file")],
)
def test_a_place_that_cannot_hold_a_page_is_refused(tmp_path: Path, out: str, said: str) -> None:
    (tmp_path / "taken.html").mkdir()
    result = metabench("report", tmp_path, "--out", tmp_path / out)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_no_search_or_cannot_be_compared_is_refused(tmp_path: Path, quick: None) -> None:
    assert "holds neither a search nor a run" in metabench("report", tmp_path).stderr
    runs.train_run(small.config(tasks=8, rungs=(8,)), small.splits(), tmp_path / "run")
    other = files.read_json(tmp_path / "run" / files.CONFIG)
    files.write_json(tmp_path / "other" / files.CONFIG, {**other, "data_fingerprint": "f" * 64})
    result = metabench("report", tmp_path / "run", tmp_path / "other", "--out", tmp_path / "report.html")
    assert result.exit_code == 2
    assert "cannot stand on one leaderboard" in result.stderr
    assert not (tmp_path / "report.html").exists()
