"""Everything about a task by one name, such as `atari100k/pong`, `metaworld/lever-pull` or `classic/CartPole`.

The data stands in the repository's folder `zoo/`, which ships inside the package.
"""

from hd_agents.zoo.catalogue import PRESETS, env_id, folder, hyperparameters, make_env
from hd_agents.zoo.catalogue import names as list

__all__ = ["PRESETS", "env_id", "folder", "hyperparameters", "list", "make_env"]
