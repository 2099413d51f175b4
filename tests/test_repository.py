"""The house rules that a reader of the source can check: floors, imports, sizes, randomness, resources."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "metabench"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

FLOORS = {
    "core": 0,
    "stats": 0,
    "storage": 1,
    "nets": 1,
    "algorithms": 2,
    "data": 2,
    "leaderboard": 2,
    "training": 3,
    "acquisition": 4,
    "search": 4,
    "predict": 4,
    "report": 5,
    "api": 6,
    "cli": 7,
}
"""Packages to their floors: a module imports from its package, and from packages on lower floors."""

INNER_FLOORS = {
    "data": {"reading": 0, "tasks": 1, "__init__": 2, "sets": 3},
    "search": {
        "space": 0,
        "journal": 1,
        "propose": 2,
        "folder": 3,
        "progress": 4,
        "ray": 5,
        "replay": 5,
        "stages": 6,
        "__init__": 7,
    },
}
"""The same inside the two largest packages; `__init__` is the package's first file."""

ONLY_IN = {
    "ray": {"search.ray"},
    "optuna": {"search.propose", "report.exports"},
    "typer": {"cli"},
    "sklearn": {"predict"},
    "mlflow": {"report.exports"},
    "wandb": {"report.exports"},
    "torchvision": {"nets"},
    "timm": {"nets"},
}
NEVER_IN = {
    "leaderboard": {"ray", "optuna", "torch"},
    "search.space": {"ray", "optuna"},
    "search.journal": {"ray", "optuna"},
    "report.html": {"ray", "optuna"},
    "report.exports": {"ray", "torch"},
    "stats": {"torch"},
    "core.config": {"torch"},
    "storage.files": {"torch", "ray"},
    "storage.tensorboard": {"torch", "tensorflow"},
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
INTERFACES = {"app.command", "rows.sized"}
"""Decorators of functions whose signature is the interface of a command or of a kernel."""

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


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return what a file of the package says; every rule reads all of them."""
    return ast.parse(path.read_text())


def place_of(path: Path) -> tuple[str, ...]:
    """Return the packages that a file stands in, and its name."""
    return path.relative_to(PACKAGE).with_suffix("").parts


def is_in(place: tuple[str, ...], room: str) -> bool:
    """Tell whether a file is a module of that dotted name below the package, or stands in a package of it."""
    names = room.split(".")
    return list(place[: len(names)]) == names


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every imported dotted name with its line, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_interface(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a function's signature is a table of options, or of a kernel's pointers."""
    names = {ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list}
    return bool(names & INTERFACES or function.args.kwonlyargs)


def typing_only(tree: ast.AST) -> set[int]:
    """Return the lines that only a type checker reads."""
    guards = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    return {line for node in guards for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def broken_floors(path: Path, tree: ast.AST) -> list[str]:
    """Say which lines of a file import from another package on its own floor or a higher one."""
    here = place_of(path)
    lines = []
    for name, line in imports(tree):
        there = tuple(name.split(".")[1:])
        if name.split(".")[0] != "metabench" or len(here) == 1 or there[:1] not in {(one,) for one in FLOORS}:
            continue
        table, ours, theirs = FLOORS, here[0], there[0]
        if ours == theirs and ours in INNER_FLOORS:
            table = INNER_FLOORS[ours]
            ours, theirs = here[1], there[1] if there[1:] and there[1] in table else "__init__"
        if ours != theirs and not table[theirs] < table[ours]:
            lines.append(f"{path.name}:{line}: {ours} (floor {table[ours]}) imports {name} ({table[theirs]})")
    return lines


def broken_libraries(path: Path, tree: ast.AST) -> list[str]:
    """Say which lines of a file import a library that belongs elsewhere."""
    here = place_of(path)
    skipped = typing_only(tree)
    lines = []
    for name, line in imports(tree):
        library = name.split(".")[0]
        is_elsewhere = library in ONLY_IN and not any(is_in(here, room) for room in ONLY_IN[library])
        is_barred = any(library in barred and is_in(here, room) for room, barred in NEVER_IN.items())
        if is_elsewhere or (is_barred and line not in skipped):
            lines.append(f"{path.name}:{line}: {'.'.join(here)} imports {name}")
    return lines


def test_nothing_stands_at_the_root() -> None:
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py"]
    assert {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))} == {*FLOORS}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_module_imports_from_lower_floors_only(path: Path) -> None:
    assert broken_floors(path, parsed(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    assert broken_libraries(path, parsed(path)) == []


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        (
            "nets/conv4.py",
            "from metabench.training import loop",
            "nets (floor 1) imports metabench.training.loop (3)",
        ),
        (
            "data/reading/cache.py",
            "from metabench.data.sets import glyphs",
            "reading (floor 0) imports metabench.data.sets.glyphs (3)",
        ),
        (
            "search/journal/rule.py",
            "from metabench.search import search",
            "journal (floor 1) imports metabench.search.search (7)",
        ),
        (
            "leaderboard/rows.py",
            "from metabench import data",
            "leaderboard (floor 2) imports metabench.data (2)",
        ),
    ],
)
def test_an_upward_import_is_seen(path: str, source: str, problem: str) -> None:
    lines = broken_floors(PACKAGE / path, ast.parse(source))
    assert lines == [f"{Path(path).name}:1: {problem}"]


def test_a_stray_library_is_seen() -> None:
    source = ast.parse("def f():\n    import ray.tune\n")
    assert broken_libraries(PACKAGE / "search/journal/rule.py", source) == [
        "rule.py:2: search.journal.rule imports ray.tune"
    ]
    assert not broken_libraries(PACKAGE / "search/ray/worker.py", source)


@pytest.mark.parametrize(
    "path",
    ["__init__.py", *(f"cli/{name}.py" for name in ("__init__", "base", "datasets", "show", "simulations"))],
)
def test_the_command_line_imports_nothing_heavy_at_its_top(path: str) -> None:
    tree = parsed(PACKAGE / path)
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert not [name for name, _ in imports(top) if name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450, "split by meaning"
    assert ast.get_docstring(parsed(path)), "the first line says what the module is for"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_function_has_at_most_forty_lines(path: Path) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, kinds)]
    # Options and a kernel's pointers are a table of their own: there the body counts.
    first = {f: f.body[0] if is_interface(f) else f for f in functions}
    assert not [f"{f.name}: {n}" for f in functions if (n := (f.end_lineno or 0) - first[f].lineno + 1) > 40]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_no_global_randomness_and_no_unsafe_loading(path: Path) -> None:
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    assert not [
        f"line {c.lineno}: {ast.unparse(c.func)}"
        for c in calls
        if ast.unparse(c.func) in FORBIDDEN_CALLS and "weights_only=True" not in ast.unparse(c)
    ]


def test_constraints_hold_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if line.count("==") != 1 or any(mark in line for mark in "@/: ")]


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_search_spaces_are_plain_data_with_their_schema(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert isinstance(yaml.safe_load(path.read_text()), dict)
