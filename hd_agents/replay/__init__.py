"""The replay of sequences: rows per environment, batches out of them, the memory they live in, and their file."""

from hd_agents.replay.buffer import SequenceReplay

__all__ = ["SequenceReplay"]
