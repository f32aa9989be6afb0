"""What setup.cfg promises: every package and data file ships, and a plain install brings no more than it needs."""

import configparser
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import hd_agents
from hd_agents.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def test_every_package_is_listed(setup_cfg: configparser.ConfigParser) -> None:
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hd_agents").rglob("__init__.py")}
    assert set(lines(setup_cfg["options"]["packages"])) == folders | {"hd_agents._zoo"}


def test_every_zoo_file_ships(setup_cfg: configparser.ConfigParser) -> None:
    patterns = lines(setup_cfg["options.package_data"]["hd_agents._zoo"])
    shipped = {path for pattern in patterns for path in (ROOT / "zoo").glob(pattern)}
    assert shipped == {path for path in (ROOT / "zoo").rglob("*") if path.is_file()}


def test_plain_install_brings_four_packages(setup_cfg: configparser.ConfigParser) -> None:
    required = {Requirement(line).name for line in lines(setup_cfg["options"]["install_requires"])}
    assert required == {"gymnasium", "numpy", "stable-baselines3", "torch"}


def test_extras(setup_cfg: configparser.ConfigParser) -> None:
    extras = set(setup_cfg["options.extras_require"])
    tools = {"completion", "export", "hub", "plot", "rl_zoo3", "track", "tune"}
    assert extras == {"atari", "dmc", "metaworld", "logging", "train", "docs", "dev", "all"} | tools


@pytest.mark.parametrize("extra", ["all", "dev"])
def test_whole_sets_leave_out_what_a_python_has_no_wheel_of(setup_cfg: configparser.ConfigParser, extra: str) -> None:
    asked = [Requirement(line) for line in lines(setup_cfg["options.extras_require"][extra])]
    limited = {"dmc", "metaworld", "plot"}
    for python, there in (("3.10", limited), ("3.12", limited), ("3.13", limited - {"dmc"}), ("3.14", set())):
        here = {"python_version": python}
        extras = [asks.extras for asks in asked if asks.marker is None or asks.marker.evaluate(here)]
        assert set().union(*extras) & limited == there


def test_constraints_satisfy_setup_cfg(setup_cfg: configparser.ConfigParser) -> None:
    pins = dict(line.split("==") for line in lines((ROOT / "constraints.txt").read_text()) if not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    allowed = [line for extra in setup_cfg["options.extras_require"].values() for line in lines(extra)]
    allowed += lines(setup_cfg["options"]["install_requires"])
    for requirement in map(Requirement, allowed):
        name = requirement.name.lower().replace("_", "-")
        if name != "hd-agents":
            assert name in pins, f"{name} is not in constraints.txt"
            assert requirement.specifier.contains(pins[name]), f"{requirement} excludes the tested {pins[name]}"


def test_console_script(setup_cfg: configparser.ConfigParser) -> None:
    name, equals, target = setup_cfg["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert (name, equals) == ("hd-agents", " = ")
    assert getattr(import_module(module), function) is main


def test_version_is_read_from_the_package(setup_cfg: configparser.ConfigParser) -> None:
    assert setup_cfg["metadata"]["version"] == "attr: hd_agents.__version__"
    assert Version(hd_agents.__version__).release
