"""What a ``VecNormalize`` around the environments does, undone for the rows of replay and done to batches out of it.

Rows hold what came before the normalisation (of an episode's last observation, what ``clip_obs`` has left), and every
batch is normalised with the statistics of the moment it is drawn, as Stable-Baselines3's replay buffers do. So the
networks see the same numbers in training as in ``predict``, and rows from the time when the statistics were still poor
do no harm.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from hd_agents.spaces import SINGLE_KEY
from hd_agents.training.collection import VecStep
from hd_agents.world_model.batch import Batch


def original_step(
    normalizer: VecNormalize | None,
    observations: Any,
    rewards: NDArray[Any],
    dones: NDArray[np.bool_],
    infos: list[dict[str, Any]],
    steps: int,
) -> VecStep:
    """What ``step`` of the environments gave, as it was before the normalisation by ``normalizer``, if any.

    To be called before anybody changes its statistics.

    :param steps: as in :class:`VecStep`.
    """
    given = {env: infos[env].get("terminal_observation") for env in np.flatnonzero(dones).tolist()}
    lasts = {env: last for env, last in given.items() if last is not None}
    if normalizer is not None:
        observations, rewards = normalizer.get_original_obs(), normalizer.get_original_reward()
        lasts = {env: normalizer.unnormalize_obs(last) for env, last in lasts.items()}
    return VecStep(observations, rewards, dones, infos, lasts, steps)


def normalize_batch(batch: Batch, normalizer: VecNormalize | None) -> Batch:
    """A batch of original values as the policy sees them: what ``normalizer``, if any, would deliver today."""
    if normalizer is None:
        return batch
    observation = dict(batch.observation)
    if normalizer.norm_obs:
        statistics = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {SINGLE_KEY: normalizer.obs_rms}
        for key, moments in statistics.items():
            mean, variance = _as_vector(moments.mean, batch.reward), _as_vector(moments.var, batch.reward)
            scaled = (observation[key] - mean) / torch.sqrt(variance + normalizer.epsilon)
            observation[key] = scaled.clamp(-normalizer.clip_obs, normalizer.clip_obs)
    reward = batch.reward
    if normalizer.norm_reward:
        scale = float(np.sqrt(normalizer.ret_rms.var + normalizer.epsilon))
        reward = (reward / scale).clamp(-normalizer.clip_reward, normalizer.clip_reward)
    return batch._replace(observation=observation, reward=reward)


def warn_of_idle_training(normalizer: VecNormalize | None, rates: Iterable[float]) -> None:
    """Warn where gradient steps outside of ``learn`` would teach nothing, or in a scale that is not known yet."""
    if _has_seen_nothing(normalizer):
        warnings.warn(
            "train() with a VecNormalize that has seen no step: it knows no scale yet, and clips what is large. "
            "Take steps first, by learn(), or set its obs_rms and ret_rms.",
            stacklevel=3,
        )
    if not any(rates):
        warnings.warn(
            "train() learns nothing: all learning rates are 0, as after a learn() to whose end they fall. Use "
            "numbers instead of 'lin_...'.",
            stacklevel=3,
        )


def _has_seen_nothing(normalizer: VecNormalize | None) -> bool:
    """Whether its statistics are those that it began with."""
    if normalizer is None:
        return False
    statistics = [normalizer.ret_rms] if normalizer.norm_reward else []
    if normalizer.norm_obs:
        known = normalizer.obs_rms
        statistics += list(known.values()) if isinstance(known, dict) else [known]
    return any(one.count < 1 for one in statistics)


def _as_vector(moment: NDArray[np.float64], like: Tensor) -> Tensor:
    tensor = torch.as_tensor(moment, dtype=torch.float32).flatten()
    return tensor.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else tensor
