"""A run of a torch module goes on with the very same weights, and is opened without their file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from metabench import nets
from metabench.cli import app
from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig
from metabench.training import run as runs
from tests.predict import trained
from tests.support import own_networks


def write(path: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.rand(one.shape, generator=generator)
        for name, one in own_networks.conv4().state_dict().items()
        if one.is_floating_point()
    }
    save_file(state, path)
    return path


@pytest.mark.parametrize("freeze", ["none", "body"])
def test_a_run_goes_on_and_predicts_with_the_weights_that_it_began_with(freeze: str, tmp_path: Path) -> None:
    file, folder = write(tmp_path / "w.safetensors", 0), tmp_path / "run"
    made = {"module": "tests.support.own_networks:conv4", "head": "17", "weights": str(file)}
    config = trained.config("protonet").model_copy(update={"network": NetworkConfig(**made, freeze=freeze)})
    with trained.quickly():
        runs.train_run(config, trained.splits(), folder)
    model = runs.open_run(folder, trained.splits()).model
    assert set(model.meta["theta"]) == (
        {"12", "13"} if freeze == "body" else {*map(str, (0, 1, 4, 5, 8, 9, 12, 13))}
    )

    write(file, 1)
    with pytest.raises(MetabenchError, match="network_digest: other weights"):
        runs.claim(config, trained.splits(), folder)
    if freeze == "body":
        with pytest.raises(MetabenchError, match="others than it was trained with; put those back"):
            runs.open_run(folder, trained.splits())
        return
    file.unlink()
    again = runs.open_run(folder, trained.splits()).model
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(model.net.embed(model.meta["theta"], x)[0], again.net.embed(again.meta["theta"], x)[0])


def test_constants_that_came_with_the_weights_are_there_when_a_run_is_opened(tmp_path: Path) -> None:
    file, folder = tmp_path / "w.safetensors", tmp_path / "run"
    state = {**own_networks.Normalised().state_dict(), "mean": torch.full((1,), 0.5)}
    save_file(state, file)
    made = {"module": "tests.support.own_networks:Normalised", "weights": str(file)}
    config = trained.config("protonet").model_copy(update={"network": NetworkConfig(**made)})
    with trained.quickly():
        runs.train_run(config, trained.splits(), folder)
    model, x = runs.open_run(folder, trained.splits()).model, torch.rand(2, 1, 16, 16)
    conv = model.meta["theta"]["conv"]
    expected = torch.conv2d(x - 0.5, conv["weight"], conv["bias"]).mean((2, 3))
    torch.testing.assert_close(model.net.embed(model.meta["theta"], x)[0], expected)
    save_file({**state, "mean": torch.zeros(1)}, file)
    with pytest.raises(MetabenchError, match="others than it was trained with; put those back"):
        runs.open_run(folder, trained.splits())


def test_weights_by_name_decide_more_than_what_is_learnt() -> None:
    made = {"name": "torchvision/regnet_y_16gf", "weights": "IMAGENET1K_SWAG_E2E_V1"}
    assert not nets.is_all_learnt(NetworkConfig.model_validate(made))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--module", "own_nets.no:make"], "network.module='own_nets.no:make': no module 'own_nets'"),
        (["--module", "a:b", "--network", "conv4"], "is no conv4; leave `name` or --module out"),
        (["--network", "torchvision/resnet81"], "unknown network. Did you mean 'resnet"),
        (["--module", "tests.support.own_networks:mistaken", "--network-option", "kind=item"], "layer '2'"),
        (
            ["--module", "tests.support.own_networks:conv4", "--head", "16"],
            "is a Flatten, and must be a Linear",
        ),
        (["--module", "tests.support.own_networks:conv4", "--network-option", "size"], "must be key=value"),
    ],
)
def test_a_mistake_is_told_with_its_flag_and_leaves_no_folder(
    words: list[str], message: str, tmp_path: Path
) -> None:
    train = ["train", "--algorithm", "maml", "--dataset", "glyphs", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*train, *words])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    assert message in result.output
    assert not (tmp_path / "run").exists()
