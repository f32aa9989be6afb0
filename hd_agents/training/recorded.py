"""Episodes that were recorded elsewhere, such as demonstrations or a robot's log, as rows of the replay."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hd_agents.checks import FLOAT32_MAX
from hd_agents.policies import DreamPolicy
from hd_agents.replay import SequenceReplay
from hd_agents.spaces import Observation, ObservationCodec
from hd_agents.spaces.executed import encode_actions


def add_episode(
    policy: DreamPolicy,
    replay: SequenceReplay,
    observations: Observation | Sequence[Observation],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    terminated: bool,
) -> None:
    """Write a recorded episode; arguments and errors are those of :meth:`hd_agents.HarmonyDreamAgent.add_episode`.

    It goes to the environment that has had the fewest rows.
    """
    if not isinstance(terminated, bool | np.bool_):
        raise ValueError(f"terminated={terminated!r}: use True or False, for the episode's end.")
    rows = _encoded(policy.observations, observations)
    taken, earned = np.atleast_1d(actions), np.asarray(rewards, dtype=np.float64)
    length = len(next(iter(rows.values())))
    if not (1 < length == len(taken) + 1 and earned.shape == (len(taken),)):
        raise ValueError(
            f"{length} observations, {len(taken)} actions, rewards of shape {earned.shape}: an episode of T steps, 1 "
            "or more, has T + 1 observations, from that of reset() to the last, T actions and T rewards."
        )
    vectors = encode_actions(policy.actions, taken)
    for name, values in {**rows, "rewards": earned[:, None]}.items():
        wrong = ~(np.abs(values) <= FLOAT32_MAX).reshape(len(values), -1).all(1)
        if wrong.any():
            raise ValueError(f"{name}[{wrong.argmax()}] is not finite: expected numbers that fit into float32.")
    env = int(np.argmin(replay.added))
    first, *later = ({key: values[step] for key, values in rows.items()} for step in range(length))
    replay.add(env, first, np.zeros(policy.actions.size, np.float32), 0.0, True, False)
    for step, (row, action) in enumerate(zip(later, vectors, strict=True)):
        ends = bool(terminated) and step == len(vectors) - 1
        replay.add(env, row, action, float(earned[step]), False, ends)


def _encoded(codec: ObservationCodec, observations: Any) -> dict[str, NDArray[Any]]:
    """The rows of a batch, or of a list of observations, of which an error names the first that does not fit."""
    if not isinstance(observations, list | tuple):
        return codec.encode(observations)
    if not observations:
        raise ValueError("There are no observations: an episode of T steps has T + 1.")
    rows: dict[str, list[NDArray[Any]]] = {key: [] for key in codec.spaces}
    for step, one in enumerate(observations):
        try:
            encoded, batched = codec.read(one)
        except ValueError as error:
            raise ValueError(f"observations[{step}]: {error}") from error
        if batched:
            raise ValueError(f"observations[{step}] has an env axis: a list holds single observations.")
        for key, row in encoded.items():
            rows[key].append(row)
    return {key: np.concatenate(parts) for key, parts in rows.items()}
