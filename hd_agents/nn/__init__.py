"""Pure tensor maths and modules; knows nothing of agents or environments."""
