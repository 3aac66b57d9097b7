"""The lock file holds exact versions of everything pyproject.toml names, and nothing that ties it to one machine."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.lock import all_requirements, lock_lines, name_of

ROOT = Path(__file__).parents[2]
PEERS = ("odc-stac", "stackstac", "xbatcher", "nrt", "bottleneck", "geomad", "scikit-image", "netCDF4")


def locked_versions(text: str) -> dict[str, str]:
    """``{name: version}`` of a lock file's text; any line but ``name==version`` or a comment is an error."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == lock_lines(text, project="eocube"), "not sorted name==version lines without local labels: run `make lock`"
    return {name_of(name): version for name, _, version in (line.partition("==") for line in lines)}


def unmet(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """Requirements that the locked versions leave out or contradict."""
    wanted = [Requirement(requirement) for requirement in requirements]
    return [str(r) for r in wanted if name_of(r.name) not in versions or versions[name_of(r.name)] not in r.specifier]


@pytest.fixture(scope="module")
def versions() -> dict[str, str]:
    return locked_versions((ROOT / "requirements" / "lock.txt").read_text())


def test_the_lock_meets_every_requirement_of_the_package_its_extras_and_groups(versions: dict[str, str]) -> None:
    assert unmet(all_requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())), versions) == []


def test_the_lock_pins_torch_and_every_benchmark_peer(versions: dict[str, str]) -> None:
    assert versions["torch"] == "2.13.0"
    assert {name_of(peer) for peer in PEERS} <= set(versions)


def test_requirements_come_from_extras_groups_and_build_but_not_from_the_package_itself() -> None:
    pyproject = {
        "project": {"name": "pkg", "dependencies": ["a>=1"], "optional-dependencies": {"x": ["b[c]>=2"], "all": ["pkg[x]"]}},
        "dependency-groups": {"dev": ["d", "a>=1"]},
        "build-system": {"requires": ["e"]},
    }
    assert all_requirements(pyproject) == ["a>=1", "b[c]>=2", "d", "e"]


@pytest.mark.parametrize("requirement", ["a>=3", "b"], ids=["too old", "left out"])
def test_an_unmet_requirement_is_caught(requirement: str) -> None:
    assert unmet([requirement], {"a": "2.0"}) == [requirement]


@pytest.mark.parametrize("line", ["a>=1", "a @ file:///wheels/a.whl", "--find-links wheels", "a==1+cpu", "b==1\na==1"])
def test_a_line_that_ties_the_lock_to_one_machine_is_caught(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        locked_versions(f"{line}\n")


def test_a_freeze_loses_local_labels_comments_and_the_package_itself() -> None:
    freeze = "# comment\n-e git+ssh://somewhere#egg=eocube\ntorch==2.13.0+cpu\nBottleneck==1.6.0\neocube==0.1.0\n"
    assert lock_lines(freeze, project="eocube") == ["Bottleneck==1.6.0", "torch==2.13.0"]
