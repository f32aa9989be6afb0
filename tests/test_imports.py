"""Imports point one way, and a plain install is enough to import the package and to learn from vectors."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hd_agents"
# Lowest first. A module may import from lower ranks and from its own folder, not from its neighbours.
RANKS = (
    {"checks", "extras", "files", "host", "signals"},
    {"graphs", "nn", "presets", "provenance", "randomness", "saving", "spaces"},
    {"harmony"},
    {"world_model"},
    {"behavior", "styles"},
    {"acting", "arrivals", "backbones", "envs", "progress", "replay"},
    {"export", "policies"},
    {"footprint", "imagine", "official", "player", "restoring"},
    {"training"},
    {"agent"},
    {"dream_env", "evaluation", "films"},
    {"run_state"},
    {"run_checkpoint"},
    {"callbacks"},
    {"zoo"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# What only extras bring; a plain install must do without.
EXTRAS = ("ale_py", "cv2", "dm_control", "matplotlib", "metaworld", "mujoco", "pandas", "pygame", "rich")
EXTRAS += (
    "huggingface_hub",
    "onnx",
    "onnxscript",
    "optuna",
    "rl_zoo3",
    "rliable",
    "safetensors",
    "shimmy",
    "shtab",
    "tensorboard",
    "tqdm",
)
EXTRAS += ("wandb", "yaml")


def imported_parts(source: str) -> set[str]:
    """The parts of hd_agents (`nn`, `agent`, ...) that a module's source imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("hd_agents.")} & set(RANK)


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own.startswith("__"):  # the package's front door sees everything
            continue
        assert own in RANK, f"{path}: give {own!r} a rank"
        parts = imported_parts(path.read_text(encoding="utf-8"))
        wrong += [f"{path} imports {part}" for part in parts - {own} if RANK[part] >= RANK[own]]
    assert not wrong


def test_import_finder_sees_every_form() -> None:
    source = "import hd_agents.nn\nfrom hd_agents import zoo\ndef f():\n    from hd_agents.agent import Agent\n"
    assert imported_parts(source) == {"nn", "zoo", "agent"}


def test_plain_install_learns_from_vectors() -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))  # None: importing them fails as if they were not installed
import gymnasium, hd_agents
assert "hd_agents/Catch-v0" in gymnasium.registry
tiny = dict(size="nano", learning_starts=40, batch_size=2, sequence_length=8, train_ratio=1, pretrain_steps=2)
agent = hd_agents.HarmonyDreamAgent("MlpPolicy", "CartPole-v1", seed=0, **tiny)
agent.learn(60)
assert agent.num_timesteps == 60
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
