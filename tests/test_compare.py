"""`hd-agents compare`: the same seeds with and without harmony, and what it makes of them."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from hd_agents import HarmonyDreamAgent, filming
from hd_agents.cli import compare, main, pictures, train
from tests.test_cli import TINY
from tests.test_cli_resume import stop_by

ROWS = [
    {"variant": setting, "seed": seed, "evaluation": {"mean_return": 10.0 * seed + plus}}
    for seed in (0, 1)
    for setting, plus in (("on", 3.0), ("off", 1.0))
]


def test_the_table_pairs_the_seeds() -> None:
    lines = [line.split() for line in compare.table(ROWS).splitlines()]
    assert lines[0][-5:] == ["seed", "0", "seed", "1", "mean"]
    assert lines[1][-3:] == ["3.00", "13.00", "8.00"]
    assert lines[2][-3:] == ["1.00", "11.00", "6.00"]
    assert lines[3] == ["on", "minus", "off", "2.00", "2.00", "2.00"]
    alone = compare.table([row for row in ROWS if row["variant"] == "off"])
    assert "minus" not in alone


def test_both_settings_are_trained_and_evaluated_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    flags = ["--seeds", "1", "--steps", "90", "--episodes", "4", "--folder", str(tmp_path), *TINY]
    assert main(["compare", "classic/CartPole", *flags]) == 0
    folder = tmp_path / "CartPole-v1_compare_1"
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["variant"], row["seed"]) for row in rows] == [("on", 0), ("off", 0)]
    assert [row["evaluation"]["seeds"] for row in rows] == [[10_000, 10_001, 10_002, 10_003]] * 2
    for row in rows:
        run = folder / f"{row['variant']}_0" / "CartPole-v1_1"
        assert row["folder"] == str(run)
        config = yaml.safe_load((run / "config.yml").read_text())["CartPole-v1"]
        assert (config["harmony"], config["seed"], config["batch_size"]) == (row["variant"] == "on", 0, 2)
        assert HarmonyDreamAgent.load(run / "agent.zip", device="cpu").harmony is (row["variant"] == "on")
    assert (folder / "compare.png").stat().st_size > 10_000
    assert "on minus off" in capsys.readouterr().out


def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that later calls of ``learn`` are asked for."""
    asked: list[int] = []
    learn = HarmonyDreamAgent.learn

    def counted(agent: HarmonyDreamAgent, steps: int, **options: Any) -> HarmonyDreamAgent:
        asked.append(steps)
        return learn(agent, steps, **options)

    monkeypatch.setattr(HarmonyDreamAgent, "learn", counted)
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    return asked


def test_a_comparison_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, folder = trained(monkeypatch), tmp_path / "mine"
    words = ["compare", "classic/CartPole", "--steps", "50", "--folder", str(folder), "--resume", *TINY]
    assert main([*words, "--seeds", "1", "--harmony", "on", "--episodes", "1"]) == 0
    (row,) = json.loads((folder / "compare.json").read_text())
    assert row["folder"] == str(folder / "on_0")
    assert (folder / "on_0" / "checkpoints").is_dir()
    assert main([*words, "--seeds", "1", "--episodes", "1"]) == 0  # only what is not there yet
    assert main([*words, "--seeds", "1", "--episodes", "2"]) == 0  # evaluated anew, not trained anew
    assert asked == [50, 50]
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["variant"], row["seed"], row["evaluation"]["episodes"]) for row in rows] == [
        ("on", 0, 2),
        ("off", 0, 2),
    ]
    for row in rows:
        row["evaluation"]["episodes"] = 20  # which are meant where no number is given
    (folder / "compare.json").write_text(json.dumps(rows))
    capsys.readouterr()
    assert main([*words, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.count("done already") == 2
    assert main([*words, "--seeds", "1", "--harmony", "off"]) == 0
    assert "minus" not in capsys.readouterr().out  # only what is asked for
    drawn: list[Path] = []
    monkeypatch.setattr(compare, "curves_of", lambda folders: drawn.extend(folders) or ([([], [])] * 2, ""))
    words[words.index(str(folder))] = str(tmp_path / "moved")
    folder = folder.rename(tmp_path / "moved")
    assert main([*words, "--seeds", "1"]) == 0
    assert drawn == [folder / "on_0", folder / "off_0"]
    capsys.readouterr()
    assert main([*words, "--seeds", "1", "--set=gamma=0.9"]) == 2
    assert "was begun with other settings (gamma" in capsys.readouterr().err
    assert main([*words[:4], "--folder", str(tmp_path), "--resume"]) == 2
    assert f"Did you mean {folder}?" in capsys.readouterr().err
    assert main([*words[:4], "--folder", str(folder / "compare.json"), "--resume"]) == 2
    assert "is a file: give the comparison's folder" in capsys.readouterr().err


def test_a_stopped_comparison_goes_on_in_the_run_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = trained(monkeypatch)
    words = ["compare", "CartPole-v1", "--seeds", "1", "--episodes", "1", "--steps", "60", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(train.Report, "_on_step", stop_by(signal.SIGTERM))
        assert main([*words, "--folder", str(tmp_path), "--checkpoint-every", "20"]) == 143
    folder = tmp_path / "CartPole-v1_compare_1"
    assert f"--folder {folder} --resume" in capsys.readouterr().out
    assert main([*words, "--folder", str(folder), "--resume"]) == 0
    assert asked[0] == 60
    assert 0 < asked[1] < 20
    assert asked[2:] == [60]
    assert [path.name for path in (folder / "on_0").iterdir()] == ["CartPole-v1_1"]


def test_a_run_that_was_stopped_before_its_last_step_is_not_taken_for_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes its last step all the same, but does not learn from it."""
    words = ["compare", "CartPole-v1", "--seeds", "1", "--harmony", "on", "--episodes", "1", "--steps", "47", *TINY]
    words += ["--folder", str(tmp_path), "--resume"]
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    with monkeypatch.context() as patch:
        patch.setattr(train.Report, "_on_step", stop_by(signal.SIGTERM))
        assert main(words) == 143
    assert HarmonyDreamAgent.load(tmp_path / "on_0" / "agent.zip", device="cpu").num_timesteps == 47
    asked = trained(monkeypatch)
    assert main(words) == 0
    assert asked == [1]


def test_ctrl_c_ends_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HarmonyDreamAgent, "learn", interrupted)
    monkeypatch.setattr(filming, "MAX_STEPS", 5)
    assert main(["compare", "CartPole-v1", "--folder", str(tmp_path), *TINY]) == 130
    assert [path.name for path in (tmp_path / "CartPole-v1_compare_1").iterdir()] == ["on_0"]


def test_what_was_evaluated_is_kept_when_a_later_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = HarmonyDreamAgent.learn

    def interrupted(agent: HarmonyDreamAgent, *arguments: Any, **options: Any) -> HarmonyDreamAgent:
        if agent.harmony is False:
            raise KeyboardInterrupt
        return learn(agent, *arguments, **options)

    monkeypatch.setattr(HarmonyDreamAgent, "learn", interrupted)
    monkeypatch.setattr(pictures, "leave", lambda *arguments: None)
    words = ["compare", "CartPole-v1", "--steps", "30", "--episodes", "1", "--folder", str(tmp_path), *TINY]
    assert main(words) == 130
    rows = json.loads((tmp_path / "CartPole-v1_compare_1" / "compare.json").read_text())
    assert [(row["variant"], row["seed"]) for row in rows] == [("on", 0)]


def test_the_figure_has_a_line_per_seed_and_the_curves_of_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: figures.append(figure))
    rows = [{**row, "folder": str(tmp_path / f"{row['variant']}_{row['seed']}")} for row in ROWS]
    for row in rows:
        Path(row["folder"]).mkdir()
        score = row["evaluation"]["mean_return"]
        (Path(row["folder"]) / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n{score},10,1\n{score},10,2\n")
    compare.draw(tmp_path / "compare.png", "t", rows)
    curves, pairs = figures[0].axes
    assert sorted(list(line.get_ydata()) for line in pairs.lines) == [[3.0, 1.0], [13.0, 11.0]]
    means = {line.get_label(): line.get_ydata().mean() for line in curves.lines if line.get_linewidth() > 2}
    assert means == {"with harmony": pytest.approx(8.0), "without harmony": pytest.approx(6.0)}


def test_any_settings_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(monkeypatch)
    words = ["compare", "classic/CartPole", "--steps", "50", "--seeds", "1", "--first-seed", "3", "--episodes", "1"]
    words += ["--folder", str(tmp_path / "mine"), "--resume", *TINY, "--variant", "base", "--variant", "plain"]
    words += ["harmony=False", "--variant", "heavy-reward", "harmony.reward=10", "gamma=0.9", "--set=gamma=0.8"]
    assert main(words) == 0
    folder = tmp_path / "mine"
    rows = json.loads((folder / "compare.json").read_text())
    assert [(row["variant"], row["seed"]) for row in rows] == [("base", 3), ("plain", 3), ("heavy-reward", 3)]
    made = [HarmonyDreamAgent.load(folder / f"{row['variant']}_3" / "agent.zip", device="cpu") for row in rows]
    assert [agent.harmony for agent in made] == [True, False, {"reward": 10}]
    assert [agent.gamma for agent in made] == [0.8, 0.8, 0.9]  # a variant's own counts
    out = capsys.readouterr().out
    assert "base minus plain" in out
    assert "base minus heavy-reward" in out
    assert (folder / "compare.png").stat().st_size > 10_000
    assert main(words) == 0
    assert capsys.readouterr().out.count("done already") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "harmony=False"], "begin with a name"),
        (["--variant", "a", "--variant", "a", "gamma=0.9"], "a name of its own"),
        (["--variant", "a", "--harmony", "on"], "give one of them"),
        (["--variant", "on", "nothing=1"], "other than on and off"),
        (["--variant", "a", "nothing=1"], "no such setting"),
    ],
)
def test_variants_that_cannot_be(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "CartPole-v1", *words]) == 2
    assert message in capsys.readouterr().err


def test_mistakes_leave_nothing(tmp_path: Path) -> None:
    assert main(["compare", "CartPole-v1", "--folder", str(tmp_path), "--set", "nothing=1"]) == 2
    assert not list(tmp_path.iterdir())
