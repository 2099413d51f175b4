"""The picture and the table of domains say what the rows of the board do."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.patches import Rectangle

from metabench.core import metrics
from metabench.report.html import style, tables
from metabench.report.html.pictures import Picture, domains
from metabench.report.html.reading import Results

BY_DOMAIN = {
    "maml": [["coast", 0.25, 40], ["hills", 0.75, 40]],
    "finetune": [["coast", 0.5, 40], ["hills", 0.55, 40]],
    "chance": None,
}


def results(by_domain: dict[str, Any]) -> Results:
    rows = [
        {"algorithm": name, "variant": "run", "folder": name, "by_domain": one}
        for name, one in by_domain.items()
    ]
    return Results({"rows": rows}, metrics.ACCURACY, (), {}, [], [], [], [], [])


@pytest.mark.parametrize("width", [style.WIDE, style.NARROW])
def test_a_cell_is_the_stronger_the_more_is_right(width: float) -> None:
    (picture,) = domains.draw_domains(results(BY_DOMAIN))
    assert isinstance(picture, Picture)
    with style.rules():
        (axis,) = picture.draw(width).axes
    cells = [one for one in axis.patches if isinstance(one, Rectangle)]
    strengths = {(round(one.get_x() + 0.5), round(one.get_y() + 0.5)): one.get_alpha() for one in cells}
    assert sorted(strengths, key=lambda cell: strengths[cell]) == [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert {text.get_text() for text in axis.texts} == {"25", "75", "50", "55"}
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["coast", "hills"], "the hardest above"
    assert "maml run: worst in coast with 25" in picture.alt


def test_the_table_has_a_row_a_domain_and_the_spread() -> None:
    (table,) = tables.domains(results(BY_DOMAIN))
    assert [title for title, _ in table.columns] == ["domain", "queries", "maml run, %", "finetune run, %"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["coast", "40", "25.0", "50.0"],
        ["hills", "40", "75.0", "55.0"],
    ]


def test_without_several_domains_there_is_neither() -> None:
    for one in ({"maml": None}, {"maml": [["coast", 0.5, 40]]}):
        assert domains.draw_domains(results(one)) == []
        assert tables.domains(results(one)) == []
