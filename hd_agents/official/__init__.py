"""The official releases of thuml/HarmonyDream: their files, their layout, and their weights in our networks."""

from hd_agents.official.files import clean, read
from hd_agents.official.layout import UNUSED
from hd_agents.official.weights import Official, convert, for_spaces, load, make_agent, sizes

__all__ = ["UNUSED", "Official", "clean", "convert", "for_spaces", "load", "make_agent", "read", "sizes"]
