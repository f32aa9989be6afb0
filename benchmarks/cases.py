"""The configurations that the benchmarks share: networks, a learner and a replay full of noise, without environment."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hd_agents.backbones import Networks, build, objectives
from hd_agents.presets import DEFAULTS
from hd_agents.replay import SequenceReplay
from hd_agents.training.learner import Learner

ACTIONS = 6
EPISODE = 40  # rows from one episode's start to the next
OBSERVATIONS = 16  # drawn before the clock starts, where acting is timed


class Case(NamedTuple):
    """One configuration: batch_size x sequence_length, the image or vector it sees, and network widths."""

    batch_size: int
    sequence_length: int
    images: dict[str, tuple[int, int, int]]
    vectors: dict[str, int]
    size: str
    overrides: dict[str, int]
    backbone: str = "dreamerv3"

    @property
    def continuous(self) -> bool:
        """Whether its actions are."""
        return self.backbone == "dreamerv2"


_IMAGE = {"image": (64, 64, 3)}
_CPU_SMALL = {"deter": 256, "hidden": 256, "units": 256, "layers": 2, "depth": 16, "stoch": 16, "classes": 16}
CASES = {
    "nano": Case(16, 16, {}, {"vector": 8}, "nano", {}),
    "nano-pixels": Case(16, 16, _IMAGE, {}, "nano", {}),
    "nano-control": Case(16, 16, {}, {"vector": 8}, "nano", {}, "dreamerv2"),
    "cpu-small": Case(8, 32, _IMAGE, {}, "small", _CPU_SMALL),
    "atari100k": Case(16, 64, _IMAGE, {}, "small", {}),
    "metaworld": Case(50, 50, _IMAGE, {}, "medium", {}, "dreamerv2"),
}


def make_networks(case: Case) -> Networks:
    """The networks of a case, on the CPU."""
    return build(
        case.backbone,
        images=case.images,
        vectors=case.vectors,
        action_size=ACTIONS,
        action_groups=() if case.continuous else (ACTIONS,),
        size=case.size,
        overrides=case.overrides,
    )


def make_learner(case: Case, networks: Networks, **options: Any) -> Learner:
    """A learner with the backbone's own hyper-parameters; ``options`` go to :class:`Learner`."""
    usual = DEFAULTS[case.backbone]
    goals = objectives(
        case.backbone,
        discrete=not case.continuous,
        return_lambda=usual.return_lambda,
        entropy_coefficient=usual.entropy_coefficient,
    )
    rates = {
        "learning_rate": usual.learning_rate,
        "actor_learning_rate": usual.actor_learning_rate,
        "critic_learning_rate": usual.critic_learning_rate,
    }
    return Learner(networks, goals, usual, horizon=usual.horizon, gamma=usual.gamma, **rates, **options)


def make_replay(case: Case, rows: int = 2_000, n_envs: int = 1, seed: int = 0) -> SequenceReplay:
    """A full replay of noise with an episode start every 40 rows."""
    rng = np.random.default_rng(seed)
    replay = SequenceReplay(rows, n_envs, case.images, case.vectors, ACTIONS)
    for row in range(rows // n_envs):
        for env in range(n_envs):
            observation = {key: rng.integers(0, 256, shape, dtype=np.uint8) for key, shape in case.images.items()} | {
                key: rng.standard_normal(size, dtype=np.float32) for key, size in case.vectors.items()
            }
            action = np.eye(ACTIONS, dtype=np.float32)[rng.integers(ACTIONS)]
            ends = row % EPISODE == EPISODE - 1
            replay.add(env, observation, action, float(rng.standard_normal()), row % EPISODE == 0, ends)
    return replay
