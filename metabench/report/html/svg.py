"""A figure as files, and as a part of a page: text stays text, colours follow the page, ids are its own."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from xml.etree import ElementTree as XML

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from metabench.report.html import style
from metabench.report.html.pictures import Picture
from metabench.report.html.style import COLOURS

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
    """Render a picture, in the page at two widths of which a screen shows one.

    Its words are text of the page, escaped by the XML writer, so the inline part needs no escaping.
    """
    wide, narrow = (picture.draw(width) for width in (style.WIDE, style.NARROW))
    root = _tree(picture, wide)
    file = copy.deepcopy(root)
    file.insert(2, XML.Element(f"{{{SVG}}}rect", {"width": "100%", "height": "100%", "fill": style.PAPER}))
    return Rendered(
        inline=_inline(root, picture.name, "wide") + _inline(_tree(picture, narrow), picture.name, "narrow"),
        svg=XML.tostring(file, encoding="utf-8", xml_declaration=True),
        png=_png(wide),
    )


def _inline(root: XML.Element, name: str, kind: str) -> Markup:
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    for attribute in ("width", "height"):
        del root.attrib[attribute]
    root.set("class", f"picture {kind}-picture")
    root.set("style", f"width:{width * PIXELS:.0f}px;aspect-ratio:{width:.0f}/{height:.0f}")
    _rename(root, name, f"{name}-{kind}")
    text = XML.tostring(root, encoding="unicode")
    return Markup(COLOUR.sub(lambda match: VARIABLES[match[0]], text))


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.set_facecolor(style.PAPER)
    figure.set_dpi(150)
    with _quietly():
        FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})
    return target.getvalue()


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    figure.set_facecolor("none")
    with _quietly():
        # The canvas's way, unlike the figure's, draws once: layout is a part of drawing.
        FigureCanvasSVG(figure).print_svg(
            target, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    figure.set_layout_engine("none")  # what was laid out once stays where it is
    return target.getvalue()


@contextmanager
def _quietly() -> Iterator[None]:
    """Say nothing of letters that the drawn font lacks: browsers have others, and a PNG shows boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def _tree(picture: Picture, figure: Figure) -> XML.Element:
    """Return the figure's SVG on no ground, with its words, and numbers of as many digits as can be seen."""
    with mpl.rc_context({"svg.hashsalt": picture.name}):
        text = _svg(figure)
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


def _rename(root: XML.Element, name: str, unique: str) -> None:
    """Give what is referred to an id of its own in the page, and drop all other ids."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', XML.tostring(root, encoding="unicode")))
    for element in root.iter():
        key = element.get("id", "")
        if key in used or key.startswith(f"{name}-"):
            element.set("id", f"{unique}-{key}")
        elif key:
            del element.attrib["id"]
        for attribute, value in element.attrib.items():
            if attribute.startswith("aria-"):
                element.set(attribute, f"{unique}-{value}")
            elif attribute == "href":
                element.set(attribute, re.sub("^#", f"#{unique}-", value))
            else:
                element.set(attribute, value.replace("url(#", f"url(#{unique}-"))
