"""A torch module of a user's is a network like ours: the same gradients, in every mode of batch norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from metabench import nets
from metabench.core import HEAD, MetabenchError, Net, Task, Tree, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.training import vectorise
from tests.algorithms import problems
from tests.algorithms.test_conformance import Start, is_near, looped, meta_gradient
from tests.support import own_networks

PLACE = "tests.support.own_networks"
SHAPE = (1, problems.SIZE, problems.SIZE)


def of(made: str, **values: Any) -> Net:
    config = NetworkConfig(**{"module": f"{PLACE}:{made}", **values})
    return nets.build(config, problems.WAY, SHAPE, n_classes=problems.CLASSES)


def as_theirs(tree: Tree) -> Tree:
    """Rename our Conv4's parameters, wherever they stand in a tree, as torch's Sequential has them."""
    if not isinstance(tree, dict):
        return tree
    names = {"scale": "weight", "shift": "bias"}
    for block in range(4):
        names |= {f"conv{block + 1}": str(4 * block), f"norm{block + 1}": str(4 * block + 1)}
    return {names.get(key, key): as_theirs(value) for key, value in tree.items()}


@pytest.mark.parametrize("batch_norm", ["support_stats", "with_support", "transductive"])
@pytest.mark.parametrize("name", ["maml", "protonet", "r2d2"])
def test_a_users_conv4_has_the_meta_gradient_of_ours(name: str, batch_norm: str) -> None:
    ours, theirs = problems.network(batch_norm), of("conv4", head="17", batch_norm=batch_norm)
    tasks = problems.tasks(2)
    steps = {"inner_steps": 2} if name == "maml" else {}
    algorithm, h, meta, buffers = problems.start(name, ours, **steps)
    gradient, *_ = meta_gradient(Start(algorithm, ours, h, meta, buffers, tasks), 2)
    started = Start(algorithm, theirs, h, as_theirs(meta), buffers, tasks)
    of_theirs, loss, *_ = meta_gradient(started, 2)
    assert problems.largest_difference(of_theirs, as_theirs(gradient)) < 1e-6
    by_loop, loop_loss, _ = looped(started)
    assert is_near(loss, loop_loss)
    assert all(is_near(a, b) for a, b in zip(trees.leaves(of_theirs), by_loop, strict=True))

    both = [predicted(vectorise.Model(algorithm, ours, meta, buffers, h), tasks)]
    both.append(predicted(vectorise.Model(algorithm, theirs, started.meta, buffers, h), tasks))
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-6)


def predicted(model: vectorise.Model, tasks: Task) -> torch.Tensor:
    algorithm, net, meta, buffers, h = model

    def outputs(task: Task) -> torch.Tensor:
        return algorithm.predict(net, algorithm.adapt(net, meta, buffers, task.support, h), task.query.x)

    return vectorise.per_task(outputs, tasks)


def test_a_seed_draws_the_weights_and_leaves_torchs_generator_alone() -> None:
    net = of("conv4", head="17")
    before = torch.get_rng_state()
    one, same, other = (net.init(seeds.generator("init", seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(*map(trees.leaves, (one, same, other)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) or bool(((a == 0) | (a == 1)).all())  # a norm's start
    bound = one["4"]["weight"].shape[1:].numel() ** -0.5  # torch's own start of a convolution
    assert 0.5 * bound < float(one["4"]["weight"].abs().max()) <= bound


def test_a_module_may_be_lazy_hold_parameters_itself_and_a_norm_in_two_places() -> None:
    x = torch.rand(5, *SHAPE)
    for made in ("lazy", "Shared"):
        net = of(made)
        params = net.init(seeds.generator("init"))
        features, moments = net.embed(params, x)
        assert features.shape == (5, net.features)
        again, _ = net.embed(params, x, moments)
        torch.testing.assert_close(again, features)
        alone, _ = net.embed(params, x[:1], moments)
        torch.testing.assert_close(alone, features[:1])
        assert set(moments) == set(net.norm_channels)
    assert set(net.norm_channels) == {"norm", "norm+"}
    assert {"head_", HEAD, "(module)"} <= set(params)  # a layer called head is not the head


def test_a_frozen_body_is_constant_and_keeps_its_running_moments(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    module = own_networks.conv4()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(one.shape, generator=generator) for name, one in module.state_dict().items()}
    state = {name: one for name, one in state.items() if not name.endswith("tracked")}
    save_file(state, file)
    net = of("conv4", head="17", weights=str(file), freeze="body")
    params = net.init(seeds.generator("init"))
    assert set(params) == {"12", "13", HEAD}
    assert torch.equal(params["12"]["weight"], state["12.weight"])
    assert set(net.norm_channels) == {"13"}

    all_frozen = of("conv4", head="17", weights=str(file), freeze="body", batch_norm="frozen")
    module.load_state_dict(state, strict=False)
    x = torch.rand(5, *SHAPE)
    with torch.no_grad():
        expected = module.eval()[:17](x)
    torch.testing.assert_close(all_frozen.embed(params, x)[0], expected)
    torch.testing.assert_close(
        all_frozen.embed(trees.map(torch.Tensor.double, params), x.double())[0],
        expected.double(),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("made", "values", "words"),
    [
        ("mistaken", {"options": {"kind": "item"}}, ["layer '2' (_Layer) cannot be vectorised", ".item()"]),
        (
            "mistaken",
            {"options": {"kind": "branch"}},
            ["layer '2' (_Layer) cannot be vectorised", "control flow"],
        ),
        ("mistaken", {"options": {"kind": "numpy"}}, ["layer '2' (_Layer) cannot be vectorised"]),
        ("mistaken", {"options": {"kind": "state"}}, ["layer '2' (_Layer) cannot be vectorised", "in-place"]),
        ("mistaken", {"options": {"kind": "random"}}, ["layer '2' (_Layer) cannot be vectorised", "random"]),
        ("mistaken", {"options": {"kind": "nan"}}, ["features are not finite"]),
        ("mistaken", {"options": {"kind": "tuple"}}, ["fails on inputs of [1, 16, 16], in layer '3'"]),
        ("mistaken", {"options": {"kind": "tuple"}, "layer": "2"}, ["returns tuple", "name a `layer`"]),
        ("mistaken", {"options": {"kind": "whole"}, "layer": "2"}, ["makes [] of 2 images"]),
        ("mistaken", {"options": {"sort": "item"}}, ["TypeError", "'sort'", "`options` are sort='item'"]),
        ("renormed", {}, ["layer '1' is a Renormed"]),
        ("raising", {}, ["making it raised RuntimeError: no network of width 4"]),
        ("no_module", {}, ["returns int", "torch.nn.Module"]),
        ("MADE", {}, ["made already"]),
        ("conv5", {}, ["has no 'conv5'. Did you mean 'conv4'?"]),
        ("conv4", {"head": "16"}, ["is a Flatten, and must be a Linear: 17"]),
        ("conv4", {"head": "fc"}, ["network.head='fc': there is no such layer", "0, 1, 2"]),
        ("conv4", {"layer": "classifier"}, ["network.layer='classifier': there is no such layer"]),
        ("conv4", {"options": {"channels": 2}}, ["[1, 16, 16]", "layer '0' (Conv2d)", "to have 2 channels"]),
        ("conv4", {"normalise": "imagenet"}, ["is of 3 channels", "[1, 16, 16]"]),
        ("conv4", {"width": 8, "norm": "none"}, ["network.width=8", "network.norm='none'"]),
        ("untracked", {"batch_norm": "frozen"}, ["layer '1' has no running moments"]),
        ("conv4", {"weights": "DEFAULT"}, ["must be a file"]),
        ("conv4", {"weights": "absent.pth"}, ["no such file"]),
        ("lazy", {"weights": __file__.replace(".py", ".pth")}, ["no such file"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_layer_or_the_setting(
    made: str, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(MetabenchError) as caught:
        of(made, **values)
    for word in words:
        assert word in str(caught.value)


def test_grey_images_are_three_colours_where_a_network_takes_three() -> None:
    net = of("conv4", head="17", options={"channels": 3})
    params, x = net.init(seeds.generator("init")), torch.rand(3, *SHAPE)
    coloured = nets.build(
        NetworkConfig(module=f"{PLACE}:conv4", head="17", options={"channels": 3}), 3, (3, *SHAPE[1:])
    )
    torch.testing.assert_close(net.embed(params, x), coloured.embed(params, x.expand(-1, 3, -1, -1)))


def test_our_networks_have_no_use_for_settings_of_modules() -> None:
    with pytest.raises(MetabenchError, match=r"network\.weights='x.pth': conv4 has no such choice"):
        nets.build(NetworkConfig(weights="x.pth"), 5, SHAPE)
    with pytest.raises(MetabenchError, match=r"network\.batch_norm='frozen'"):
        nets.build(NetworkConfig(batch_norm="frozen"), 5, SHAPE)


def test_fields_of_modules_leave_the_record_of_other_networks_as_it_was() -> None:
    names = {"name", "width", "depth", "norm", "groups", "batch_norm", "shrink", "readout"}
    assert set(NetworkConfig().model_dump()) == names
    module = NetworkConfig(module=f"{PLACE}:conv4", head="17")
    assert set(module.model_dump()) == names | {"module", "head"}
    assert NetworkConfig.model_validate(module.model_dump()) == module


def test_torchs_own_group_norm_is_right_to_second_order() -> None:
    ours, theirs = problems.network(norm="group"), of("conv4", head="17", options={"norm": "group"})
    tasks = problems.tasks(2)
    algorithm, h, meta, buffers = problems.start("maml", ours, inner_steps=2)
    gradient, *_ = meta_gradient(Start(algorithm, ours, h, meta, buffers, tasks), 2)
    of_theirs, *_ = meta_gradient(Start(algorithm, theirs, h, as_theirs(meta), buffers, tasks), 2)
    assert problems.largest_difference(of_theirs, as_theirs(gradient)) < 1e-6
