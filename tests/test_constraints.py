"""constraints.txt: exact versions that fit pyproject.toml, for all that the project and its tests need."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
VERSIONS = {canonicalize_name(name): version for name, _, version in (pin.partition("==") for pin in PINS)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
"""The extra "benchmarks" is not among what CI installs."""


def test_each_line_pins_one_version_and_they_are_sorted() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin) for pin in PINS)
    assert len(VERSIONS) == len(PINS)
    names = [pin.partition("==")[0].lower() for pin in PINS]
    assert names == sorted(names)


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_each_requirement_has_a_version_within_its_bounds(text: str) -> None:
    requirement = Requirement(text)
    version = VERSIONS.get(canonicalize_name(requirement.name))
    assert version is not None, f"constraints.txt has no line for {requirement.name}"
    assert requirement.specifier.contains(version, prereleases=True), f"{requirement} does not allow {version}"


def test_what_the_pinned_versions_need_in_turn_is_pinned_too() -> None:
    """As far as they are installed here: what another system or Python needs, or another version, is not looked at."""
    to_visit, seen = [Requirement(text) for text in REQUIREMENTS], set()
    while to_visit:
        requirement = to_visit.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            installed = metadata.distribution(name)
            if installed.version != VERSIONS.get(name, installed.version):
                continue
            for text in installed.requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    to_visit.append(needed)
    assert {name for name, _ in seen} - VERSIONS.keys() == set()
