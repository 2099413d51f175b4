"""Every command that cluster/README.md tells people to type is one that the programs understand."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from tests.cluster.files import CLUSTER, ROOT, check_metabench, commands, indented_lines

LINES = indented_lines()


@pytest.mark.parametrize("line", [line for line in LINES if list(commands(line, "metabench"))])
def test_a_metabench_command_is_understood(line: str) -> None:
    for arguments in commands(line, "metabench"):
        understood = check_metabench(arguments)
        if arguments[0] == "search":
            assert understood["address"] == "auto"
            assert understood["resume"] == "auto"
            space = str(understood["space"]).removeprefix("~/metabench-source/")
            assert (ROOT / space).is_file()


@pytest.mark.parametrize("line", [line for line in LINES if list(commands(line, "ray"))])
def test_a_ray_command_is_understood(line: str) -> None:
    for name, *arguments in commands(line, "ray"):
        command = ray_cli.commands[name]
        parsed = command.make_context(name, list(arguments)).params
        if "cluster_config_file" in parsed:
            assert (ROOT / parsed["cluster_config_file"]).is_file()


def test_an_option_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --adress"):
        check_metabench(["search", "space.yaml", "--adress", "auto"])
    with pytest.raises(click.NoSuchOption):
        ray_cli.commands["up"].make_context("up", ["cluster/aws.yaml", "--workers", "2"])


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "onprem.yaml"])
def test_three_commands_start_run_and_stop(name: str) -> None:
    lines = [line for line in LINES if f"cluster/{name}" in line][:3]
    assert [shlex.split(line)[:2] for line in lines] == [["ray", "up"], ["ray", "exec"], ["ray", "down"]]


@pytest.mark.parametrize(("name", "scheme"), [("aws.yaml", "s3://"), ("gcp.yaml", "gs://")])
def test_the_search_is_told_how_many_workers_there_may_be_and_of_the_clouds_own_storage(
    name: str, scheme: str
) -> None:
    (line,) = [line for line in LINES if line.startswith(f"ray exec --tmux cluster/{name}")]
    (arguments,) = commands(line, "metabench")
    assert (
        check_metabench(arguments)["workers"] == yaml.safe_load((CLUSTER / name).read_text())["max_workers"]
    )
    assert arguments[arguments.index("--storage") + 1].startswith(scheme)


def test_a_call_of_the_slurm_script_hands_a_search_its_arguments() -> None:
    (line,) = [line for line in LINES if "cluster/slurm.sh" in line]
    words = shlex.split(line)
    rest = words[words.index("cluster/slurm.sh") + 1 :]
    assert (ROOT / rest[0]).is_file()
    check_metabench(["search", *rest, "--address", "10.0.0.1:20000", "--resume", "auto"])


def test_every_file_of_the_folder_is_told_about_and_every_file_told_about_is_there() -> None:
    text = (CLUSTER / "README.md").read_text()
    named = set(re.findall(r"`(?:cluster/)?([\w.]+\.(?:yaml|sh)|Dockerfile)`", text))
    there = {path.name for path in CLUSTER.iterdir()} - {
        "README.md",
        "environment.sh",
        "Dockerfile.dockerignore",
    }
    assert named == there
