"""The score while it is being learned: the same episodes every so many env steps, a line of JSON for each time."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import checks
from hd_agents.evaluation.episodes import EnvMaker
from hd_agents.evaluation.rules import RULES, check_fit, check_task, evaluate
from hd_agents.files import write_text
from hd_agents.progress import bar_is_seen, tqdm
from hd_agents.saving.jsonable import DamagedError
from hd_agents.training.callback_rules import check_place

MISTAKES = (ValueError, ImportError, gym.error.Error)  # in what evaluate() is asked for


class ScoreCurve(BaseCallback):
    """Evaluates the agent by :func:`hd_agents.evaluation.rules.evaluate` as ``learn`` goes on::

        agent.learn(100_000, callback=ScoreCurve("CartPole-v1", "scores.jsonl", every=10_000))

    The episodes are the same each time and are played in environments of their own; the run goes on as if there had
    been none. The log has ``eval/mean_return``, and ``eval/success_rate`` where the task has one. An evaluation whose
    environment fails is left out, with a warning.

    :param task: a Gymnasium id, or a function that makes the environment.
    :param path: of a file with a line of JSON per evaluation: its env steps, gradient steps, and what
        :meth:`hd_agents.evaluation.Evaluation.to_json` has. A run that goes on keeps the lines up to where it stands.
    :param every: env steps between two evaluations; the last one comes at the end of ``learn``, if it is due then.
    :param episodes: and the arguments after it: as for ``evaluate``.
    :param verbose: 1 prints each score, and a bar of the episodes while they are played.
    :raises ValueError: for numbers, rules and tasks that are not allowed; when learning starts, for a file of another
        run, and for what else ``evaluate`` refuses, such as other spaces than the agent's.
    :raises gymnasium.error.Error: when learning starts, for an id that is not known.
    """

    def __init__(
        self,
        task: str | EnvMaker,
        path: str | Path,
        every: int,
        episodes: int | None = None,
        rule: str = "paper",
        seed: int = 0,
        n_envs: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_task(task, env_kwargs)
        self.task, self.path = task, Path(path)
        self.every = checks.whole("every", every, 1)
        self.evaluation: dict[str, Any] = {
            "episodes": None if episodes is None else checks.whole("episodes", episodes, 1),
            "rule": checks.choice("rule", rule, RULES),
            "seed": checks.whole("seed", seed, 0),
            "n_envs": checks.whole("n_envs", n_envs, 1),
            "env_kwargs": env_kwargs,
        }
        self.seconds = 0.0  # that evaluations have taken
        self._lines: list[dict[str, Any]] = []
        self._tried = 0  # env steps at the last evaluation, or attempt at one

    def _on_training_start(self) -> None:
        check_place(self)
        found = read_scores(self.path)
        if found and not self.model.num_timesteps:
            raise ValueError(
                f"{self.path} holds scores of another run: give another path, go on with that run and with "
                "learn(..., reset_num_timesteps=False), or delete it, if that run was never stored."
            )
        # Lines beyond are of steps that will be made again; they are in the file until the next one is written.
        self._lines = [line for line in found if line["env_steps"] <= self.model.num_timesteps]
        self._tried = self._lines[-1]["env_steps"] if self._lines else 0
        try:  # better now than at the first evaluation, after hours
            check_fit(self.model, self.task, self.evaluation["env_kwargs"])  # type: ignore[arg-type]
        except MISTAKES:
            raise
        except Exception as error:  # whatever a simulator does
            warnings.warn(f"The environment of evaluations could not be made: {error!r}", stacklevel=2)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _on_rollout_start(self) -> None:
        self._evaluate_if_due()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        agent: Any = self.model
        stopped = agent.num_timesteps < agent._total_timesteps  # by Ctrl-C, say: whoever goes on evaluates
        if not stopped:
            self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        agent: Any = self.model
        if agent.num_timesteps // self.every == self._tried // self.every:
            return
        self._tried, begun = agent.num_timesteps, time.monotonic()
        try:
            bar = self.verbose > 0 and bar_is_seen()
            found = evaluate(agent, self.task, **self.evaluation, progress_bar=bar).to_json()
        except Exception as error:  # whatever a simulator does; the run is worth more than one of its scores
            warnings.warn(f"The evaluation after {self._tried:,} env steps failed: {error!r}", stacklevel=2)
            return
        finally:
            self.seconds += time.monotonic() - begun
        del found["versions"]
        self._lines.append({"env_steps": agent.num_timesteps, "gradient_steps": agent._n_updates, **found})
        write_scores(self.path, self._lines)
        if self.verbose:
            text = f"evaluation {found['mean_return']:.2f} ± {found['std_return']:.2f} ({found['episodes']} episodes)"
            (tqdm.write if tqdm else print)(f"{agent.num_timesteps:>9} env steps: {text}")
        for name in ("mean_return", "success_rate"):
            if name in found:
                self.logger.record(f"eval/{name}", found[name])
        self.logger.dump(agent.num_timesteps)  # now: a run that is killed before the next table has the line already


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The evaluations in a file of :class:`ScoreCurve`, oldest first; none where there is no file.

    :raises DamagedError: (a ValueError) for a file of anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = [dict(json.loads(line)) for line in lines]
        return [one | {"env_steps": int(one["env_steps"]), "mean_return": float(one["mean_return"])} for one in found]
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(f"{path} is damaged, or holds no scores: {type(error).__name__}: {error}") from error


def write_scores(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write what :func:`read_scores` reads, whole or not at all."""
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def forget_scores(path: Path, steps: int) -> None:
    """Cut off the evaluations after ``steps`` env steps, which a run that goes on from there has not made."""
    if path.is_file():
        write_scores(path, [line for line in read_scores(path) if line["env_steps"] <= steps])
