"""Building networks: initial values, what a network says of itself, and refusals with advice."""

from __future__ import annotations

import pytest
import torch

from metabench import nets
from metabench.core import MetabenchError, seeds, trees
from metabench.core.config import NetworkConfig
from tests.support.net_problems import EVERY, SHOT, WAY, assert_same, config_of, problem


@EVERY
def test_initial_parameters_have_torchs_own_bounds_and_come_from_the_generator_alone(case, norm) -> None:
    config, shape = config_of(case, norm)
    net = nets.build(config.model_copy(update={"width": 16}), 5, shape)
    params, again = (net.init(seeds.generator("init")) for _ in range(2))
    assert_same(params, again, rtol=0, atol=0)
    assert all(leaf.dtype == torch.float32 for leaf in trees.leaves(params))
    for name, layer in params.items():
        if name in net.norms:
            assert (layer["scale"] == 1).all()
            assert (layer["shift"] == 0).all()
            continue
        bound = layer["weight"][0].numel() ** -0.5
        assert all(leaf.abs().max() <= bound for leaf in layer.values())
        # Uniform numbers: the share beyond 0.8 of the bound is 0.2, give or take 5 standard errors.
        share = (layer["weight"].abs() > 0.8 * bound).double().mean()
        assert abs(share - 0.2) < 5 * (0.16 / layer["weight"].numel()) ** 0.5
        is_first_of_two = config.name == "cells" and name.endswith("_1") and f"{name[:-1]}2" in params
        assert ("bias" in layer) == (name == "head" or (norm == "none" and not is_first_of_two))


@EVERY
def test_norm_layers_of_any_kind_are_listed_and_only_batch_norm_has_moments(case, norm) -> None:
    net, theta, _ = problem(case, norm)
    holding = {name for name, layer in theta.items() if "scale" in layer}
    assert set(net.norms) == holding
    assert bool(holding) == (norm != "none")
    expected = {name: len(theta[name]["scale"]) for name in holding} if norm == "batch" else {}
    assert net.norm_channels == expected


def test_the_omniglot_network_halves_28_pixels_to_2_and_the_sinusoid_network_is_1_40_40_1() -> None:
    strided = NetworkConfig(width=64, shrink="stride")
    assert nets.build(strided, 5, (1, 28, 28)).features == 64 * 2 * 2
    assert nets.build(strided.model_copy(update={"readout": "mean"}), 5, (1, 28, 28)).features == 64
    net = nets.build(NetworkConfig(name="mlp", width=40, depth=2, norm="none"), 1, (1,))
    shapes = {name: tuple(leaf.shape) for name, leaf in trees.items(net.init(seeds.generator("init")))}
    assert shapes == {
        "linear1.weight": (40, 1), "linear1.bias": (40,),
        "linear2.weight": (40, 40), "linear2.bias": (40,),
        "head.weight": (1, 40), "head.bias": (1,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "shape", "advice"),
    [
        ({}, (1, 15, 28), r"15 x 28 pixels: conv4 with pool.*at least 16 x 16"),
        ({"name": "resnet12"}, (1, 28, 15), r"28 x 15 pixels: resnet12.*at least 16 x 16"),
        ({"shrink": "stride"}, (1, 0, 28), r"0 x 28 pixels: conv4 with stride.*at least 1 x 1"),
        ({"name": "conv"}, (1, 28, 28), "Did you mean 'conv4'"),
        ({"name": "resnet"}, (1, 28, 28), "Did you mean 'resnet12'"),
        ({}, (1,), r"conv4.*shape \[1\] are no images.*choose network mlp"),
        ({"name": "resnet12"}, (2,), r"resnet12.*shape \[2\] are no images.*choose network mlp"),
        ({"norm": "group", "groups": 3}, (1, 28, 28), r"groups=3, network.width=32.*1, 2, 4, 8, 16, 32"),
        ({"name": "resnet12", "norm": "group", "groups": 64}, (1, 28, 28), r"groups=64, network.width=32"),
        ({"name": "mlp", "norm": "group", "groups": 32}, (1,), r"one number are all zero.*1, 2, 4, 8, 16$"),
        ({"shrink": "stride", "norm": "group", "groups": 32}, (1, 9, 9), r"number are all zero.*, 16$"),
        ({"name": "mlp", "shrink": "stride"}, (1,), r"shrink='stride': mlp has no such.*leave it at 'pool'"),
        ({"name": "mlp", "readout": "mean"}, (1,), r"readout='mean': mlp has no such.*at 'flatten'"),
        ({"name": "resnet12", "shrink": "stride"}, (1, 28, 28), r"shrink='stride': resnet12 has no such"),
        ({"depth": 3}, (1, 28, 28), r"depth=3: conv4 has no such choice; leave it at 2"),
    ],
)  # fmt: skip
def test_a_network_that_makes_no_sense_is_refused_with_advice(values, shape, advice) -> None:
    with pytest.raises(MetabenchError, match=advice):
        nets.build(NetworkConfig(**values), 5, shape)


def test_all_that_is_wrong_with_a_network_is_said_together() -> None:
    values = {"shrink": "stride", "readout": "mean", "norm": "group", "groups": 5}
    with pytest.raises(MetabenchError) as caught:
        nets.build(NetworkConfig(name="mlp", **values), 5, (1,))
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "network.shrink", "network.readout", "network.groups",
    ]  # fmt: skip


def test_strided_conv4_takes_an_image_of_one_pixel() -> None:
    net, theta, (x, _, _, _) = problem("conv4 stride flatten", "none", shape=(2, 1, 1))
    assert nets.apply(net, theta, x[0])[0].shape == (WAY * SHOT, WAY)
