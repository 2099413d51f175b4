"""Cells: which are the same, how many parameters they have, and that what spells conv4 is conv4."""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch.func import grad

from metabench import nets
from metabench.core import HEAD, MetabenchError, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.config import genotype as genotypes
from metabench.core.config.genotype import INPUTS, NONE, OPERATIONS, Edge, Genotype, canonical, decode, read
from tests.support.net_problems import assert_same, maml_loss, problem

CELLS = importlib.import_module("metabench.nets.cells")  # whose name within the package is the function's

AUTO_META = (  # Auto-Meta's cell, states as its authors' code numbers them
    "conv_3x3(1)+max_pool_3x3(1)|conv_1x5_5x1(2)+max_pool_3x3(2)|conv_3x3(2)+conv_1x5_5x1(3)|"
    "conv_3x3(3)+conv_3x3(3)|conv_1x5_5x1(3)+conv_3x3(2)>all*4/4"
)
H = 1e-6
"""Of finite differences, whose error is its square: ties of max pools and of ReLU are of measure zero."""

WEIGHTS = {  # of one operation from c to w channels
    "conv_3x3": lambda c, w: 9 * c * w,
    "conv_1x5_5x1": lambda c, w: 5 * c * w + 5 * w * w,
    "sep_conv_3x3": lambda c, w: 9 * c + c * w,
    "dil_conv_3x3": lambda c, w: 9 * c * w,
}


def drawn(rng: random.Random, most_reductions: int = 4) -> dict[str, Any]:
    """Draw options of a network of cells, of which something computes."""
    n_nodes = rng.randint(1, 5)
    options: dict[str, Any] = {"nodes": n_nodes, "output": rng.choice(["all", "last"])}
    options |= {"layers": rng.randint(1, 6), "reductions": rng.randint(0, most_reductions)}
    for node in range(1, n_nodes + 1):
        for edge in (1, 2):
            options[f"node{node}_in{edge}"] = rng.randint(0, node)
            options[f"node{node}_op{edge}"] = rng.choice([*OPERATIONS, NONE])
    return {**options, "node1_op1": "conv_3x3"}


def every(n: int) -> list[Genotype]:
    rng = random.Random(0)
    return [read(drawn(rng)) for _ in range(n)]


def shuffled(genotype: Genotype, rng: random.Random) -> Genotype:
    """Swap edges, and number nodes in another order in which each still follows those that it reads."""
    order: list[int] = []
    while len(order) < len(genotype.nodes):
        ready = [
            state
            for state, node in enumerate(genotype.nodes, INPUTS)
            if state not in order and all(e.state < INPUTS or e.state in order for e in node)
        ]
        order.append(rng.choice([one for one in ready if one != len(genotype.nodes) + 1] or ready))
    numbers = {state: k for k, state in enumerate((0, 1, *order))}
    nodes = [[Edge(e.operation, numbers[e.state]) for e in genotype.nodes[state - INPUTS]] for state in order]
    return genotype._replace(nodes=tuple(tuple(rng.sample(node, len(node))) for node in nodes))


def built(options: Mapping[str, Any], shape: tuple[int, ...] = (1, 28, 28), **values: Any) -> Any:
    return nets.build(NetworkConfig(name="cells", **{"width": 8, **values}, options=dict(options)), 5, shape)


def n_weights(net: Any) -> int:
    return sum(leaf.numel() for leaf in trees.leaves(net.init(seeds.generator("count"))))


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_cells_that_spell_conv4_are_conv4_bit_for_bit(norm) -> None:
    spelled = built({"node1_in1": 1, "node1_op2": "none", "node1_in2": 0}, norm=norm)
    conv4 = nets.build(NetworkConfig(width=8, norm=norm), 5, (1, 28, 28))
    params, theirs = (net.init(seeds.generator("same")) for net in (spelled, conv4))
    assert_same(params, theirs, rtol=0, atol=0)
    x = torch.rand(6, 1, 28, 28, generator=seeds.generator("x"))
    assert torch.equal(nets.apply(spelled, params, x)[0], nets.apply(conv4, theirs, x)[0])


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_way_of_all_cells_leads_where_conv4s_own_does(norm, monkeypatch) -> None:
    conv4, theta, (x, *_) = problem("conv4 pool flatten", norm, (1, 28, 28))
    monkeypatch.setattr(CELLS, "CONV4", None)
    whole = built({}, norm=norm, width=4, groups=2)
    named = {f"{kind}{k}_2_1{end}": theta[f"{kind}{k}"] for k in range(1, 5)
             for kind, end in (("conv", "_1"), ("norm", "")) if f"{kind}{k}" in theta}  # fmt: skip
    params = {**named, HEAD: theta[HEAD]}
    assert set(params) == set(whole.init(seeds.generator("names")))
    torch.testing.assert_close(
        nets.apply(whole, params, x[0])[0], nets.apply(conv4, theta, x[0])[0], rtol=1e-10, atol=1e-12
    )


def test_what_is_written_is_read_again_and_the_canonical_form_is_its_own() -> None:
    for genotype in every(200):
        assert decode(str(genotype)) == genotype
        assert read({"genotype": str(genotype)}) == canonical(genotype) == genotype


def test_the_order_of_edges_and_of_nodes_makes_no_other_cell() -> None:
    rng = random.Random(1)
    changed = 0
    for genotype in every(200):
        other = shuffled(genotype, rng)
        changed += other != genotype
        assert canonical(other) == genotype
    assert changed > 50


def test_nodes_that_the_output_does_not_need_have_no_parameters() -> None:
    needed = {"node1_op1": "conv_3x3", "output": "last"}
    first = {**needed, "nodes": 2, "node2_in1": 1, "node2_op1": "conv_3x3"}  # node 1 is read by none
    assert read(first) == read(needed)
    assert n_weights(built(first)) == n_weights(built(needed))
    assert n_weights(built({**first, "output": "all"})) > n_weights(built(first))
    empty = {**needed, "nodes": 2, "node2_op1": "none"}
    assert read(empty) == read(needed)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 84)])
def test_every_genotype_builds_with_the_parameters_that_a_formula_says(shape) -> None:
    n_shown = 0
    for genotype in every(200):
        w, net = 4, built({"genotype": str(genotype)}, shape, width=4)
        joined = w * (len(genotype.nodes) if genotype.output == "all" else 1)
        expected, first = 5 * net.features + 5, [shape[0], shape[0]]
        for _ in range(genotype.layers):
            channels = [*first, *[w] * 5]
            for edge in (edge for node in genotype.nodes for edge in node):
                c = channels[edge.state]
                usual = (lambda c, w: c * w) if c != w else None
                weights = WEIGHTS.get(edge.operation, usual)
                expected += weights(c, w) + 2 * w if weights else 0
            first = [first[1], joined]
        assert n_weights(net) == expected, genotype
        side = shape[1] >> genotype.reductions
        assert net.features == joined * side * side
        if genotype == CELLS.CONV4 or n_shown == 20:  # whose kernels take no tensors without numbers
            continue
        n_shown += 1
        params = trees.map(lambda leaf: leaf.to("meta"), net.init(seeds.generator("meta")))
        assert net.embed(params, torch.zeros(2, *shape, device="meta"))[0].shape == (2, net.features)


def test_the_published_cell_of_auto_meta_has_its_operations_and_300_w_squared_weights_beyond_the_inputs() -> (
    None
):
    genotype = decode(AUTO_META)
    assert len(genotype.nodes) == 5
    assert sorted(canonical(genotype).nodes[2:4]) == [(Edge("conv_1x5_5x1", 3), Edge("conv_3x3", 2))] * 2
    w, counts = 10, []
    for layers in (3, 4):
        counts.append(n_weights(built({"genotype": AUTO_META.replace("*4/4", f"*{layers}/0")}, (3, 8, 8),
                                      width=w, readout="mean")))  # fmt: skip
    inner = 4 * 9 * w * w + 3 * 10 * w * w  # what reads nodes of its own cell
    inputs = 9 * 5 * w * w + 5 * w * w  # what reads the five nodes of the cell before
    assert counts[1] - counts[0] == inner + inputs + 9 * 2 * w


def test_the_meta_gradient_of_cells_is_the_slope_of_the_loss_in_every_direction() -> None:
    net, theta, (sx, sy, qx, qy) = problem("cells", "group")
    loss = maml_loss(partial(nets.apply, net), False, 2, net.objective.loss)
    task = (sx[0], sy[0], qx[0], qy[0])
    slope, generator = grad(loss)(theta, *task), seeds.generator("direction")
    for _ in range(3):
        v = trees.map(lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype), theta)
        ends = [loss(trees.map(lambda p, d, h=h: p + h * d, theta, v), *task) for h in (H, -H)]
        products = trees.map(lambda g, d: (g * d).sum(), slope, v)
        torch.testing.assert_close(
            sum(trees.leaves(products)), (ends[0] - ends[1]) / (2 * H), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"node2_in1": 5}, r"options.node2_in1=5: must be <= 2"),
        ({"node1_op1": "conv_7x7"}, r"options.node1_op1='conv_7x7': must be one of conv_3x3"),
        ({"knots": 2}, r"options.knots: unknown setting. Did you mean 'nodes'"),
        ({"node1_op1": "none"}, "no node computes anything; give one an operation"),
        (
            {"layers": 6, "reductions": 5},
            r"reductions=5: images of 28 x 28 pixels can be halved 4 times; lower",
        ),
        ({"genotype": "conv_3x3(2)>all*4/4"}, "is no genotype, such as conv_3x3"),
        ({"genotype": "conv_3x3(1)>all*4/4", "nodes": 2}, "nodes stand in the genotype; leave them out"),
        ({"genotype": "conv_3x3(1)>all*400000000000000000000/4"}, "is no genotype"),
        ({"genotype": f"conv_3x3({'1' * 5000})>all*4/4"}, "is no genotype"),
    ],
)
def test_what_is_no_cell_is_refused_with_advice(options, advice) -> None:
    with pytest.raises(MetabenchError, match=advice):
        built(options)


def test_options_have_the_bounds_of_what_reads_them() -> None:
    assert genotypes.MOST_NODES == 5
    assert read({"reductions": 8}).reductions == 4  # as many as there are cells
