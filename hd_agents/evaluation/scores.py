"""What a mean return says: on the scale from random to human play, and of episodes to come."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.99
ATARI: dict[str, dict[str, float]] = json.loads(
    Path(__file__).with_name("atari_scores.json").read_text(encoding="utf-8")
)["scores"]  # of the 26 games of Atari100K, by ALE's names: random play and the human tester


def human_normalized(task: str, score: float) -> float | None:
    """0 for uniformly random play and 1 for the human tester of the literature; None unless the task is one of the 26
    games of Atari100K (``atari100k/Pong-v0``, ``ALE/Pong-v5``).
    """
    match = re.fullmatch(r"(?:[\w.]+:)?(?:atari100k|ALE)/(\w+)-v\d+", task)
    if match is None or match[1] not in ATARI:
        return None
    random, human = ATARI[match[1]]["random"], ATARI[match[1]]["human"]
    return (score - random) / (human - random)


def prediction_interval(returns: Sequence[float], episodes: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where the mean of ``episodes`` further episodes lies with ``confidence``, given these returns (bootstrap).

    Both means are uncertain, the one here and the one to come, and the range allows for both; and for a deviation that
    few returns tell only roughly, as Student's t does. Of successes and failures it remains an approximation.
    """
    rng, values = np.random.default_rng(0), np.asarray(returns, dtype=np.float64)
    old = rng.choice(values, (RESAMPLES, len(values))).mean(axis=1)
    new = rng.choice(values, (RESAMPLES, episodes)).mean(axis=1)
    known = len(values) - 1
    wider = np.sqrt(len(values) / rng.chisquare(known, RESAMPLES)) if known else 1.0
    low, high = np.quantile(values.mean() + wider * (new - old), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
