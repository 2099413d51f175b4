"""Exported models: the numbers of `predict`, in processes without metabench and, with ONNX, without torch."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import metabench
from metabench import algorithms
from metabench.cli import app
from metabench.core import MetabenchError, Pictures
from metabench.data.reading import fitting
from metabench.predict import class_folders, export, export_model, exported, pictures
from metabench.training import run as runs
from metabench.training.inputs import Inputs
from tests.predict import trained

CLASSIFIERS = algorithms.names("classification")
COMPARING = ("protonet", "matching", "r2d2", "nearest_mean", "simpleshot")
"""Learners that take a support set of any number of classes without a gradient step."""

NEAR = {"rtol": 0, "atol": 1e-5}
WITHOUT = {"torch": ["metabench", "onnxruntime"], "onnx": ["metabench", "torch"]}
"""What the process that runs an exported model cannot import."""

ELSEWHERE = """
import json, sys
from pathlib import Path
barred, jobs = json.loads(sys.stdin.read())
for name in barred:
    sys.modules[name] = None
sys.path.insert(0, jobs[0][0])  # all folders have the same predictor
from predict import Predictor
for folder, support, places in jobs:
    predictor = Predictor(Path(folder), support and Path(support))
    shares = predictor([*map(Path, places)])
    assert predictor.classes == sorted(predictor.classes)
    print(json.dumps(shares.tolist()))
"""


class Job(NamedTuple):
    """An exported model, what it is asked, and what `predict` answers."""

    folder: Path
    support: Path | None  # where it was exported without
    pictures: list[Path]
    expected: np.ndarray


def exported_job(place: Path, folder: Path, to: str, is_adapted: bool, n_classes: int = 3) -> Job:
    """Export a run, and classify with it here."""
    support = trained.classes_on_disk(folder.parent / f"{folder.name}-support", n_classes, 2)
    Image.fromarray(trained.draw(1, 8)[0, :, :, 0]).save(support / "class1" / "more.png")
    queries = trained.classes_on_disk(folder.parent / f"{folder.name}-queries", 1, 5) / "class0"
    paths = sorted(queries.iterdir())
    classifier = metabench.load(place)
    if not is_adapted:
        export_model(classifier, folder, to)
    expected = classifier.fit(*class_folders(support)).predict_proba(paths)
    if is_adapted:
        export_model(classifier, folder, to)
    return Job(folder, None if is_adapted else support, paths, expected)


def check_elsewhere(to: str, jobs: Sequence[Job]) -> None:
    """Compare with what a process answers that has the folders alone."""
    orders = [(str(one.folder), one.support and str(one.support), [*map(str, one.pictures)]) for one in jobs]
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE],
        input=json.dumps((WITHOUT[to], orders)),
        capture_output=True,
        text=True,
    )
    assert (made.returncode, made.stderr) == (0, "")
    for job, line in zip(jobs, made.stdout.splitlines(), strict=True):
        np.testing.assert_allclose(json.loads(line), job.expected, **NEAR, err_msg=job.folder.name)


def jobs_of(folder: Path, to: str, names: Sequence[str], *modes: str) -> list[Job]:
    """Export learners with their classes, and those that can do without them also without."""
    jobs = []
    for name in names:
        for mode in modes:
            place = trained.run(name, batch_norm=mode)
            jobs.append(exported_job(place, folder / f"{name}-{mode}", to, True))
            if name in COMPARING:  # traced with three classes
                jobs.append(exported_job(place, folder / f"{name}-{mode}-any", to, False, 5))
    return jobs


def test_torch_has_a_learner_s_numbers_in_a_process_without_metabench(tmp_path: Path) -> None:
    check_elsewhere("torch", jobs_of(tmp_path, "torch", ["r2d2", "maml"], "support_stats"))


@pytest.fixture(scope="module")
def onnx_jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Export a learner to ONNX with its classes, and without."""
    return jobs_of(tmp_path_factory.mktemp("onnx"), "onnx", ["r2d2"], "support_stats")


def test_onnx_has_a_learner_s_numbers_in_a_process_without_metabench_and_torch(onnx_jobs: list[Job]) -> None:
    check_elsewhere("onnx", onnx_jobs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["support_stats", "with_support", "transductive"])
@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_every_learner_s_numbers_are_the_same_elsewhere(to: str, mode: str, tmp_path: Path) -> None:
    check_elsewhere(to, jobs_of(tmp_path, to, CLASSIFIERS, mode))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_every_network_s_numbers_are_the_same_elsewhere(to: str, tmp_path: Path) -> None:
    of_module = {"name": "module", "module": "tests.support.own_networks:conv4", "head": "17", "width": 32}
    networks: list[dict[str, Any]] = [
        *(of_module | {"batch_norm": mode} for mode in ("support_stats", "with_support")),
        *({"norm": norm} for norm in ("group", "none")),
        *({"shrink": "stride"}, {"readout": "mean"}, {"name": "resnet12"}, {"name": "mlp"}),
    ]
    jobs = []
    for number, network in enumerate(networks):
        config = trained.config("protonet")
        network = config.network.model_copy(update=network)
        with trained.quickly():
            runs.train_run(
                config.model_copy(update={"network": network}), trained.splits(), tmp_path / f"run{number}"
            )
        jobs.append(exported_job(tmp_path / f"run{number}", tmp_path / f"any{number}", to, False, 4))
    check_elsewhere(to, jobs)


def test_the_seeds_of_a_search_are_one_model(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"protonet": 0.6}, seeds=2)
    jobs = [exported_job(place, tmp_path / f"out{one}", "torch", one) for one in (False, True)]
    check_elsewhere("torch", jobs)
    about = json.loads((tmp_path / "outTrue" / export.ABOUT).read_text())
    assert about["row"] == "protonet:tuned"
    assert any("mean over 2 seeds" in note for note in about["notes"])


@pytest.mark.parametrize("batch_norm", ["support_stats", "with_support"])
@pytest.mark.parametrize("name", ["r2d2", "protonet"])
def test_one_program_takes_any_support_set(name: str, batch_norm: str, tmp_path: Path) -> None:
    """Of other numbers of classes, examples and pictures than it was traced with."""
    classifier = metabench.load(trained.run(name, batch_norm=batch_norm))
    export_model(classifier, tmp_path, "torch")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for n_classes, shots in ((2, 1), (3, 2), (6, 4)):
        support, queries = trained.draw(n_classes * shots), trained.draw(7, seed=1)
        labels = np.repeat(np.arange(n_classes), shots)
        expected = classifier.fit([*support], labels).predict_proba([*queries])
        values = [torch.from_numpy(one).permute(0, 3, 1, 2) / 255 for one in (support, queries)]
        parts = values[1].split(1 if batch_norm == "with_support" else 7)
        with torch.no_grad():
            shares = [program(values[0], torch.from_numpy(labels), n_classes, part) for part in parts]
        np.testing.assert_allclose(torch.cat(shares).numpy(), expected, **NEAR)


def test_a_graph_has_operators_of_onnx_alone(onnx_jobs: list[Job]) -> None:
    import onnx

    graph = onnx.load(onnx_jobs[1].folder / "model.onnx")
    onnx.checker.check_model(graph)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [one.name for one in graph.graph.input] == ["support", "labels", "n_classes", "pictures"]
    assert not graph.functions


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_products_solve_a_definite_system(condition: float) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    a = basis @ torch.diag(torch.logspace(0, np.log10(condition), 20, dtype=torch.float64)) @ basis.T
    y = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    solution = export._solution(*export._factors(a)[:2], y)
    # The inverse's error is rounding times the condition.
    torch.testing.assert_close(solution, torch.linalg.solve(a, y), rtol=0, atol=1e-13 * condition)


PREDICT = Path(exported.__file__).parent / "predict.py"
LOOKS = [
    Pictures(),
    Pictures(background="black", is_inverted=True, resize="bicubic"),
    Pictures(white=4095, black=16),
]


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 20, 12)])
@pytest.mark.parametrize("look", LOOKS)
def test_the_predictor_reads_every_picture_as_the_package_does(
    shape: tuple[int, ...], look: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    size = (33, 24)
    plain = Image.fromarray(rng.integers(0, 256, (*size, 4)).astype(np.uint8))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        plain.convert(mode).save(tmp_path / f"{mode}.png", exif=exif if mode == "RGB" else None)
    for mode, suffix in (("CMYK", "jpg"), ("L", "gif"), ("RGB", "webp"), ("RGB", "bmp"), ("RGBA", "tif")):
        plain.convert(mode).save(tmp_path / f"{mode}.{suffix}")
    Image.fromarray(rng.integers(16, 4096, size).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.uniform(16 if look.white else 0, 1000 if look.white else 1, size)).convert("F").save(
        tmp_path / "real.tif"
    )
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 13
    about = Inputs("any", "classification", shape, 5, look)
    (expected,) = pictures.chunks(paths, about, is_prepared=False)
    monkeypatch.setitem(sys.modules, "fitting", fitting)  # which an export has beside it
    spec = importlib.util.spec_from_file_location("exported_predict", PREDICT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    record = json.loads(json.dumps({"shape": shape, "pictures": look._asdict()}))
    read = module.Predictor.read(SimpleNamespace(about=record), paths)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected.numpy())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay out a run, a support set and pictures to classify."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run(), "run")
    trained.classes_on_disk(Path("new"))
    trained.classes_on_disk(Path("photos"), n_classes=1, shots=3)


def command(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def script(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "out/predict.py", *args], capture_output=True, text=True)


@pytest.mark.usefixtures("here")
def test_the_script_says_what_the_command_says() -> None:
    shown = command("predict", "run", "--support", "new", "photos", "--json")
    answers = json.loads(shown.stdout)["predictions"]
    made = command("export-model", "run", "--out", "out")
    assert (made.exit_code, made.stderr) == (0, "")
    assert made.stdout == f"out: {', '.join(sorted(one.name for one in Path('out').iterdir()))}\n"
    said = script("photos", "--support", "new", "--json")
    assert said.stderr == ""
    for one, other in zip(json.loads(said.stdout), answers, strict=True):
        assert (one["picture"], one["label"]) == (other["picture"], other["label"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    first = answers[0]
    (line,) = script(first["picture"], "--support", "new").stdout.splitlines()
    share = first["probabilities"][first["label"]]
    assert line == f"{first['picture']}: {first['label']} {share:.1%}"


@pytest.mark.usefixtures("here")
def test_classes_are_exported_with_the_model_or_come_later() -> None:
    for extra, classes in (([], None), (["--support", "new"], ["class0", "class1", "class2"])):
        assert command("export-model", "run", "--out", "out", "--to", "torch", *extra).exit_code == 0
        assert json.loads(Path("out/predictor.json").read_text())["classes"] == classes
    said = script("photos", "--support", "new")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "predict.py: --support: the model was exported with its classes; leave it out\n"


@pytest.mark.usefixtures("here")
def test_what_an_export_says_of_mistakes(onnx_jobs: list[Job]) -> None:
    shutil.copytree(onnx_jobs[1].folder, "out")  # whose script starts sooner than one with torch
    trained.classes_on_disk(Path("one"), n_classes=1)
    trained.classes_on_disk(Path("deep/class0"), n_classes=1)
    deep = (
        "'deep/class0/class0': a folder inside the class 'class0'; pictures lie in the folder of their class"
    )
    assert deep in command("predict", "run", "--support", "deep", "photos").stderr
    Path("empty").mkdir()
    Path("broken.png").write_bytes(Path("new/class0/0.png").read_bytes()[:60])
    for args, words in (
        (["photos/class0"], "--support: give a folder of folders"),
        (["photos/class0", "--support", "gone"], "gone: No such file or directory; give a folder"),
        (["photos/class0", "--support", "one"], "support: 'one': holds 1 class; give a folder of pi"),
        (["photos/class0", "--support", "deep"], f"support: {deep}"),
        (["empty", "--support", "new"], "no picture; give files, or folders of them"),
        (["broken.png", "--support", "new"], "broken.png: cannot be read: "),
    ):
        said = script(*args)
        assert (said.returncode, said.stdout) == (2, "")
        assert said.stderr.startswith(f"predict.py: {words}")
        assert said.stderr.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_an_export_takes_the_place_of_one_and_leaves_what_is_the_user_s() -> None:
    Path("out").mkdir()
    for name in (export.ABOUT, "model.onnx", "notes.txt"):
        (Path("out") / name).write_text("of before")
    export_model(metabench.load("run"), "out", "torch")
    assert Path("out/notes.txt").read_text() == "of before"
    assert not Path("out/model.onnx").exists()
    assert json.loads(Path("out/predictor.json").read_text())["model"] == "model.pt2"
    assert (Path("out") / "fitting.py").read_bytes() == Path(fitting.__file__).read_bytes()
    assert (Path("out") / "predict.py").read_bytes() == PREDICT.read_bytes()


def test_the_predictor_needs_what_the_package_needs() -> None:
    asked = tomllib.loads((Path(metabench.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {*export.NEEDS} <= {*asked["dependencies"]}
    assert export.FORMATS["onnx"][1] in asked["optional-dependencies"]["onnx"]


def gradient_steps() -> None:
    shutil.rmtree("run")
    shutil.copytree(trained.run("maml"), "run")


def fixed_outputs() -> None:
    shutil.rmtree("run")
    shutil.copytree(trained.run("snail"), "run")


def iteration() -> None:
    shutil.rmtree("run")
    shutil.copytree(trained.run("logistic"), "run")


def full_context() -> None:
    shutil.rmtree("run")
    config = trained.config("matching").model_copy(update={"hyperparameters": {"full_context": True}})
    with trained.quickly():
        runs.train_run(config, trained.splits(), Path("run"))


def in_the_way() -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("")


def a_file() -> None:
    Path("out").write_text("")


def seven_classes() -> None:
    gradient_steps()
    trained.classes_on_disk(Path("more"), n_classes=7)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("spoil", "args", "words"),
    [
        (gradient_steps, (), "--support: maml:run learns a support set by gradient steps; give the classes"),
        (fixed_outputs, (), "--support: snail:run has outputs for a fixed number of classes; give"),
        (iteration, (), "--support: logistic:run solves a system at each step of an iteration"),
        (full_context, (), "--support: matching:run reads its support set one by one; give"),
        (seven_classes, ("--support", "more"), "was trained for 3 ways, here are up to 7"),
        (trained.unfinished, (), "run: has seen 4 of 8 tasks"),
        (trained.regression, (), "was trained for regression"),
        (trained.no_pictures, (), "does not say how a picture becomes an input"),
        (in_the_way, (), "out: is there already, and no export; remove it, or choose another --out"),
        (a_file, (), "out: is there already, and no export; remove it, or choose another --out"),
        (lambda: None, ("--support", "gone"), "gone: no such folder"),
        (lambda: None, ("--row", "maml"), "--row maml: run is one run"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    spoil: Callable[[], None], args: tuple[str, ...], words: str
) -> None:
    spoil()
    before = sorted(Path("out").glob("*"))
    result = command("export-model", "run", "--out", "out", "--to", "torch", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(Path("out").glob("*")) == before


def test_what_is_no_graph_is_told(tmp_path: Path) -> None:
    config = trained.config("protonet")
    of_module = {"name": "module", "module": "tests.support.own_networks:InOrder", "width": 32}
    network = config.network.model_copy(update=of_module)
    with trained.quickly():
        runs.train_run(config.model_copy(update={"network": network}), trained.splits(), tmp_path / "run")
    with pytest.raises(MetabenchError, match=r"protonet:run: is no graph of onnx: .*: try `to` torch"):
        export_model(metabench.load(tmp_path / "run"), tmp_path / "out", "onnx")
    assert not [*(tmp_path / "out").glob("*")]


@pytest.mark.usefixtures("here")
def test_an_unknown_form_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MetabenchError, match=r"`to` onx: no such form. Did you mean 'onnx'\?"):
        export_model(metabench.load("run"), "out", "onx")
    assert "'onx' is not one of" in command("export-model", "run", "--out", "out", "--to", "onx").stderr
    monkeypatch.setattr(sys, "path", [one for one in sys.path if "site-packages" not in one])
    for name in ("onnx", "onnxscript"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    missing = command("export-model", "run", "--out", "out")
    assert missing.exit_code == 2
    assert missing.stderr == (
        "metabench: onnx and onnxscript: not installed; do: pip install 'metabench[onnx]'\n"
    )
