"""Callbacks for ``learn``: checkpoints to resume from, scores, films of dreams, shares of the gradient."""

from hd_agents.evaluation.score_curve import ScoreCurve
from hd_agents.films.dream_film import DreamFilm
from hd_agents.run_checkpoint import RunCheckpoint
from hd_agents.training.loss_gradients import LossGradients

__all__ = ["DreamFilm", "LossGradients", "RunCheckpoint", "ScoreCurve"]
