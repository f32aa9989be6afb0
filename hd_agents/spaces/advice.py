"""Which wrappers make an observation that a network takes of one that none takes."""

from typing import Any

from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space


def to_vector(space: spaces.Space[Any]) -> str:
    """The wrappers that make one vector of a space, without those keys of a Dict that cannot become numbers."""
    env = "env"
    if isinstance(space, spaces.Dict):
        keys = [key for key, part in space.items() if flattens(part)]
        env = env if len(keys) == len(space) else f"gymnasium.wrappers.FilterObservation(env, {keys})"
    return f"gymnasium.wrappers.FlattenObservation({env})"


def to_supported(space: spaces.Space[Any], key: str) -> str:
    """What to do about a space without a network: the space itself, or the ``key`` of a Dict."""
    ways = []
    if isinstance(space, spaces.Dict) and len(space) > 1:
        others = [name for name in space if name != key]
        ways.append(f"leave it out with gymnasium.wrappers.FilterObservation(env, {others})")
    if flattens(space[key] if isinstance(space, spaces.Dict) else space):
        ways.append(f"make one vector of it all with {to_vector(space)}")
    ways.append("convert it with gymnasium.wrappers.TransformObservation")
    text = " or ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def flattens(space: spaces.Space[Any]) -> bool:
    """Whether Gymnasium can make one vector of a space: it cannot of graphs, sequences and spaces of others."""
    try:
        return isinstance(flatten_space(space), spaces.Box)
    except NotImplementedError:
        return False
