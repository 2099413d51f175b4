"""Plant known bugs, one at a time, in a copy of the package, and see that a test fails for each.

python -m tests.support.mutations            all of them; exit status 1 where a bug survives
python -m tests.support.mutations alpha      those whose name has "alpha" in it
python -m tests.support.mutations --table    the table of tests/algorithms/README.md
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.planted_bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
README = Path("tests/algorithms/README.md")
FAILED = 1  # pytest's exit status for tests that ran and failed; others mean that nothing was proven
JUDGED = re.compile(r"^E +(assert|AssertionError|Failed)", re.MULTILINE)  # a claim is false, not a crash


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(bugs: list[Bug]) -> list[str]:
    """Write the bugs as the rows of the README's table."""
    return [f"| {bug.name} | `{bug.file}` | `{bug.test.removeprefix('algorithms/')}` |" for bug in bugs]


def copy(folder: Path) -> None:
    """Copy the package, its tests and pytest's settings."""
    for name in ("metabench", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, so that it imports the package from there."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    # Slow tests, too, as `-m ""` takes the place of pytest's settings.
    options = ("-x", "-q", "-p", "no:cacheprovider", "-m", "")
    return run(folder, "-m", "pytest", *options, *(f"tests/{n}" for n in names))


def problems(folder: Path, bugs: list[Bug]) -> list[str]:
    """List what must be put right before any bug is planted."""
    complaints = []
    for bug in bugs:
        count = (folder / "metabench" / bug.file).read_text().count(bug.old)
        if count != 1:
            complaints.append(f"{bug.name}: found {count} times in metabench/{bug.file}: {bug.old!r}")
    readme = (ROOT / README).read_text().splitlines()
    complaints += [f"{README} lacks the line: {line}" for line in table(bugs) if line not in readme]
    source = run(folder, "-c", "import metabench; print(metabench.__file__)").stdout.strip()
    if not source.startswith(str(folder)):
        complaints.append(f"Python imports {source} and not the copy")
    return complaints


def plant(folder: Path, bug: Bug) -> bool:
    """Return whether the bug's test fails with the bug in place, and take the bug out again."""
    path = folder / "metabench" / bug.file
    sound = path.read_text()
    path.write_text(sound.replace(bug.old, bug.new))
    result = test(folder, bug.test)
    path.write_text(sound)
    is_killed = result.returncode == FAILED and bool(JUDGED.search(result.stdout))
    say(f"{'killed  ' if is_killed else 'SURVIVED'}  {bug.name}")
    if not is_killed:
        say(result.stdout[-2000:] + result.stderr[-2000:])
    return is_killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", nargs="?", default="", help="plant only bugs with this in their name")
    parser.add_argument("--table", action="store_true", help="print the README's table and plant nothing")
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if options.part in bug.name]
    if options.table:
        say("\n".join(table(bugs)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy(folder)
        wrong = problems(folder, bugs)
        before = test(folder, *sorted({bug.test for bug in bugs}))
        if before.returncode:
            wrong.append(f"without any bug, the tests fail:\n{before.stdout[-3000:]}")
        if wrong:
            say("\n".join(wrong))
            return 1
        killed = sum(plant(folder, bug) for bug in bugs)
    say(f"{killed} of {len(bugs)} planted bugs killed")
    return int(killed < len(bugs))


if __name__ == "__main__":
    sys.exit(main())
