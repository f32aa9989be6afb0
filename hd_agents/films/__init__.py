"""Pictures of agents: the games they play as videos, and strips of their dreams beside the truth."""
