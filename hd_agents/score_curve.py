"""The score while it is being learned: the same episodes every so many env steps, a line of JSON for each time."""

import json
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import checks
from hd_agents.evaluation import EnvMaker, evaluate
from hd_agents.host import atomic_write


class ScoreCurve(BaseCallback):
    """Evaluates the agent by :func:`hd_agents.evaluation.evaluate` as ``learn`` goes on::

        agent.learn(100_000, callback=ScoreCurve("CartPole-v1", "scores.jsonl", every=10_000))

    The episodes are the same each time and are played in environments of their own; the run goes on as if there had
    been none. The log has ``eval/mean_return``, and ``eval/success_rate`` where the task has one.

    :param task: a Gymnasium id, or a function that makes the environment.
    :param path: of a file with a line of JSON per evaluation: its env steps, gradient steps, and what
        :meth:`hd_agents.evaluation.Evaluation.to_json` has. A run that goes on keeps the lines up to where it stands.
    :param every: env steps between two evaluations; the last one comes at the end of ``learn``, if it is due then.
    :param evaluation: further arguments of ``evaluate``: ``episodes``, ``rule``, ``seed``, ``n_envs``, ``env_kwargs``.
    :raises ValueError: for arguments that are not allowed, and at the first evaluation what ``evaluate`` raises.
    """

    def __init__(self, task: str | EnvMaker, path: str | Path, every: int, **evaluation: Any) -> None:
        super().__init__()
        self.task, self.path, self.evaluation = task, Path(path), evaluation
        self.every = checks.whole("every", every, 1)
        self._lines: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        found = read_scores(self.path)
        self._lines = [line for line in found if line["env_steps"] <= self.model.num_timesteps]
        if len(self._lines) < len(found):
            self._write()
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _on_rollout_start(self) -> None:
        self._evaluate_if_due()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        agent: Any = self.model
        last = self._lines[-1]["env_steps"] if self._lines else 0
        if agent.num_timesteps // self.every == last // self.every:
            return
        found = evaluate(agent, self.task, **self.evaluation).to_json()
        del found["versions"]
        self._lines.append({"env_steps": agent.num_timesteps, "gradient_steps": agent._n_updates, **found})
        self._write()
        for name in ("mean_return", "success_rate"):
            if name in found:
                self.logger.record(f"eval/{name}", found[name])

    def _write(self) -> None:
        with atomic_write(self.path) as file:
            file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in self._lines).encode())


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The evaluations in a file of :class:`ScoreCurve`, oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
