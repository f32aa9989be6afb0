"""What a training run tells while it goes on, and leaves for others to repeat it: `run.json` and `config.yml`."""

import argparse
import json
import shlex
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import HarmonyDreamAgent
from hd_agents.cli.curves import WINDOW
from hd_agents.cli.resuming import changed_settings, repeat_command
from hd_agents.evaluation.score_curve import ScoreCurve
from hd_agents.files import write_text
from hd_agents.provenance import commit, machine
from hd_agents.saving.storing import system_info
from hd_agents.zoo.models import training_facts
from hd_agents.zoo.own_rows import is_file
from hd_agents.zoo.results import NETWORKS
from hd_agents.zoo.training import Plan


class Facts:
    """How the agent is trained, for the card of a packed model: a file that is kept up to date."""

    def __init__(
        self, path: Path, plan: Plan, agent: HarmonyDreamAgent, options: argparse.Namespace, resuming: bool
    ) -> None:
        self.scores: ScoreCurve | None = None  # whose evaluations are no part of the training
        before = (training_facts(path.parent) or {}) if resuming else {}
        place = {"commit": commit(), "machine": machine(agent.device)}
        changes = list(before.get("changes", []))
        told = [changed_settings(path.parent, plan, options.seed)] if resuming else []
        told += [f"{key} {before[key]} -> {now}" for key, now in place.items() if before.get(key, now) != now]
        if changed := ", ".join(filter(None, told)):
            changes.append({"env_steps": agent.num_timesteps, "changed": changed})
        began = {"trained_agent": before["trained_agent"]} if "trained_agent" in before else {}
        self._path, self._started = path, time.monotonic() - before.get("wall_seconds", 0.0)
        self._facts: dict[str, Any] = {
            "task": plan.task,
            **{key: value for key, value in plan.row().items() if key in ("env_kwargs", "agent_class")},
            **({} if plan.agent_class is HarmonyDreamAgent else {key: getattr(agent, key) for key in NETWORKS}),
            **(began if resuming else _beginning(plan.trained_agent, options.trained_agent)),
            "command": repeat_command(options.task, options),
            **({"settings": plan.row()} if is_file(options.preset) else {}),  # the command's file may change or be lost
            **place,
            "seed": options.seed,
            "trained": datetime.now(timezone.utc).date().isoformat(),
            "versions": system_info(),
            **({"changes": changes} if changes else {}),
        }

    def write(self) -> None:
        """Write the file, with the seconds that were spent so far; those before the run was resumed count."""
        scoring = self.scores.seconds if self.scores else 0.0
        facts = {**self._facts, "wall_seconds": round(time.monotonic() - self._started - scoring, 1)}
        write_text(self._path, json.dumps(facts, indent=1) + "\n")


def _beginning(trained: HarmonyDreamAgent | None, name: str | None) -> dict[str, Any]:
    """What the run began with, if not with random weights."""
    if trained is None:
        return {}
    return {"trained_agent": {"model": name, "env_steps": trained.num_timesteps, "gradient_steps": trained._n_updates}}


class ReturnPrinter(BaseCallback):
    """Prints the return of the latest episodes above the progress bar, and keeps the run's facts."""

    def __init__(self, every: int, facts: Facts) -> None:
        super().__init__()
        self._every = every
        self._next = every
        self._facts = facts

    def _on_training_start(self) -> None:
        self._next = (self.model.num_timesteps // self._every + 1) * self._every

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        from tqdm.auto import tqdm

        if episodes := [info["r"] for info in self.model.ep_info_buffer or ()][-WINDOW:]:
            self._next = (self.num_timesteps // self._every + 1) * self._every
            mean = sum(episodes) / len(episodes)
            self._facts.write()
            tqdm.write(f"{self.num_timesteps:>9} env steps: return {mean:8.2f} (mean of last {len(episodes)})")
        return True


def write_config(path: Path, plan: Plan, options: argparse.Namespace) -> None:
    """What was run, so that it can be run again."""
    import yaml

    command = shlex.join(["hd-agents", *sys.argv[1:]])
    text = yaml.safe_dump({plan.task: plan.settings(options.seed)}, sort_keys=False)
    write_text(path, f"# {command}\n{text}")
