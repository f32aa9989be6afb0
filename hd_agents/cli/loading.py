"""What stands for a trained model on the command line: its agent, how it was trained, and what it can play."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from hd_agents import HarmonyDreamAgent, checks, zoo
from hd_agents.cli.errors import UsageError, checked
from hd_agents.cli.tasks import as_json, class_in, find_own_modules, parse_setting
from hd_agents.zoo.classes import find_class
from hd_agents.zoo.models import (
    AGENT_FILE,
    CHECKPOINTS,
    LOGS,
    agent_file,
    find_agent,
    is_package,
    model_file,
    training_facts,
)

# What a model may be given as.
MODEL = "a name of `hd-agents list --pretrained`, agent.zip, a run's or a package's folder, or org/repo of the Hub"
MODELS_OWN = " (default: those of the model's training, if it plays the task that it was trained on)"


def load_model(name: str, device: str, agent_class: str | None = None) -> HarmonyDreamAgent:
    """The agent of MODEL. What class it is of has to be typed: no file chooses what is imported.

    :param agent_class: ``MODULE:CLASS``; None for :class:`HarmonyDreamAgent`.
    """
    _check_near(name)
    if agent_class is not None:
        find_own_modules()
        return checked(lambda: find_agent(name, device, find_class(agent_class)))
    own = training_of(name).get("agent_class") if model_file(name) is not None else None
    if own is not None:
        raise UsageError(f"{name} is of {own}: add --agent-class {own} (--set agent_class={own} to train it on).")
    return checked(lambda: find_agent(name, device))


def load_beginning(name: str, settings: Sequence[str]) -> HarmonyDreamAgent:
    """The agent of MODEL that a run begins with: of the class among its settings, or of ours, which that may add to."""
    told = training_of(name) if model_file(name) is not None else {}
    is_ours = bool(told) and "agent_class" not in told
    return load_model(name, "cpu", None if is_ours else class_in(settings))


def _check_near(name: str) -> None:
    """Raises UsageError for a folder or path without an agent's file or package, naming what is near."""
    if is_package(name) or name in zoo.pretrained() or agent_file(name) is not None:
        return
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    if folder != Path():
        there = [str(found) for glob in ("agent*.zip", "*/agent*.zip") for found in folder.glob(glob)]
        if near := difflib.get_close_matches(name, there, n=1, cutoff=0.0):
            raise UsageError(
                f"{name} is not an agent's file, a run with an agent.zip or a package. Did you mean {near[0]}?"
            )
    if path.is_dir():
        raise UsageError(f"{name} holds no {AGENT_FILE}, and is not a package.")


def training_of(model: str) -> dict[str, Any]:
    """How a model was trained: its card says it, or the file that its training left beside it; else nothing."""
    _check_near(model)
    file = model_file(model)
    if file is None:
        return dict(checked(lambda: zoo.card(model)))
    folder = file.parent.parent if file.parent.name in (CHECKPOINTS, LOGS) else file.parent
    return checked(lambda: training_facts(folder)) or {}


def env_kwargs_for(model: str, task: str, told: Sequence[str]) -> dict[str, Any]:
    """What a task's environment is made with for a model: what it was trained with there, and what was typed."""
    trained = training_of(model)
    usual = trained.get("env_kwargs", {}) if trained.get("task") == task else {}
    return as_json({**usual, **dict(map(parse_setting, told))})


def check_spaces(agent: HarmonyDreamAgent, model: str, task: str, env: gym.Env[Any, Any]) -> None:
    """Raises UsageError where a model cannot play in the task's environment."""
    wrapped = agent._wrap_env(env)  # as in training: images come channels first
    try:
        checks.spaces(wrapped, agent.observation_space, agent.action_space)
    except ValueError as error:
        raise UsageError(f"the model {model} cannot play {task}: {error}") from error
