"""The Dockerfile as it can be read without an engine, and no secret in any file of cluster/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.files import CLUSTER, ROOT, pinned

TEXT = (CLUSTER / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n", " ", TEXT).splitlines()
    if line and not line.startswith("#")
]

SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:secret|password|token|access_key)\w*\s*[=:]\s*['\"]?\w{16,}"
)
"""A key of AWS, a private key, or a long value of something that is called a secret."""


def values(instruction: str) -> list[str]:
    return [value for name, value in INSTRUCTIONS if name == instruction]


def test_it_starts_from_a_slim_python_of_one_version_that_the_package_allows() -> None:
    (base,) = values("FROM")
    match = re.fullmatch(r"python:3\.(\d+)-slim-\w+", base)
    assert match
    (least,) = re.findall(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert int(match[1]) >= int(least)


def test_every_installation_takes_the_versions_that_were_tested_together() -> None:
    installs = [value for value in values("RUN") if "pip install" in value]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in install for install in installs)
    assert pinned("ray")
    assert pinned("torch")
    copied = [i for i, (name, value) in enumerate(INSTRUCTIONS) if name == "COPY" and "constraints" in value]
    assert copied[0] < INSTRUCTIONS.index(["RUN", installs[0]])


def test_it_copies_what_is_there_and_the_context_holds_nothing_else() -> None:
    copied = {source for value in values("COPY") for source in value.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    everything, *allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    assert everything == "*"
    assert {line.removeprefix("!") for line in allowed if line.startswith("!")} == copied


def test_it_runs_as_a_user_who_may_write_where_the_search_does() -> None:
    assert values("USER") == ["metabench"]
    last = [name for name, _ in INSTRUCTIONS][-2:]
    assert last == ["USER", "WORKDIR"], "runs/ goes into the working directory"
    assert values("WORKDIR")[-1] == "/home/metabench"


def test_kuberay_finds_what_it_calls_in_the_image() -> None:
    packages = " ".join(value for value in values("RUN") if "apt-get install" in value)
    assert "wget" in packages.split(), "older operators ask for a node's health with it"


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert not SECRET.search(path.read_text())


@pytest.mark.parametrize(
    "planted",
    [
        "ENV RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef",
        "aws_secret_access_key: wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "  access_key: AKIA" + "ABCDEFGHIJKLMNOP",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_would_be_found(planted: str) -> None:
    assert SECRET.search(planted)
