"""`hd-agents check`: whether an environment is sound, what would learn on it, and how long that takes here."""

import argparse
import logging
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from hd_agents import HarmonyDreamAgent
from hd_agents.cli import flags
from hd_agents.cli.errors import FAILED, UsageError
from hd_agents.cli.soundness import check_repeatedly, is_limited, is_raised, one_line, plays
from hd_agents.cli.tasks import allow_tensor_cores, checked_env, plan_of
from hd_agents.envs.closing import close
from hd_agents.envs.restarting import MAX_RESTARTS, RestartingEnv
from hd_agents.graphs import WARMUP
from hd_agents.host import format_bytes
from hd_agents.training.collection import make_replay
from hd_agents.zoo.training import Plan

STEPS, SECONDS = 1_000, 10.0  # of random play at most, and of acting a quarter of each; but always a sequence
UPDATES = 5  # at most, after the first, or after the capture of a graph
RESTARTS = 1_000  # of an environment while it is measured
SEED = 0


class Times(NamedTuple):
    """Seconds on this machine, the environment's own included.

    :param random: of an env step with a random action. :param acting: of one that the policy chose.
    :param update: of a gradient step. :param first_update: of the longest of the first ones, with compilation.
    """

    random: float
    acting: float
    update: float
    first_update: float

    def of(self, plan: Plan, agent: HarmonyDreamAgent) -> tuple[int, float, float]:
        """Gradient steps of the whole run, the seconds that they take, and those of everything else."""
        chosen = max(0, plan.steps - agent.learning_starts)
        earned = chosen * agent.train_ratio / (agent.batch_size * agent.sequence_length)
        updates = int(earned) + (agent.pretrain_steps if chosen else 0)
        return updates, updates * self.update, (plan.steps - chosen) * self.random + chosen * self.acting


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check` and its flags to the command line."""
    parser = commands.add_parser(
        "check",
        help="check whether an environment is sound, and how long training takes on this machine",
        description="Put an environment through Gymnasium's checks, play it at random, build the agent that `hd-agents "
        "train` would train with these settings, time its parts, and say how long the whole run takes on this machine. "
        "Leaves nothing behind. Exit status 1 if the environment is not sound.",
    )
    parser.add_argument("task", help="a name of `hd-agents list`, or a Gymnasium id")
    flags.add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check as asked and return the exit status: 0, or FAILED where the environment is not sound."""
    try:
        plan = plan_of(options)
        env = checked_env(plan.task, plan.env_kwargs)
    except UsageError:
        raise
    except Exception as error:  # whatever anybody's environment does
        print(f"{options.task}: NOT SOUND, it cannot be made: {one_line(error)}")
        return FAILED
    fault, remarks = check_repeatedly(env, plan.make_env)
    print(f"{plan.task}: {'NOT SOUND: ' + fault if fault else 'passed the checks of Gymnasium'}", flush=True)
    for remark in remarks:
        print(f"  remark: {remark}")
    allow_tensor_cores(options.device)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    # As in `train` they are made anew where they fail, if that is not always: here as often as it takes.
    always = is_raised(fault) and not plays(plan.make_env)
    envs = plan.make_envs(SEED, max_restarts=None if always else RESTARTS)
    try:
        agent = plan.make_agent(envs, SEED, options.device, verbose=1)
    except BaseException as error:
        close(envs)
        if isinstance(error, TypeError | ValueError):
            raise UsageError(str(error)) from error
        raise
    try:
        with _first_failure_told():
            times = measure(agent)
        if failures := _restarts(envs):
            print(_warning(failures, plan, agent))
        print(_tell(plan, agent, times))
    except Exception as error:
        print(f"NOT SOUND: it cannot be played: {one_line(error)}")
        fault = fault or one_line(error)
    finally:
        close(envs)
    if busy > 1.0:
        fewer = "; beside other work it may be with OMP_NUM_THREADS=1" if torch.get_num_threads() > 1 else ""
        print(f"The machine had other work to do (a load of {busy:.1f}): alone it is faster{fewer}.")
    return FAILED if fault else 0


def _warning(failures: int, plan: Plan, agent: HarmonyDreamAgent) -> str:
    """What ``train`` would make of so many failures while the agent was measured."""
    enough = failures * plan.steps <= MAX_RESTARTS * plan.n_envs * agent.num_timesteps
    times = "once" if failures == 1 else f"{failures} times"
    return (
        f"  warning: it failed {times} in {agent.num_timesteps:,} steps; `train` makes it anew up to {MAX_RESTARTS} "
        f"times{'' if enough else f', too few for {plan.steps:,} steps at this rate'}"
    )


def _restarts(envs: VecEnv) -> int:
    """How often environments, or their processes, were made anew."""
    each = envs.get_attr("restarts") if envs.has_attr("restarts") else []
    return sum(each) + sum(getattr(envs, "restarts", []))


@contextmanager
def _first_failure_told() -> Iterator[None]:
    """Let the log tell the first environment of this process that is made anew, and no other."""
    log, first = logging.getLogger(RestartingEnv.__module__), iter((True,))

    def is_first(record: logging.LogRecord) -> bool:
        return next(first, False)

    log.addFilter(is_first)
    try:
        yield
    finally:
        log.removeFilter(is_first)


def measure(agent: HarmonyDreamAgent) -> Times:
    """Time an agent in its environments. It has learned a little, and has a small replay, afterwards."""
    agent.verbose, least = 0, agent.sequence_length * agent.n_envs
    rows = 2 * (STEPS + least)  # a row per step, and one more per episode
    agent.replay_buffer = make_replay(agent.policy, rows, agent.n_envs, agent.sequence_length)
    starts, ratio = agent.learning_starts, agent.train_ratio
    agent.learning_starts, agent.train_ratio = rows, 0.0
    random = _Clock(least, STEPS, SECONDS)
    agent.learn(rows, callback=random, log_interval=None)
    print(_played(agent, random), flush=True)
    agent.learning_starts, agent._pretrained = 0, True  # or its pretrain_steps would come now
    graphed = agent.learner.graphed  # calls before the capture of a graph, and that one, take longer
    acting = _Clock(0, STEPS // 4, SECONDS / 4, WARMUP + 1 if graphed else 1)
    agent.learn(rows, callback=acting, log_interval=None, reset_num_timesteps=False)
    seconds: list[float] = []
    first = WARMUP + 2 if graphed else 1  # one more than of acting: the very first makes the moments
    while len(seconds) <= first or (len(seconds) < first + UPDATES and sum(seconds) < SECONDS):
        begun = time.perf_counter()
        agent.train(1)
        if agent.device.type == "cuda":
            torch.cuda.synchronize(agent.device)
        seconds.append(time.perf_counter() - begun)
    agent.learning_starts, agent.train_ratio = starts, ratio
    return Times(random.per_step(), acting.per_step(), statistics.median(seconds[first:]), max(seconds[:first]))


class _Clock(BaseCallback):
    """Lets ``learn`` go on for as long as is wanted, and times its steps, but for the first ones of every environment.

    :param least: env steps, however long they take. :param most: env steps. :param seconds: after ``least``.
    :param first: steps of every environment that are not timed.
    """

    def __init__(self, least: int, most: int, seconds: float, first: int = 1) -> None:
        super().__init__()
        self._least, self._most, self._limit, self._first = least, max(least, most), seconds, first
        self.steps, self.seconds = 0, 0.0
        self.rewards: list[float] = []
        self._begun = 0.0

    def per_step(self) -> float:
        """Seconds of one env step."""
        return self.seconds / max(1, self.steps)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        self.rewards += map(float, self.locals["rewards"])
        if self._begun:
            self.steps += self.training_env.num_envs
            self.seconds = now - self._begun
        elif self.n_calls >= self._first:
            self._begun = now
        return self.steps < self._least or (self.steps < self._most and self.seconds < self._limit)


def _played(agent: HarmonyDreamAgent, clock: _Clock) -> str:
    """What random play was like."""
    episodes, envs = agent.ep_info_buffer or (), agent.get_env()
    assert envs is not None
    low, high = min(clock.rewards), max(clock.rewards)
    text = f"Random play: {1 / clock.per_step():,.0f} env steps/s; rewards from {low:g} to {high:g}"
    if not episodes:
        advice = ": if none ever does, evaluations do not end. Register it with max_episode_steps=..."
        return f"{text}; no episode ended within {clock.steps:,} steps{'' if is_limited(envs) else advice}"
    ends = ("steps", "l", ".0f"), ("returns", "r", ".4g")
    ranges = [
        f"{what} {min(one[key] for one in episodes):{form}} to {max(one[key] for one in episodes):{form}}"
        for what, key, form in ends
    ]
    return f"{text}; the last {len(episodes)} episodes: {', '.join(ranges)}"


def _tell(plan: Plan, agent: HarmonyDreamAgent, times: Times) -> str:
    """The times in words."""
    threads = torch.get_num_threads()
    where = f"{threads} thread{'s' * (threads > 1)} of the CPU"
    if agent.device.type == "cuda":
        memory = format_bytes(torch.cuda.max_memory_allocated(agent.device))
        where = f"{torch.cuda.get_device_name(agent.device)}, {memory} of its memory at most"
    precision = "bfloat16" if agent.learner.bfloat16 else "float32"
    updates, learning, others = times.of(plan, agent)
    whole = learning + others
    is_smallest = plan.arguments.get("size") == "nano"
    smaller = "a shorter run: --steps ..." if is_smallest else "a smaller agent: --size ..., --preset nano"
    return (
        f"Acting: {_spell(times.acting)} per env step, the environment's own time included\n"
        f"Gradient step: {_spell(times.update)} in {precision} ({where}); the first took {_spell(times.first_update)}\n"
        f"The whole run, {plan.steps:,} env steps and {updates:,} gradient steps: about {_spell(whole)}, "
        f"{learning / whole:.0%} of it gradient steps\n"
        f"Fewer gradient steps: --set train_ratio=...; {smaller}"
    )


def _spell(seconds: float) -> str:
    """A duration for people: "3.1 ms", "45 s", "1 h 20 min", "3 days 4 h"."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    parts = {"days": minutes // 1440, "h": minutes // 60 % 24, "min": minutes % 60}
    largest = next((index for index, count in enumerate(parts.values()) if count), 2)
    told = list(parts.items())[largest : largest + 2]
    return " ".join(f"{count} {'day' if (unit, count) == ('days', 1) else unit}" for unit, count in told if count)
