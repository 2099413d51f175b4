"""A figure as files, and as a part of a page: text stays text, colours follow the page, ids are its own."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree as XML

import matplotlib as mpl
from markupsafe import Markup

from metabench import store
from metabench.report.picture import Picture
from metabench.report.style import COLOURS, PAPER

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
NUMBER = re.compile(r"-?\d+\.\d{3,}")
COLOUR = re.compile("|".join(light for light, _ in COLOURS.values()))
VARIABLES = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
PIXELS = 96 / 72
"""Of a page, for each of the points that a figure is measured in."""


def inline(picture: Picture) -> Markup:
    """Return a picture as an element of a page.

    Labels are text of the page, escaped by the XML writer, so the result needs no escaping.
    """
    root = _tree(picture)
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("class", "picture")
    root.set("style", f"width:{width * PIXELS:.0f}px;aspect-ratio:{width:.0f}/{height:.0f}")
    _describe(root, picture)
    _rename(root, picture.name)
    text = XML.tostring(root, encoding="unicode", short_empty_elements=True)
    return Markup(COLOUR.sub(lambda found: VARIABLES[found[0]], text))


def write(picture: Picture, folder: Path) -> list[Path]:
    """Write a picture as NAME.svg and NAME.png, on white."""
    root = _tree(picture, PAPER)
    _describe(root, picture)
    paths = [folder / f"{picture.name}.{suffix}" for suffix in ("svg", "png")]
    store.write_bytes(paths[0], XML.tostring(root, encoding="utf-8", xml_declaration=True))
    store.write_bytes(paths[1], _saved(picture, "png", PAPER))
    return paths


def _saved(picture: Picture, form: str, ground: str) -> bytes:
    target = io.BytesIO()
    nothing = (
        {"Date": None, "Creator": None, "Format": None, "Type": None} if form == "svg" else {"Software": None}
    )
    with warnings.catch_warnings():
        # Of letters that the drawn font lacks: browsers have others, and a PNG shows boxes.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        picture.figure.savefig(
            target, format=form, dpi=150 if form == "png" else 72, facecolor=ground, metadata=nothing
        )
    return target.getvalue()


def _tree(picture: Picture, ground: str = "none") -> XML.Element:
    """Return the figure's SVG, with numbers of as many digits as can be seen."""
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        text = _saved(picture, "svg", ground).decode()
    XML.register_namespace("", SVG)
    root = XML.fromstring(text)
    for part in root.findall(f"{{{SVG}}}metadata"):
        root.remove(part)
    for element in root.iter():
        if LINK in element.attrib:
            element.set("href", element.attrib.pop(LINK))
        elif element.tag != f"{{{SVG}}}image":  # whose scale may be small
            for name, value in element.attrib.items():
                element.set(name, NUMBER.sub(_rounded, value))
    return root


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def _describe(root: XML.Element, picture: Picture) -> None:
    root.set("role", "img")
    root.set("aria-labelledby", f"{picture.name}-title {picture.name}-alt")
    for place, (tag, text) in enumerate((("title", picture.title), ("desc", picture.alt))):
        element = XML.Element(
            f"{{{SVG}}}{tag}", {"id": f"{picture.name}-{'title' if tag == 'title' else 'alt'}"}
        )
        element.text = text
        root.insert(place, element)


def _rename(root: XML.Element, name: str) -> None:
    """Give what is referred to an id of its own in the page, and drop all other ids."""
    text = XML.tostring(root, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    for element in root.iter():
        key = element.get("id")
        if key is not None and not key.startswith(f"{name}-"):
            if key in used:
                element.set("id", f"{name}-{key}")
            else:
                del element.attrib["id"]
        for attribute, value in list(element.attrib.items()):
            if attribute == "href" and value.startswith("#"):
                element.set("href", f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))
