"""Colours that everybody can tell apart, and axes that can be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metabench.report.html import style

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHTS = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
# Ottosson 2020, from linear RGB to Oklab, whose distances are those that people see.
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.793617785, -0.0040720468],
        [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ]
)


def linear(color: str) -> NDArray[np.float64]:
    values = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Return the contrast of WCAG 2."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(color: str, sight: str) -> NDArray[np.float64]:
    seen = np.clip(np.asarray(SIGHTS[sight]) @ linear(color), 0, 1)
    return TO_LAB @ np.cbrt(TO_LMS @ seen)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(theme: int) -> None:
    contrasts = {
        name: contrast(colors[theme], style.COLOURS["paper"][theme]) for name, colors in style.COLOURS.items()
    }
    assert contrasts["ink"] >= 7
    assert contrasts["soft"] >= 4.5  # what WCAG 2 asks of text
    assert contrasts["blue"] >= 4.5  # links
    assert all(contrasts[name] >= 3 for name in (*style.SERIES, "faint"))  # and of pictures


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_series_can_be_told_apart_by_every_eye(theme: int, sight: str) -> None:
    places = {name: lab(style.COLOURS[name][theme], sight) for name in style.SERIES}
    near = {
        (a, b): float(np.linalg.norm(places[a] - places[b])) for a, b in itertools.combinations(places, 2)
    }
    assert min(near.values()) > 0.08, min(near, key=near.__getitem__)  # a just noticeable one is about 0.02


def test_no_two_colours_are_written_alike() -> None:
    lights = [light for light, _ in style.COLOURS.values()]
    assert len(set(lights)) == len(lights)  # each becomes a variable of its own


def test_two_dozen_series_look_different_and_keep_their_look() -> None:
    labels = [f"row {number}" for number in range(24)]
    looks = style.lines(labels)
    assert len(set(map(str, looks.values()))) == 24
    assert style.lines(labels[:5]) == {label: looks[label] for label in labels[:5]}


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40, unique=True), st.floats(0.01, 0.5))
def test_ticks_keep_their_distance_and_the_last_one(ticks: list[float], gap: float) -> None:
    kept = style.spaced(ticks, lambda tick: tick / 1e6, gap)
    assert kept[-1] == max(ticks)
    assert all(b / 1e6 - a / 1e6 >= gap for a, b in itertools.pairwise(kept))


@given(st.floats(1e-9, 1e9), st.floats(1.5, 1e12))
def test_logarithmic_ticks_hold_both_ends_and_keep_their_distance(low: float, ratio: float) -> None:
    ticks = style.log_ticks(low, low * ratio)
    assert (ticks[0], ticks[-1]) == (low, low * ratio)
    assert all(np.log(b / a) >= 0.16 * np.log(ratio) - 1e-9 for a, b in itertools.pairwise(ticks))


@given(st.text(min_size=1, max_size=80))
def test_a_shortened_name_fits_and_keeps_both_ends(name: str) -> None:
    cut = style.short(name, 20)
    assert len(cut) <= 20
    assert (cut == name) if len(name) <= 20 else (cut[:10] == name[:10] and cut[-9:] == name[-9:])


def test_names_are_broken_between_their_parts() -> None:
    assert style.wrapped("maml_pp.without_msl and more", 8) == "maml_pp\n.without\n_msl and\nmore"
    assert style.wrapped("multi_step_fraction") == "multi_step\n_fraction"
    assert style.wrapped("derivative_annealing", 6).split("\n") == ["derivative", "_annealing"]
    assert style.wrapped("lr") == "lr"


def test_numbers_are_brief() -> None:
    assert [style.brief(number) for number in (350, 2223, 14000, 1.5e6, 3e-5, 0)] == [
        "350",
        "2.22k",
        "14k",
        "1.5M",
        "3e-05",
        "0",
    ]
