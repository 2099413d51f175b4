"""A report in a real browser: it draws, sorts, filters, goes dark and prints, with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metabench import report
from metabench.core.config import NetworkSpace
from tests.report import played
from tests.report.conftest import Written
from tests.support import small

# Pairs of words in one picture that cover each other, and words that leave it, in pixels.
CROWDED = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg.picture")) {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
    words.forEach(([a, r], index) => {
      if (r.left < frame.left - 1 || r.right > frame.right + 1 || r.top < frame.top - 1
          || r.bottom > frame.bottom + 1) found.push(`${a} leaves ${svg.parentElement.parentElement.id}`);
      for (const [b, q] of words.slice(index + 1)) {
        const width = Math.min(r.right, q.right) - Math.max(r.left, q.left);
        const height = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
        if (width > 1 && height > 3) found.push(`${a} over ${b} in ${svg.parentElement.parentElement.id}`);
      }
    });
  }
  return found;
}"""

SMALLEST = """() => Math.min(...[...document.querySelectorAll("svg.picture text")]
    .filter((e) => e.getClientRects().length)
    .map((e) => [parseFloat(getComputedStyle(e).fontSize), e.getScreenCTM()])
    .map(([size, { a, b }]) => size * Math.hypot(a, b)))"""


class Opened:
    """A page, and what the browser said while it was open."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900}, **how)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        """Return what the rows that are shown have in a column."""
        cells = f"#{table} tbody tr:not([hidden]) > :nth-child({number + 1})"
        return [text.strip() for text in self.page.locator(cells).all_inner_texts()]

    def colour(self, selector: str, name: str) -> float:
        """Return how bright a colour of an element is, from 0 to 255."""
        colour = self.page.evaluate(
            "([where, name]) => getComputedStyle(document.querySelector(where)).getPropertyValue(name)",
            [selector, name],
        )
        numbers = [float(number) for number in re.findall(r"[\d.]+", colour)][:3]
        return sum(numbers) / 3


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Start a browser for this module alone: its event loop must not be there for other tests."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def opened(browser: Any, large: Written) -> Opened:
    """Return the open report of 500 trials."""
    return Opened(browser, large.out)


@pytest.fixture
def many(tmp_path: Path, quick: None) -> Path:
    """Return the report of a running search of seven rows with long names."""
    names = tuple(f"maml_pp.without_part_number_{number}_and_others" for number in range(6))
    space = played.space(4, ("protonet", *names))
    report.write([played.play(tmp_path / "many", space, small.splits(), until=26)], tmp_path / "report.html")
    return tmp_path / "report.html"


def test_it_loads_without_a_word_or_a_request(opened: Opened, large: Written) -> None:
    assert opened.said == []
    assert opened.asked == [large.out.as_uri()]


def test_every_picture_is_drawn_and_described(opened: Opened, large: Written) -> None:
    for picture in large.pictures:
        frame = opened.page.locator(f"#picture-{picture.name} svg.wide-picture")
        box = frame.bounding_box()
        assert box["width"] > 400, picture.name
        assert box["height"] > 100, picture.name
        assert frame.locator("path").count() > 3, picture.name
        named = opened.page.get_by_role("img", name=picture.title, exact=True)
        assert named.count() >= 1, picture.name
    broken = (
        "[...document.querySelectorAll('use')].filter((u) => !document.querySelector(u.getAttribute('href')))"
    )
    assert opened.page.evaluate(f"{broken}.length") == 0


def test_no_words_cover_each_other_or_leave_their_picture(opened: Opened) -> None:
    assert opened.page.evaluate(CROWDED) == []
    assert opened.page.evaluate(SMALLEST) >= 9


def test_seven_rows_with_long_names_stay_legible(browser: Any, many: Path) -> None:
    page = Opened(browser, many)
    assert page.page.evaluate(CROWDED) == []
    assert page.page.evaluate(SMALLEST) >= 9


def test_searched_networks_are_legible_on_screens_of_both_widths(
    browser: Any, tmp_path: Path, quick: None
) -> None:
    options = {f"node{k}_in2": {"choices": [0, k], "default": 0} for k in range(1, 6)}
    options |= {
        f"node{k}_op2": {"choices": ["max_pool_3x3", "none"], "default": "max_pool_3x3"}
        for k in (1, 2, 3, 4, 5)
    }
    options |= {f"node{k}_op1": "conv_1x5_5x1" for k in range(1, 6)}
    network = {"name": "cells", "width": 2, "options": {"nodes": 5, "layers": 2, "reductions": 2, **options}}
    space = played.space(6, ("protonet",)).model_copy(
        update={"network": NetworkSpace.model_validate(network)}
    )
    folder = played.finish(played.play(tmp_path / "cells", space, small.splits()), space, small.splits())
    report.write([folder], tmp_path / "report.html")
    for width in (1400, 390):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#picture-cells svg:visible text", has_text="conv_1x5_5x1").count() >= 5
        assert page.evaluate(CROWDED) == []
        assert page.evaluate(SMALLEST) >= 9
        page.close()


def test_a_table_is_sorted_by_the_keyboard_and_says_how(opened: Opened) -> None:
    head = opened.page.locator("#trials th[scope=col]", has_text="meta-val.")
    column = opened.page.locator("#trials th[scope=col]").all_inner_texts().index(head.inner_text())
    head.get_by_role("button").focus()
    for order, is_reversed in (("descending", True), ("ascending", False)):
        opened.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        cells = opened.column("trials", column)
        numbers = [float(cell) for cell in cells if cell]
        assert numbers == sorted(numbers, reverse=is_reversed)
        assert len(numbers) > 480
        assert not any(cells[len(numbers) :])  # what is not known comes last, whichever way
        assert opened.page.locator("#trials-said").inner_text() == f"sorted by meta-val. %, {order}"
    opened.page.locator("#trials th[scope=col] button").first.press("Space")
    assert opened.page.locator("#trials th[aria-sort]").count() == 1
    names = opened.column("trials", 0)
    assert names == sorted(names)


def test_rows_are_filtered_by_all_words(opened: Opened) -> None:
    field = opened.page.get_by_label("Filter rows of All trials")
    field.fill("Alpha_MAML complete")
    shown = list(zip(opened.column("trials", 1), opened.column("trials", 2), strict=True))
    assert set(shown) == {("alpha_maml", "complete")}
    assert opened.page.locator("#trials-said").inner_text() == f"{len(shown)} of 500 rows"
    field.fill("no such row")
    assert opened.column("trials", 0) == []
    field.fill("")
    assert len(opened.column("trials", 0)) == 500


def test_everything_is_reached_with_the_tab_key(opened: Opened) -> None:
    opened.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    reached = set()
    for _ in range(150):
        opened.page.keyboard.press("Tab")
        reached.add(
            opened.page.evaluate(
                "(({ id, className, nodeName }) => id || className || nodeName)(document.activeElement)"
            )
        )
    assert {"skip", "theme", "wide", "trials-filter", "BUTTON", "A", "SUMMARY"} <= reached


def test_dark_and_light_follow_the_reader_and_the_button(browser: Any, large: Written) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        page = Opened(browser, large.out, color_scheme=scheme)
        for _ in range(2):
            paper, ink = page.colour("body", "background-color"), page.colour("body", "color")
            drawn = page.colour("#picture-leaderboard text", "fill")
            assert (paper < 60) == is_dark
            assert abs(paper - ink) > 180
            assert abs(paper - drawn) > 120
            page.page.get_by_role("button", name="Light or dark").click()
            is_dark = not is_dark
        page.page.close()


def test_a_narrow_screen_has_pictures_of_its_own_and_nothing_leaves_it(browser: Any, large: Written) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(large.out.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for picture in large.pictures:
        box = page.locator(f"#picture-{picture.name} svg.narrow-picture").bounding_box()
        assert box["x"] >= 0, picture.name
        assert box["x"] + box["width"] <= 390, picture.name
    assert page.locator("svg.wide-picture:visible").count() == 0
    assert page.evaluate(CROWDED) == []
    assert page.evaluate(SMALLEST) >= 9
    page.close()


def test_no_column_is_cut_on_a_common_screen(browser: Any, large: Written) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(large.out.as_uri())
    cut = "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth)"
    assert page.evaluate(f"{cut}.map((e) => e.getAttribute('aria-label'))") == []
    page.close()


def test_it_prints_in_light_with_everything_unfolded(browser: Any, large: Written, tmp_path: Path) -> None:
    page = Opened(browser, large.out, color_scheme="dark")
    page.page.pdf(path=tmp_path / "report.pdf", format="A4")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 8 < len(re.findall(rb"/Type\s*/Page\b", content)) < 22
    page.page.emulate_media(media="print")
    assert page.colour("body", "background-color") > 200
    assert not page.page.get_by_label("Filter rows").first.is_visible()
    page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.page.locator("details:not([open])").count() == 0
    page.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.page.locator("details[open]").count() == 0
    page.page.close()


def test_it_can_be_read_without_javascript(browser: Any, large: Written) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(large.out.as_uri())
    assert page.locator("#trials tbody tr").count() == 500
    assert page.get_by_label("Filter rows").first.is_hidden()
    assert page.locator("#trials th[scope=col]").first.inner_text() == "trial"
    context.close()


def test_markup_in_names_runs_nothing(browser: Any, hostile: Path) -> None:
    page = Opened(browser, hostile)
    assert page.page.evaluate("window.hit") is None
    assert page.said == []
    assert page.page.locator("img").count() == 0
    assert page.page.locator("svg script, svg img").count() == 0
