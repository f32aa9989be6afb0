"""How far the gradients of bfloat16 are from those of float32, for every weight of an agent that has learned.

``python tests/learning/precision.py catch --steps 1000`` trains in float32, then makes both gradients of the same
batches, weights and samples. For every weight it prints the cosine between them and the ratio of their norms.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[1:3])  # tests/, and the checkout itself

from hd_agents import HarmonyDreamAgent
from hd_agents.behavior.imagination import imagine
from hd_agents.training.learner import Draws
from hd_agents.world_model.batch import Batch
from hd_agents.world_model.rssm import State
from learning.tasks import SETTINGS, TASKS

BATCHES = 8


@torch.no_grad()
def recorded(agent: HarmonyDreamAgent, batch: Batch) -> Draws:
    """Draws that replay what the agent samples now: with fresh numbers one rounded otherwise leads elsewhere."""
    model, actor = agent.policy.networks.world_model, agent.policy.networks.actor
    rssm, draws = model.rssm, agent.learner.draw(batch)
    posterior = model.losses(batch, draws.posterior).posterior
    start = State(*(part.flatten(0, 1) for part in posterior))
    dream = imagine(model, actor, start, draws.prior, draws.action, differentiable=False)
    seen, dreamt = (
        samples.unflatten(-1, (rssm.stoch, rssm.classes)).argmax(-1)
        for samples in (posterior.stoch, dream.features[1:, :, rssm.deter :])
    )
    if not actor.discrete:
        return Draws(seen, dreamt, draws.action)
    chosen = [part.argmax(-1) for part in dream.action.split(actor.groups, -1)]
    return Draws(seen, dreamt, torch.stack(chosen, -1))


def compare(name: str, steps: int, seed: int) -> dict[str, tuple[list[float], list[float]]]:
    """Weight -> cosines, and ratios of norms, of its gradients on some batches.

    :param name: of a task of the table. :param steps: env steps to learn in first, in float32.
    """
    task, settings = TASKS[name], SETTINGS[name]
    full, half = (
        HarmonyDreamAgent(task.policy, task.make(), seed=seed, precision=precision, **settings)
        for precision in ("float32", "bfloat16")
    )
    full.learn(steps, log_interval=None)
    half.set_parameters(full.get_parameters())
    half.learner.updates = full.learner.updates  # or the first one would copy the critic into the slow one
    assert full.replay_buffer is not None
    found = defaultdict[str, tuple[list[float], list[float]]](lambda: ([], []))
    rng = np.random.default_rng(seed)
    for _ in range(BATCHES):
        batch = full.replay_buffer.sample(full.batch_size, full.sequence_length, rng, full.device)
        draws = recorded(full, batch)
        gradients = []
        for agent in (full, half):
            agent.learner.set_learning_rates(0.0, 0.0, 0.0)
            agent.learner.train_step(batch, draws)
            weights = agent.policy.networks.named_parameters()
            gradients.append({name: weight.grad.flatten() for name, weight in weights if weight.grad is not None})
        for name, right in gradients[0].items():
            other = gradients[1][name]
            if right.any() or other.any():  # neither has any while the KL is below the free nats
                found[name][0].append(torch.cosine_similarity(right, other, dim=0).item())
                found[name][1].append((other.norm() / right.norm()).item())
    return found


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(description="Compare gradients of bfloat16 with those of float32.")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--steps", type=int, default=1000, help="env steps to learn in first")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name, (cosines, ratios) in compare(chosen.task, chosen.steps, chosen.seed).items():
        print(f"{name:60} cosine {np.mean(cosines):.4f} (least {min(cosines):.4f})  norm {np.mean(ratios):.3f}")


if __name__ == "__main__":
    main()
