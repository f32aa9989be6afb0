"""How good an agent is: episodes with stated seeds, the rules they are played by, and what their scores say."""

from hd_agents.evaluation.rules import PROTOCOLS, RULES, ActorsMode, Evaluation, acting, evaluate, player_for, protocol

__all__ = ["PROTOCOLS", "RULES", "ActorsMode", "Evaluation", "acting", "evaluate", "player_for", "protocol"]
