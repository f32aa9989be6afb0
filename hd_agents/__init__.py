"""HarmonyDream agents with Stable-Baselines3's interface.

Importing the package registers its environments (such as `hd_agents/Catch-v0`) with Gymnasium.
"""

from hd_agents import envs, zoo
from hd_agents.agent import HarmonyDreamAgent

__version__ = "0.1.0"

__all__ = ["HarmonyDreamAgent", "__version__", "zoo"]

envs.register()
