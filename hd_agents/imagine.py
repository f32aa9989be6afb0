"""What the model believes will happen: one rollout of the world model in the environment's own terms, as arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hd_agents.checks import whole
from hd_agents.policies import DreamPolicy, NumpyState
from hd_agents.spaces import Observation
from hd_agents.spaces.executed import encode_actions, with_executed
from hd_agents.world_model.rssm import State


class Imagined(NamedTuple):
    """An imagined piece of an episode of H steps, laid out as a real one: H + 1 observations, H actions and rewards.

    ::

        observations[0] --actions[0]--> observations[1], rewards[0], continues[0] --actions[1]--> ...

    Every array has the env axis first, unless the observation given had none and there were not several plans for it.

    :ivar observations: key -> (N, H + 1, ...), index 0 being the reconstruction of the observation given; images uint8
        (N, H + 1, height, width, channels), vectors float32, integers int64. Empty with ``decode=False``. A space that
        is no Dict has the key "observation".
    :ivar actions: (N, H, ...) as the environment takes them; ``actions[:, h]`` leads to ``observations[:, h + 1]``.
    :ivar rewards: (N, H) float32, expected for those actions, in the unit the agent was trained on.
    :ivar continues: (N, H) float32, probability that the episode goes on after each of them.
    :ivar values: (N, H + 1) float32, the critic's expected return from each state on.
    """

    observations: dict[str, NDArray[Any]]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    continues: NDArray[np.float32]
    values: NDArray[np.float32]


@torch.no_grad()
def imagine(
    policy: DreamPolicy,
    observation: Observation,
    actions: NDArray[Any] | None,
    horizon: int,
    decode: bool,
    state: NumpyState | None,
    deterministic: bool,
    executed: NDArray[Any] | None = None,
) -> Imagined:
    """See :meth:`hd_agents.agent.HarmonyDreamAgent.imagine`, which has the same arguments."""
    encoded, batched = policy.observations.read(observation)
    n = len(next(iter(encoded.values())))
    latent = (
        policy.initial(n) if state is None else policy.read_state(with_executed(policy.actions, state, executed), n)
    )
    seen = policy.step(encoded, latent, np.full(n, state is None), deterministic, mode=True)  # its action is not used
    start = State(seen.deter, seen.stoch)
    axes = 2 + len(policy.action_space.shape or ())
    if not batched and actions is not None and np.ndim(actions) == axes and len(actions):  # plans to choose from
        n, batched = len(actions), True
        start = State(*(part.expand(n, -1) for part in start))
    if actions is None:
        given: Sequence[Tensor | None] = [None] * whole("horizon", horizon, 1)
    else:
        given = _read_actions(policy, actions, n, batched).unbind(1)
    found = imagine_from(policy, start, given, decode, deterministic)
    return found if batched else first_of(found)


@torch.no_grad()
def imagine_from(
    policy: DreamPolicy, start: State, actions: Sequence[Tensor | None], decode: bool, deterministic: bool
) -> Imagined:
    """:func:`imagine` from a latent state.

    :param start: (N, ...). :param actions: H vectors (N, A), or None for what the policy would do.
    """
    policy.set_training_mode(False)  # parts that were put in since it learned are in training mode: dropout would drop
    networks = policy.networks
    model, states, chosen = networks.world_model, [start], []
    for action in actions:
        chosen.append(policy.choose(states[-1], deterministic) if action is None else action)
        draw = None if deterministic else policy.latent_draw(len(start.deter))
        states.append(model.rssm.imagine_step(states[-1], chosen[-1], draw))
    features = model.features(State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True))))
    decoded = model.decode(features) if decode else {}
    vectors = torch.stack(chosen, 1)
    taken = policy.actions.decode(vectors.flatten(0, 1).cpu().numpy())
    return Imagined(
        policy.observations.decode({key: mean.float().cpu().numpy() for key, mean in decoded.items()}),
        taken.reshape(*vectors.shape[:2], *taken.shape[1:]),
        model.reward(features[:, 1:]).float().cpu().numpy(),
        model.continues(features[:, 1:]).float().cpu().numpy(),
        networks.critic.mean(networks.critic(features)).float().cpu().numpy(),
    )


def _read_actions(policy: DreamPolicy, actions: NDArray[Any], n: int, batched: bool) -> Tensor:
    """Environment actions (N, H, ...), or (H, ...) for a single one, as action vectors (N, H, A)."""
    rows = np.asarray(actions) if batched else np.asarray(actions)[None]
    shape = policy.action_space.shape or ()
    if rows.ndim != 2 + len(shape) or rows.shape[2:] != shape or rows.shape[0] != n or rows.shape[1] < 1:
        wanted = _shape(str(n), "H", *shape) if batched else f"{_shape('H', *shape)} or {_shape('plans', 'H', *shape)}"
        raise ValueError(f"actions has shape {np.shape(actions)}; expected {wanted}, of at least one step.")
    steps = rows.shape[1]
    flat = encode_actions(policy.actions, rows.reshape(n * steps, *shape), (n, steps) if batched else (steps,))
    return torch.as_tensor(flat.reshape(n, steps, -1), device=policy.device)


def _shape(*sizes: object) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def first_of(found: Imagined) -> Imagined:
    """Drop the env axis."""
    return Imagined({key: array[0] for key, array in found.observations.items()}, *(array[0] for array in found[1:]))
