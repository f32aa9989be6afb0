"""Learning to act inside the imagination of the world model."""
