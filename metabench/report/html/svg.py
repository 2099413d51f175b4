"""A figure as files, and as a part of a page: text stays text, colours follow the page, ids are its own."""

from __future__ import annotations

import copy
import io
import re
import warnings
from typing import Any, NamedTuple
from xml.etree import ElementTree as XML

import matplotlib as mpl
from markupsafe import Markup

from metabench.report.html.pictures import Picture
from metabench.report.html.style import COLOURS, PAPER

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
NUMBER = re.compile(r"-?\d+\.\d{3,}")
COLOUR = re.compile("|".join(light for light, _ in COLOURS.values()))
VARIABLES = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
PIXELS = 96 / 72
"""Of a page, for each of the points that a figure is measured in."""


class Rendered(NamedTuple):
    """A picture as part of a page, and as files on white."""

    inline: Markup
    svg: bytes
    png: bytes


def render(picture: Picture) -> Rendered:
    """Render a picture.

    Its words are text of the page, escaped by the XML writer, so the inline part needs no escaping.
    """
    root = _tree(picture)
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    file = copy.deepcopy(root)
    file.insert(2, XML.Element(f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "fill": PAPER}))
    for name in ("width", "height"):
        del root.attrib[name]
    root.set("class", "picture")
    root.set("style", f"width:{width * PIXELS:.0f}px;aspect-ratio:{width:.0f}/{height:.0f}")
    _rename(root, picture.name)
    text = XML.tostring(root, encoding="unicode")
    return Rendered(
        inline=Markup(COLOUR.sub(lambda match: VARIABLES[match[0]], text)),
        svg=XML.tostring(file, encoding="utf-8", xml_declaration=True),
        png=_saved(picture, "png", PAPER),
    )


def _saved(picture: Picture, form: str, ground: str) -> bytes:
    target = io.BytesIO()
    dated = ("Date", "Creator", "Format", "Type") if form == "svg" else ("Software",)
    how: dict[str, Any] = {"facecolor": ground, "metadata": dict.fromkeys(dated)}
    with warnings.catch_warnings():
        # Of letters that the drawn font lacks: browsers have others, and a PNG shows boxes.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        picture.figure.savefig(target, format=form, dpi=150 if form == "png" else 72, **how)
    picture.figure.set_layout_engine("none")  # what was laid out once stays where it is
    return target.getvalue()


def _tree(picture: Picture) -> XML.Element:
    """Return the figure's SVG on no ground, with its words, and numbers of as many digits as can be seen."""
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        text = _saved(picture, "svg", "none").decode()
    XML.register_namespace("", SVG)
    root = XML.fromstring(text)
    for part in root.findall(f"{{{SVG}}}metadata"):
        root.remove(part)
    for element in root.iter():
        if LINK in element.attrib:
            element.set("href", element.attrib.pop(LINK))
        elif element.tag != f"{{{SVG}}}image":  # whose scale may be small
            for name, value in element.attrib.items():
                element.set(name, NUMBER.sub(lambda number: f"{float(number[0]):.2f}", value))
    root.set("role", "img")
    root.set("aria-labelledby", f"{picture.name}-title")
    root.set("aria-describedby", f"{picture.name}-alt")
    words = (("title", "title", picture.title), ("desc", "alt", picture.alt))
    for place, (tag, key, text) in enumerate(words):
        element = XML.Element(f"{{{SVG}}}{tag}", {"id": f"{picture.name}-{key}"})
        element.text = text
        root.insert(place, element)
    return root


def _rename(root: XML.Element, name: str) -> None:
    """Give what is referred to an id of its own in the page, and drop all other ids."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', XML.tostring(root, encoding="unicode")))
    for element in root.iter():
        key = element.get("id", "")
        if key in used:
            element.set("id", f"{name}-{key}")
        elif key and not key.startswith(f"{name}-"):
            del element.attrib["id"]
        for attribute, value in element.attrib.items():
            owned = re.sub("^#", f"#{name}-", value) if attribute == "href" else value
            element.set(attribute, owned.replace("url(#", f"url(#{name}-"))
