"""Everything about a task by one name, such as `atari100k/pong`, `metaworld/lever-pull` or `classic/CartPole`.

The data stands in the repository's folder `zoo/`, which ships inside the package.
"""

from hd_agents.zoo.catalogue import PRESETS, env_id, folder, hyperparameters, make_env
from hd_agents.zoo.catalogue import names as list
from hd_agents.zoo.models import RUN, Verification, card, load, pretrained, verify
from hd_agents.zoo.packing import pack
from hd_agents.zoo.published import Published, published
from hd_agents.zoo.publishing import pull, push
from hd_agents.zoo.results import results
from hd_agents.zoo.rl_zoo3 import register_rl_zoo3
from hd_agents.zoo.training import train

__all__ = [
    "PRESETS",
    "RUN",
    "Published",
    "Verification",
    "card",
    "env_id",
    "folder",
    "hyperparameters",
    "list",
    "load",
    "make_env",
    "pack",
    "pretrained",
    "published",
    "pull",
    "push",
    "register_rl_zoo3",
    "results",
    "train",
    "verify",
]
