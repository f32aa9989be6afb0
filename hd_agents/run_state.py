"""What a run is besides its agent and its replay: random generators, and where the environments stand."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor

from hd_agents.envs.settling import settle
from hd_agents.envs.state import get_vec_state, set_vec_state
from hd_agents.randomness import global_state, new_generator, set_global_state, set_space_state, space_state
from hd_agents.saving.jsonable import DAMAGE, ArchiveError
from hd_agents.training.nonfinite import Tally

Tensors = dict[str, dict[str, Tensor]]


def run_state(agent: Any) -> tuple[dict[str, Any], Tensors]:
    """Plain values and tensors for :func:`~hd_agents.saving.archive.write_archive`."""
    try:
        env = get_vec_state(agent.env)
    except (EOFError, OSError):  # Ctrl-C in a terminal reaches the processes of a SubprocVecEnv as well, and ends them
        env = None
        with suppress(RuntimeError, OSError):  # dead or closed; what others have answered is not for their next step
            settle(agent.env)
    values, tensors = global_state()
    data = {
        **values,
        "sampling": agent._rng.bit_generator.state,
        "action_space": space_state(agent.action_space),
        "rows": list(agent.replay_buffer.added),
        "episodes": agent._ended.tolist(),
        "skipped": agent.learner.guard.read()._asdict(),
        "env": env,
    }
    return data, {"torch": tensors}


def restore_run(agent: Any, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    """Undo :func:`run_state`; False if the environments have to start new episodes, because theirs were not stored.

    :raises ArchiveError: if the environments are not made or wrapped as those of the run were.
    """
    try:
        goes_on = data["env"] is not None and set_vec_state(agent.env, data["env"])
        if not goes_on:
            agent._last_obs = None  # so that learn() resets the environments
            if agent.seed is not None:  # other episodes than those that the run began with
                agent.env.seed((agent.seed + agent.num_timesteps) % 2**32)
        agent._rng = new_generator(data["sampling"])
        set_space_state(agent.action_space, data["action_space"])
        agent.replay_buffer.count_as(data["rows"])
        agent._ended = np.array(data["episodes"], np.int64).reshape(agent.n_envs)
        agent.learner.guard.go_on(_tally(**data["skipped"]))
        set_global_state(data, tensors["torch"])
    except ArchiveError:
        raise
    except (*DAMAGE, RuntimeError) as error:  # torch's error for a generator's state is the latter
        raise ArchiveError(f"The run's state does not fit ({type(error).__name__}: {error}).") from error
    return goes_on


def _tally(in_a_row: int, total: int, names: dict[str, int]) -> Tally:
    """What was stored of it. Raises TypeError or ValueError for anything else."""
    return Tally(int(in_a_row), int(total), {str(name): int(count) for name, count in names.items()})
