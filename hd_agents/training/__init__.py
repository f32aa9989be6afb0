"""From environments to gradient steps: collecting, the learner, the loop of both, and steps that fail."""
