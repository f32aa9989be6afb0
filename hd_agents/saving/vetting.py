"""What a file says is checked before it is believed: the kinds of its values, and sizes before anything is allocated.

A few bytes of JSON can ask for networks of any size. So networks are first built without memory (torch's "meta"
device), and only if names and shapes are those of the tensors that the file really holds are they built at all.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hd_agents.saving.jsonable import ArchiveError

MOST_ENVS = 1 << 16
EXTRA_STATE = "_extra_state"  # what a module's get_extra_state gives has this name: plain values of any shape
_OTHER = "it is of other networks. Make and change this agent as the one was whose parameters these are."
STACKS = ("layers", "vector_layers")  # sizes that count modules instead of numbers


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_text_dict(value: Any) -> bool:
    return type(value) is dict and all(type(item) is str for item in value.values())


def _is_episode(value: Any) -> bool:
    """Return, length and, where its vector environment tells it, time."""
    return type(value) is dict and set("rl") <= value.keys() <= set("rlt") and all(map(_is_finite, value.values()))


# What an archive may hold under names that the constructor does not check, or not for every type JSON can give.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "policy_class": (lambda value: type(value) is str, "text"),
    "policy_kwargs": (lambda value: value is None or type(value) is dict, "a dict"),
    "tensorboard_log": (lambda value: value is None or type(value) is str, "text or null"),
    "verbose": (lambda value: type(value) in (bool, int) and 0 <= value <= 2, "0, 1 or 2"),
    "seed": (lambda value: value is None or (_is_count(value) and value < 1 << 32), "a whole number below 2**32"),
    **dict.fromkeys(("num_timesteps", "_total_timesteps", "_num_timesteps_at_start"), (_is_count, "a count")),
    **dict.fromkeys(("_episode_num", "_n_updates"), (_is_count, "a count")),
    "_current_progress_remaining": (_is_finite, "a number"),
    "_replay_credit": (lambda value: _is_finite(value) and value >= 0, "a number of at least 0"),
    "_pretrained": (lambda value: type(value) is bool, "true or false"),
    "n_envs": (lambda value: _is_count(value) and 0 < value <= MOST_ENVS, f"1 to {MOST_ENVS}"),
    "ep_info_buffer": (lambda value: type(value) is list and all(map(_is_episode, value)), "episodes"),
    "ep_success_buffer": (lambda value: type(value) is list and all(map(_is_finite, value)), "numbers"),
    "frozen_schedules": (_is_text_dict, "texts by name"),
    "system_info": (_is_text_dict, "texts by name"),
    "included": (lambda value: type(value) is dict, "a dict"),
}


def check_values(data: Mapping[str, Any]) -> None:
    """ArchiveError naming the first of :data:`VALUES` that is of another kind."""
    for name, (allowed, what) in VALUES.items():
        if name in data and not allowed(data[name]):
            raise ArchiveError(f"The archive's {name} is {_short(data[name])}: expected {what}.")


def check_weights(
    make: Callable[[], nn.Module],
    state: Any,
    overrides: Mapping[str, Any],
    only: str | tuple[str, ...] = "",
    advice: str = "",
) -> None:
    """Refuse a state dict whose names or shapes are not those of the networks that ``make`` builds.

    :param make: called with torch's default device set to "meta", so that what it builds takes no memory.
    :param overrides: the ``policy_kwargs`` it uses; stacks of layers are compared with the number of tensors first.
    :param only: what the names begin with that are compared, where the state is to hold these alone.
    :param advice: what to do where they differ, which an error then ends with.
    """
    if not isinstance(state, Mapping):
        raise ArchiveError("The archive lacks the weights of the policy.")
    for name in STACKS:
        depth = overrides.get(name)
        if type(depth) is int and depth > len(state):
            raise ArchiveError(f"The archive declares {name}={_short(depth)} but holds {len(state)} tensors.")
    expected = {name: tensor for name, tensor in _without_memory(make).state_dict().items() if name.startswith(only)}
    if missing := sorted(map(str, expected.keys() ^ state.keys())):
        place = "archive" if missing[0] in state else "networks that the settings make"
        raise ArchiveError(
            f"The archive's weights do not match its settings: {missing[0]} is only in the {place}.{advice}"
        )
    for name, tensor in expected.items():
        found = state[name]
        if name.endswith(EXTRA_STATE):
            continue
        if not isinstance(found, Tensor) or found.shape != tensor.shape or not _is_as_exact(found, tensor):
            told = [
                f"{tuple(one.shape)} of {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
                for one in (found, tensor)
            ]
            raise ArchiveError(
                f"The archive's weights do not match its settings: {name} is {told[0]}, expected {told[1]}.{advice}"
            )


def _without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """What ``make`` builds, on torch's "meta" device. What it warns of is left to the networks that are built later."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:
        if "meta" not in str(error):
            raise
        raise ArchiveError(
            "The networks cannot be built without memory, on torch's device 'meta', where loading compares shapes: "
            f"{_short(error)}. Let the code that makes them leave out there what reads numbers (weight.is_meta)."
        ) from error


def _is_as_exact(found: Tensor, expected: Tensor) -> bool:
    """Whether its numbers can stand for the others: floats of any precision for floats, else the same type."""
    return found.is_floating_point() if expected.is_floating_point() else found.dtype == expected.dtype


def fitting_optimizer(name: str, state: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A stored Adam state that fits ``optimizer``: its moments and rates; everything else stays the optimiser's own.

    Moments are copied, and lie in memory as their weights do: the fused kernels look at neither strides nor owners.

    :raises ArchiveError: where a moment has not the shape of its weight (the fused kernels would read beyond it), or a
        rate is no number.
    """
    own = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    try:
        groups, moments = state["param_groups"], state["state"]
        if len(groups) != len(own["param_groups"]):
            raise ArchiveError(
                f"{name} has {len(groups)} groups of parameters, expected {len(own['param_groups'])}: "
                "harmony is one, and groups that were added have to be added again before."
            )
        if not moments.keys() <= set(range(len(weights))):
            raise ArchiveError(f"{name} does not fit: {_OTHER}")
        for index, found in moments.items():
            like = {"step": torch.zeros(()), "exp_avg": weights[index], "exp_avg_sq": weights[index]}
            given, wanted = ({key: (*one.shape, one.dtype) for key, one in part.items()} for part in (found, like))
            if given != wanted:
                raise ArchiveError(f"{name} has moments of shapes {given}, expected {wanted}: {_OTHER}")
        fitted = []
        for group, mine in zip(groups, own["param_groups"], strict=True):
            rates = {"lr": group["lr"], "eps": group["eps"], "weight_decay": group["weight_decay"]}
            betas = tuple(group["betas"])
            sound = all(_is_finite(rate) and rate >= 0 for rate in rates.values())
            if not sound or len(betas) != 2 or not all(_is_finite(beta) and 0 <= beta < 1 for beta in betas):
                raise ArchiveError(f"{name} has the rates {_short(rates)} and betas {_short(betas)}.")
            fitted.append({**mine, **rates, "betas": betas})
    except (AttributeError, KeyError, TypeError) as error:
        raise ArchiveError(f"{name} is damaged: {type(error).__name__}: {error}.") from error
    laid_out = {
        index: {
            "step": found["step"].clone(),
            **{key: torch.empty_like(weights[index]).copy_(found[key]) for key in ("exp_avg", "exp_avg_sq")},
        }
        for index, found in moments.items()
    }
    return {"state": laid_out, "param_groups": fitted}


@contextmanager
def blamed_on(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an ArchiveError about ``what``, except that memory runs out."""
    try:
        yield
    except (ArchiveError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # values out of a file can fail anywhere; nobody lists how
        raise ArchiveError(f"{what} cannot be used: {_short(error)}") from error


def _short(value: Any) -> str:
    """A value for an error message, cut where it is endless."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = f"{type(value).__name__}: {text}" if isinstance(value, Exception) and type(value) is not ValueError else text
    return text if len(text) <= 300 else f"{text[:300]}..."
