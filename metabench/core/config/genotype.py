"""Cells of convolutions and pools: how one is written, what it is built of, and which are the same.

A cell's states are numbered: 0 is the output of the cell before last, 1 of the last, both the image for the
first cell, and 2 that of node 1. A node adds up its edges, each an operation on an earlier state.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metabench.core import MetabenchError, setting
from metabench.core.config.settings import setting_problem

CELLS = "cells"
"""The name of the network of cells."""

MOST_NODES, MOST_LAYERS = 5, 8
INPUTS = 2
"""States of a cell that no node of it computes."""

NONE = "none"
"""No operation: the edge is not there."""

OPERATIONS = (
    *("conv_3x3", "conv_1x5_5x1", "sep_conv_3x3", "dil_conv_3x3"),
    *("max_pool_3x3", "avg_pool_3x3", "identity"),
)
ALL, LAST = "all", "last"
"""What a cell's output is: the outputs of its nodes one after the other, or that of the last."""

LONGEST = 300
"""Characters of a genotype."""

WRITTEN = re.compile(r"(.+)>(all|last)\*(\d+)/(\d+)")
EDGE = re.compile(r"([a-z0-9_]+)\((\d+)\)")


class Edge(NamedTuple):
    """One operation of a node."""

    operation: str
    state: int


class Genotype(NamedTuple):
    """The cell that a network repeats, and how often."""

    nodes: tuple[tuple[Edge, ...], ...]
    output: str
    layers: int
    reductions: int  # how many of the first cells halve an image

    def __str__(self) -> str:
        """Write it in one word, without a comma."""
        nodes = "|".join("+".join(f"{one.operation}({one.state})" for one in node) for node in self.nodes)
        return f"{nodes}>{self.output}*{self.layers}/{self.reductions}"


def _settings() -> list[tuple[str, type, Any]]:
    fields: list[tuple[str, type, Any]] = [
        ("genotype", str, setting("", "all that follows in one word, as leaderboards show it")),
        ("layers", int, setting(4, "cells", minimum=1, maximum=MOST_LAYERS)),
        ("reductions", int, setting(4, "of the cells, first ones that halve an image", minimum=0)),
        ("output", str, setting(ALL, "of a cell: all nodes, or the last", choices=(ALL, LAST))),
        ("nodes", int, setting(1, "nodes of a cell", minimum=1, maximum=MOST_NODES)),
    ]
    for node, edge in itertools.product(range(1, MOST_NODES + 1), (1, 2)):
        about = f"of node {node}, edge {edge}"
        default = OPERATIONS[0] if edge == 1 else NONE
        choices = (*OPERATIONS, NONE)
        fields += [
            (f"node{node}_in{edge}", int, setting(1, f"state {about}", minimum=0, maximum=node)),
            (f"node{node}_op{edge}", str, setting(default, f"operation {about}", choices=choices)),
        ]
    return fields


Cells = dataclasses.make_dataclass("Cells", _settings(), frozen=True)
"""The options of a network of cells."""


def read(options: Mapping[str, Any]) -> Genotype:
    """Return the canonical genotype that options describe, or say all that is wrong with them."""
    wrong = [
        line
        for key, value in options.items()
        if (line := setting_problem(Cells, key, value, f"network.options.{key}"))
    ]
    if wrong:
        raise MetabenchError("\n".join(wrong))
    values = vars(Cells(**options))
    if values["genotype"]:
        if others := [key for key in options if key != "genotype"]:
            raise MetabenchError(
                f"network.options: {', '.join(others)} stand in the genotype; leave them out"
            )
        return canonical(decode(values["genotype"]))
    nodes = tuple(
        tuple(Edge(values[f"node{node}_op{edge}"], values[f"node{node}_in{edge}"]) for edge in (1, 2))
        for node in range(1, values["nodes"] + 1)
    )
    return canonical(Genotype(nodes, values["output"], values["layers"], values["reductions"]))


def decode(word: str) -> Genotype:
    """Read a genotype as it is written."""
    matched = WRITTEN.fullmatch(word) if len(word) < LONGEST else None
    nodes = matched[1].split("|") if matched else []
    edges = [[EDGE.fullmatch(one) for one in node.split("+")] for node in nodes]
    counts = (int(matched[3]), int(matched[4])) if matched else (0, 0)
    is_right = 1 <= len(nodes) <= MOST_NODES and 1 <= counts[0] <= MOST_LAYERS and counts[1] <= MOST_LAYERS
    for number, node in enumerate(edges):
        is_right &= len(node) <= 2 and all(
            one is not None and one[1] in OPERATIONS and int(one[2]) < number + INPUTS for one in node
        )
    if matched is None or not is_right:
        raise MetabenchError(
            f"network.options.genotype={word!r}: is no genotype, such as "
            f"conv_3x3(1)|conv_3x3(2)+identity(1)>all*4/4: up to {MOST_NODES} nodes of 1 or 2 operations ("
            f"{', '.join(OPERATIONS)}) on earlier states, the output, all or last, cells and reductions"
        )
    built = tuple(tuple(Edge(one[1], int(one[2])) for one in node if one) for node in edges)
    return Genotype(built, matched[2], *counts)


@functools.lru_cache(maxsize=4096)
def canonical(genotype: Genotype) -> Genotype:
    """Return the same cell as all that compute alike are written, without what its output does not need."""
    kept = _needed(genotype)
    if not kept:
        raise MetabenchError("network.options: no node computes anything; give one an operation")
    n_reductions = min(genotype.reductions, genotype.layers)
    written = []
    for order in itertools.permutations(sorted(kept)):
        numbers = {state: place for place, state in enumerate((*range(INPUTS), *order))}
        nodes = tuple(
            tuple(sorted(Edge(e.operation, numbers[e.state]) for e in kept[node])) for node in order
        )
        if all(edge.state < place + INPUTS for place, node in enumerate(nodes) for edge in node):
            is_last = genotype.output == LAST and len(nodes) > 1
            if not is_last or order[-1] == max(kept):
                output = LAST if is_last else ALL
                written.append(Genotype(nodes, output, genotype.layers, n_reductions))
    return min(written)


def _needed(genotype: Genotype) -> dict[int, Sequence[Edge]]:
    """Return the edges of the nodes that the output needs, by their states; what has no edge is no node."""
    nodes: dict[int, list[Edge]] = {}
    for state, node in enumerate(genotype.nodes, INPUTS):
        there = [e for e in node if e.operation != NONE and (e.state < INPUTS or e.state in nodes)]
        if there:
            nodes[state] = there
    if genotype.output == ALL or not nodes:
        return dict(nodes)
    reached, open_ = set(), [max(nodes)]
    while open_:
        reached.add(state := open_.pop())
        open_ += [e.state for e in nodes[state] if e.state >= INPUTS and e.state not in reached]
    return {state: nodes[state] for state in nodes if state in reached}
