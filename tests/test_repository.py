"""The house rules that a reader of the source can check: floors, imports, sizes, randomness, resources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "metabench"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

FLOORS: dict[str, float] = {
    "core": 0,
    "trees": 0.5,  # these four stand on the ground beside core, whose types they speak
    "seeds": 0.5,
    "stats": 0.5,
    "figures": 0.5,
    "config": 0.5,
    "objectives": 0.7,
    "steps": 0.5,
    "cpu": 0.6,
    "gpu": 0.65,
    "fused": 0.7,
    "layers": 0.8,
    "nets": 1,
    "optim": 1,
    "profiling": 1.2,
    "recompute": 0.7,
    "inner": 1.5,  # its settings extend those of optim
    "augment": 1,
    "draws": 0.8,
    "episodes": 1,
    "capture": 0.7,
    "replay": 0.8,
    "vectorise": 1,
    "data": 1.1,
    "memory": 0.5,
    "storage": 0.7,
    "interruption": 0.5,
    "store": 1,
    "events": 1,
    "tensors": 1.2,
    "algorithms": 2,
    "spaces": 3,  # checks a space against the settings of floor 2
    "task_lists": 2.5,
    "evaluate": 3,
    "diagnostics": 3.5,
    "predictions": 3.7,
    "train": 4,
    "resumption": 4.2,
    "runs": 4.5,
    "board": 5,
    "flags": 5,
    "search": 5.5,  # leaves its leaderboard behind
    "trackers": 5.7,
    "report": 5.75,  # shows what all floors below have left
    "cli": 6.5,
}

ONLY_IN = {"ray": {"search"}, "optuna": {"search", "trackers"}, "mlflow": {"trackers"}, "wandb": {"trackers"}}
NEVER_IN = {
    "board": {"ray", "optuna", "torch"},
    "report": {"ray", "optuna"},
    "trackers": {"ray", "torch"},
    "stats": {"torch"},
    "config": {"torch"},
    "store": {"torch", "ray"},
    "events": {"torch", "tensorflow"},
}
HEAVY = {
    "torch",
    "ray",
    "optuna",
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
    "tensorboard",
    "pydantic",
    "yaml",
}
FORBIDDEN_CALLS = {
    "torch.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "torch.random.manual_seed",
    "torch.seed",
    "np.random.seed",
    "numpy.random.seed",
    "random.seed",
    "pickle.load",
    "pickle.loads",
    "torch.save",
    "torch.load",
    "yaml.load",
}


COMMAND_LINE = {"commands", "catalogue", "sheet"}
"""Modules that stand on the floor of cli, with it."""


def floor_of(name: str) -> str:
    """Return the floor that a module of the package stands on."""
    return "cli" if name in COMMAND_LINE else name


def module_of(path: Path) -> str:
    """Return the name that a file has among the floors."""
    return floor_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def imports(tree: ast.AST, package: str = "metabench") -> Iterator[tuple[str, int]]:
    """Yield every imported dotted name with its line, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.module or "", node.lineno
            if node.module == package:
                yield from ((f"{package}.{alias.name}", node.lineno) for alias in node.names)


def typing_only(tree: ast.AST) -> set[int]:
    """Return the lines that only a type checker reads."""
    guards = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    return {line for node in guards for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def broken_floors(path: Path, tree: ast.AST) -> list[str]:
    """Say which lines of a file import from its own floor or a higher one."""
    here = module_of(path)
    lines = []
    for name, line in imports(tree):
        parts = name.split(".")
        if parts[0] != "metabench" or len(parts) < 2 or parts[1] in ("PROTOCOL", "__version__"):
            continue
        floor = floor_of(parts[1])
        if here not in ("__init__", floor) and not FLOORS[floor] < FLOORS[here]:
            lines.append(
                f"{path.name}:{line}: {here} (floor {FLOORS[here]}) imports {name} ({FLOORS[floor]})"
            )
    return lines


def broken_libraries(path: Path, tree: ast.AST) -> list[str]:
    """Say which lines of a file import a library that belongs elsewhere."""
    here = module_of(path)
    skipped = typing_only(tree)
    lines = []
    for name, line in imports(tree):
        library = name.split(".")[0]
        if here not in ONLY_IN.get(library, {here}) or (
            library in NEVER_IN.get(here, ()) and line not in skipped
        ):
            lines.append(f"{path.name}:{line}: {here} imports {name}")
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_module_imports_from_lower_floors_only(path: Path) -> None:
    assert module_of(path) in {*FLOORS, "__init__"}, f"{path.name} stands on no floor"
    assert broken_floors(path, ast.parse(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    assert broken_libraries(path, ast.parse(path.read_text())) == []


def test_an_upward_import_and_a_stray_ray_are_found() -> None:
    source = ast.parse("from metabench import train\n\ndef f():\n    import ray.tune\n")
    path = PACKAGE / "nets.py"
    assert broken_floors(path, source) == ["nets.py:1: nets (floor 1) imports metabench.training.loop (4)"]
    assert broken_libraries(path, source) == ["nets.py:4: nets imports ray.tune"]


@pytest.mark.parametrize(
    "path", ["__init__.py", *(f"cli/{one.name}" for one in (PACKAGE / "cli").glob("*.py"))]
)
def test_the_command_line_imports_nothing_heavy_at_its_top(path: str) -> None:
    tree = ast.parse((PACKAGE / path).read_text())
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not [found for found, _ in imports(top) if found.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 450, "split by meaning"
    assert ast.get_docstring(ast.parse(text)), "the first line says what the module is for"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_function_has_at_most_forty_lines(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    assert not [f"{f.name}: {n}" for f in functions if (n := (f.end_lineno or 0) - f.body[0].lineno + 1) > 40]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_no_global_randomness_and_no_unsafe_loading(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [
        f"line {c.lineno}: {ast.unparse(c.func)}" for c in calls if ast.unparse(c.func) in FORBIDDEN_CALLS
    ]


def test_constraints_hold_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if line.count("==") != 1 or any(mark in line for mark in "@/: ")]


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_search_spaces_are_plain_data_with_their_schema(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
