"""How well does a world model foresee, with eyes closed, which balls of Catch will be caught?

``python tests/learning/foresight.py --set batch_size=8`` trains one on 3,000 steps of play that no agent chose, and
asks it about other such play. Settings can be compared this way without the luck of a policy, and without looking at
the scores that the learning tests judge by.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[1:3])  # tests/, and the checkout itself

from hd_agents import HarmonyDreamAgent
from hd_agents.cli.tasks import parse_setting
from hd_agents.envs.catch import Catch
from hd_agents.replay import SequenceReplay
from hd_agents.world_model.rssm import State
from learning.tasks import SETTINGS

STEPS = 3_000
RANDOM_STEPS = 500  # at first, as in training
LENGTH, SEEN = 16, 7  # of each test sequence, rows in all and rows that the model sees
AHEAD = 8  # steps that a ball is in the air: of one that falls sooner, the model has seen where it started
TEST_SEED = 99


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, train, print one line of JSON per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, nargs="+", default=[1_000, 2_000, 3_000], help="evaluate after each")
    parser.add_argument("--steps", type=int, default=STEPS, help="of play to train on, and as many to test on")
    parser.add_argument("--sequences", type=int, default=400, help="to test on")
    parser.add_argument("--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="agent settings")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(words)
    torch.set_num_threads(chosen.threads)
    changes = dict(parse_setting(text) for text in chosen.set)
    # The world model learns the same whatever is dreamt from it: the shortest dreams cost the least.
    settings = {**SETTINGS["catch"], "horizon": 2, **changes}
    agent = HarmonyDreamAgent("CnnPolicy", Catch(), seed=chosen.seed, **settings)
    unseen = HarmonyDreamAgent("CnnPolicy", Catch(), seed=TEST_SEED, **SETTINGS["catch"]).replay_buffer
    assert agent.replay_buffer is not None and unseen is not None
    play(agent.replay_buffer, chosen.steps, chosen.seed)
    play(unseen, chosen.steps, TEST_SEED)
    done = 0
    for updates in chosen.updates:
        agent.train(updates - done)
        done = updates
        found = foresight(agent, unseen, chosen.sequences)
        print(json.dumps({"changes": changes, "updates": done, **found}), flush=True)


def play(replay: SequenceReplay, steps: int, seed: int) -> None:
    """Fill ``replay`` with ``steps`` steps: random ones, then a player who goes for the ball, or elsewhere."""
    rng = np.random.default_rng(seed)
    env = Catch()
    nothing = np.zeros(3, np.float32)
    observation, _ = env.reset(seed=seed)
    replay.add(0, {"observation": observation}, nothing, 0.0, True, False)
    for step in range(steps):
        action = int(rng.integers(3))
        if step >= RANDOM_STEPS and rng.random() > 0.4:
            away = env.landing - env.paddle if rng.random() < 0.7 else int(rng.integers(-30, 31))
            action = 0 if abs(away) < 4 else 1 if away < 0 else 2
        observation, reward, terminated, _, _ = env.step(action)
        replay.add(0, {"observation": observation}, np.eye(3, dtype=np.float32)[action], reward, False, terminated)
        if terminated:
            observation, _ = env.reset()
            replay.add(0, {"observation": observation}, nothing, 0.0, True, False)


@torch.no_grad()
def foresight(agent: HarmonyDreamAgent, unseen: SequenceReplay, sequences: int) -> dict[str, Any]:
    """What the model makes of balls that come down 1 to 8 steps after the last row it sees, given the actions.

    :return: balls: how many. caught: the share of them. error: mean square of the reward foreseen minus the reward.
        accuracy: mean of the shares of catches and of misses that were foreseen, 0.5 by chance; near: of those
        within 3 steps; far: of the others.
    """
    torch.manual_seed(TEST_SEED)
    model = agent.policy.networks.world_model
    batch = unseen.sample(sequences, LENGTH, np.random.default_rng(TEST_SEED))
    embed = model.encode(batch.observation)
    draws = torch.rand(LENGTH, sequences, model.rssm.stoch)
    seen = (embed[:, :SEEN], batch.action[:, :SEEN], batch.is_first[:, :SEEN], draws[:SEEN].transpose(0, 1), None)
    states, _ = model.rssm.observe(*seen)
    state = State(*(part[:, -1] for part in states))
    same_episode = torch.ones(sequences, dtype=torch.bool)
    foreseen, rewards, distances = [], [], []
    for ahead in range(1, AHEAD + 1):
        row = SEEN - 1 + ahead
        same_episode &= ~batch.is_first[:, row].bool()
        state = model.rssm.imagine_step(state, batch.action[:, row], draws[row])
        landed = same_episode & (batch.reward[:, row] != 0)
        foreseen.append(model.reward(model.features(state))[landed])
        rewards.append(batch.reward[landed, row])
        distances.append(torch.full((int(landed.sum()),), ahead))
    guess, truth, distance = torch.cat(foreseen), torch.cat(rewards), torch.cat(distances)

    def accuracy(among: torch.Tensor) -> float:
        right = (guess > 0) == (truth > 0)
        shares = [right[among & (truth > 0)], right[among & (truth < 0)]]
        return round(float(torch.stack([share.float().mean() for share in shares]).mean()), 3)

    return {
        "balls": len(truth),
        "caught": round(float((truth > 0).float().mean()), 3),
        "error": round(float((guess - truth).square().mean()), 3),
        "accuracy": accuracy(truth != 0),
        "near": accuracy(distance <= 3),
        "far": accuracy(distance > 3),
    }


if __name__ == "__main__":
    main()
