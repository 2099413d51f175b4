"""A figure as a part of a page: ids of its own, words that are escaped, colours that follow the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree as XML

import pytest
from matplotlib.figure import Figure

from metabench.report.html import style, svg
from metabench.report.html.pictures import Picture

CANARY = "<script>alert('1.23456')</script> & $x^2$"


def picture(name: str = "one", label: str = CANARY) -> Picture:
    def draw(width: float) -> Figure:
        figure = style.new(3, width)
        axis = figure.subplots()
        axis.plot([1, 2], [1, 2.123456], "o-", color=style.light("blue"))
        axis.text(1, 1, label)
        return figure

    return Picture(name, "one picture", "", label, draw)


def render(name: str = "one", label: str = CANARY) -> svg.Rendered:
    with style.rules():
        return svg.render(picture(name, label))


def inline(rendered: svg.Rendered) -> list[XML.Element]:
    """Return the picture for wide screens and the one for narrow ones."""
    return list(XML.fromstring(f"<div>{rendered.inline}</div>"))


def test_words_are_escaped_and_stay_as_they_are() -> None:
    rendered = render()
    assert "<script" not in rendered.inline
    for root in (*inline(rendered), XML.fromstring(rendered.svg)):
        words = [element.text for element in root.iter() if element.text == CANARY]
        assert len(words) == 2  # in the drawing, and as its description


def test_a_picture_says_what_it_is_to_who_cannot_see_it() -> None:
    for root in inline(render(label="two points")):
        ids = {element.get("id"): element.text for element in root.iter() if element.get("id")}
        assert root.get("role") == "img"
        named, described = (ids[root.get(name)] for name in ("aria-labelledby", "aria-describedby"))
        assert (named, described) == ("one picture", "two points")


def test_a_picture_is_drawn_once_for_wide_screens_and_once_for_narrow_ones() -> None:
    wide, narrow = inline(render())
    widths = [float(root.attrib["viewBox"].split()[2]) / 72 for root in (wide, narrow)]
    assert widths == pytest.approx([style.WIDE, style.NARROW])
    assert "wide-picture" in wide.attrib["class"]
    assert "narrow-picture" in narrow.attrib["class"]


def test_pictures_of_one_page_share_no_id_and_find_their_own() -> None:
    pages = [XML.tostring(root, "unicode") for name in ("one", "two") for root in inline(render(name))]
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in pages]
    assert len(set.union(*ids)) == sum(map(len, ids))
    for page, page_ids in zip(pages, ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
        assert used
        assert used <= page_ids


def test_colours_become_variables_in_a_page_only() -> None:
    rendered = render()
    assert "var(--blue)" in rendered.inline
    assert "var(--ink)" in rendered.inline
    assert style.light("blue") not in rendered.inline
    assert style.light("blue").encode() in rendered.svg
    assert b"var(" not in rendered.svg


def test_the_same_figure_is_the_same_file() -> None:
    assert render() == render()


def test_files_are_png_and_svg_on_white() -> None:
    rendered = render()
    assert rendered.png.startswith(b"\x89PNG\r\n")
    ground = XML.fromstring(rendered.svg)[2]
    assert ground.tag.endswith("rect")
    assert ground.get("fill") == style.PAPER
