"""`hd-agents compare`: the same seeds with and without harmony, and what it makes of them."""

import json
from pathlib import Path

import pytest
import yaml

from hd_agents import HarmonyDreamAgent, filming
from hd_agents.cli import compare, main
from tests.test_cli import TINY

ROWS = [
    {"harmony": setting, "seed": seed, "evaluation": {"mean_return": 10.0 * seed + plus}}
    for seed in (0, 1)
    for setting, plus in (("on", 3.0), ("off", 1.0))
]


def test_the_table_pairs_the_seeds() -> None:
    lines = [line.split() for line in compare.table(ROWS).splitlines()]
    assert lines[0][-5:] == ["seed", "0", "seed", "1", "mean"]
    assert lines[1][-3:] == ["3.00", "13.00", "8.00"]
    assert lines[2][-3:] == ["1.00", "11.00", "6.00"]
    assert lines[3] == ["on", "minus", "off", "2.00", "2.00", "2.00"]
    alone = compare.table([row for row in ROWS if row["harmony"] == "off"])
    assert "minus" not in alone


def test_both_settings_are_trained_and_evaluated_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    flags = ["--seeds", "1", "--steps", "90", "--episodes", "4", "--folder", str(tmp_path), *TINY]
    assert main(["compare", "classic/CartPole", *flags]) == 0
    folder = tmp_path / "CartPole-v1_compare_1"
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["harmony"], row["seed"]) for row in rows] == [("on", 0), ("off", 0)]
    assert [row["evaluation"]["seeds"] for row in rows] == [[10_000, 10_001, 10_002, 10_003]] * 2
    for row in rows:
        run = folder / f"{row['harmony']}_0" / "CartPole-v1_1"
        assert row["folder"] == str(run)
        config = yaml.safe_load((run / "config.yml").read_text())["CartPole-v1"]
        assert (config["harmony"], config["seed"], config["batch_size"]) == (row["harmony"] == "on", 0, 2)
        assert HarmonyDreamAgent.load(run / "agent.zip", device="cpu").harmony is (row["harmony"] == "on")
    assert (folder / "compare.png").stat().st_size > 10_000
    assert "on minus off" in capsys.readouterr().out


def test_runs_of_a_comparison_can_have_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    flags = ["--seeds", "1", "--harmony", "on", "--steps", "50", "--episodes", "1", "--folder", str(tmp_path), *TINY]
    assert main(["compare", "classic/CartPole", *flags, "--resume"]) == 0
    (row,) = json.loads((tmp_path / "CartPole-v1_compare_1" / "compare.json").read_text())
    assert (Path(row["folder"]) / "checkpoints").is_dir()


def test_ctrl_c_ends_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HarmonyDreamAgent, "learn", interrupted)
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    assert main(["compare", "CartPole-v1", "--folder", str(tmp_path), *TINY]) == 130
    assert [path.name for path in (tmp_path / "CartPole-v1_compare_1").iterdir()] == ["on_0"]


@pytest.mark.parametrize("flags", [["--seeds", "0"], ["--set", "nothing=1"], ["--episodes", "0"]])
def test_mistakes_leave_nothing(flags: list[str], tmp_path: Path) -> None:
    assert main(["compare", "CartPole-v1", "--folder", str(tmp_path), *flags]) == 2
    assert not list(tmp_path.iterdir())
