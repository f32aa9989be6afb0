"""HarmonyDream in the real rl-zoo3: its commands, its folders, its hyper-parameter files.

In processes of their own: importing rl_zoo3 replaces Gymnasium's TimeLimit.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.zoo import rl_zoo3

ROOT = Path(__file__).parents[1]
TINY = "-params learning_starts:40 batch_size:2 sequence_length:8 train_ratio:1"
needs_it = pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed")


def run(folder: Path, *commands: str) -> str:
    """What rl-zoo3 prints on ``train ...`` and ``enjoy ...`` with `harmony`, one after the other in one process."""
    program = """
import sys
from hd_agents import zoo
zoo.register_rl_zoo3()
from rl_zoo3.enjoy import enjoy
from rl_zoo3.train import train
for command in sys.argv[1:]:
    name, *flags = command.split()
    sys.argv = [name, "--algo", "harmony", *flags]
    {"train": train, "enjoy": enjoy}[name]()
"""
    result = subprocess.run(
        [sys.executable, "-c", program, *commands],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_it
def test_train_enjoy_go_on_and_search(tmp_path: Path) -> None:
    conf, file = "-conf hd_agents.zoo.rl_zoo3", f"-conf {zoo.folder() / 'hyperparams' / 'classic.yml'}"
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path}/study.db"
    search = f"-optimize --n-trials 1 --no-optim-plots --n-evaluations 1 --study-name one --storage {storage}"
    more = f"--eval-freq 50 --eval-episodes 1 --save-freq 50 --save-replay-buffer --seed 1 {TINY}"
    printed = run(
        tmp_path,
        f"train --env CartPole-v1 {conf} -n 100 {more}",
        "enjoy --env CartPole-v1 -f logs -n 60 --no-render",
        "enjoy --env CartPole-v1 -f logs -n 60 --no-render --load-best --stochastic",
        "enjoy --env CartPole-v1 -f logs -n 60 --no-render --load-checkpoint 50",
        f"train --env CartPole-v1 {conf} -n 50 -i logs/harmony/CartPole-v1_1/CartPole-v1.zip {TINY}",
        f"train --env hd_agents/Catch-v0 {conf} -n 60 --eval-freq -1 {TINY}",
        "enjoy --env hd_agents/Catch-v0 -f logs -n 200 --no-render",
        f"train --env CartPole-v1 {file} -n 45 {search} --eval-episodes 1 -params learning_starts:42",
    )
    assert len(re.findall(r"^\d+ Episodes\nMean reward: ", printed, re.MULTILINE)) == 4
    left = tmp_path / "logs" / "harmony"
    assert {path.name for path in left.iterdir() if path.is_dir()} == {
        "CartPole-v1_1",
        "CartPole-v1_2",
        "CartPole-v1_3",
        "hd_agents-Catch-v0_1",
    }
    files = {path.name for path in (left / "CartPole-v1_1").iterdir() if path.is_file()}
    assert files >= {"CartPole-v1.zip", "best_model.zip", "rl_model_50_steps.zip", "evaluations.npz", "0.monitor.csv"}
    saved = yaml.unsafe_load((left / "CartPole-v1_1" / "CartPole-v1" / "config.yml").read_text())
    assert dict(saved) == {
        **zoo.hyperparameters("CartPole-v1"),
        **{"learning_starts": 40, "batch_size": 2, "sequence_length": 8, "train_ratio": 1},
    }
    agent = HarmonyDreamAgent.load(left / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu")
    assert agent.num_timesteps == 100
    assert agent._n_updates == 3  # 61 steps from step 40 on, one for every 16 of them
    stored = optuna.storages.RDBStorage(storage)
    (trial,) = optuna.load_study(study_name="one", storage=stored).trials
    stored.engine.dispose()  # or Python 3.13 warns of the open file
    assert trial.state.name == "COMPLETE"
    assert {"learning_rate", "train_ratio", "harmony"} <= trial.params.keys()
    assert agent.harmony_learning_rate == zoo.hyperparameters("CartPole-v1")["harmony_learning_rate"]


def test_the_script_of_the_docs_trains_only_where_it_is_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of rl-zoo3's ``--vec-env subproc`` read it again: each would have begun a training of its own."""
    (script,) = re.findall(r"```python\n([^`]*register_rl_zoo3.*?)```", (ROOT / "docs/zoo.md").read_text(), re.DOTALL)
    trained: list[str] = []
    module = SimpleNamespace(train=lambda: trained.append(name))
    monkeypatch.setattr(zoo, "register_rl_zoo3", lambda: None)
    monkeypatch.setitem(sys.modules, "rl_zoo3", SimpleNamespace(train=module))
    monkeypatch.setitem(sys.modules, "rl_zoo3.train", module)
    for name in ("__main__", "__mp_main__"):
        exec(script, {"__name__": name})
    assert trained == ["__main__"]


def test_hyperparameters_of_all_tasks_by_id_and_anew_each_time() -> None:
    found = rl_zoo3.hyperparams
    assert found.keys() == {zoo.env_id(name) for name in zoo.list()}
    assert found["metaworld/lever-pull-v0"] == zoo.hyperparameters("metaworld/lever-pull")
    found["metaworld/lever-pull-v0"]["policy_kwargs"].clear()
    assert rl_zoo3.hyperparams["metaworld/lever-pull-v0"] == zoo.hyperparameters("metaworld/lever-pull")
    with pytest.raises(AttributeError, match="hyperparam"):
        _ = rl_zoo3.hyperparam


def test_without_rl_zoo3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ImportError, match=r"hd_agents\[rl_zoo3\]"):
        zoo.register_rl_zoo3()
