"""`hd-agents dream`: what happens beside what the model dreams, live in the terminal, with the keys in your hands."""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hd_agents.cli import flags
from hd_agents.cli.enjoy import add_playing_flags, trained_on
from hd_agents.cli.errors import UsageError, checked, require
from hd_agents.cli.loading import check_spaces, env_kwargs_for, load_model
from hd_agents.cli.running import sigterm_as_exit
from hd_agents.cli.tasks import checked_env, task_id
from hd_agents.evaluation import acting, player_for
from hd_agents.evaluation.episodes import SeededEpisodes
from hd_agents.films.live_dream import LiveDream
from hd_agents.films.strip import to_rgb
from hd_agents.films.terminal import UPPER_HALF, Image, Terminal
from hd_agents.randomness import seeded
from hd_agents.spaces.executed import EXECUTED, encode_executed, with_executed
from hd_agents.zoo.packages import ActingAgent

QUIT, AGENT, ANEW = "q", "\t", "\n"  # q, Tab and Enter
PYGAME = {1073741903: "right", 1073741904: "left", 1073741905: "down", 1073741906: "up"}  # its numbers of the arrows
ARROWS = {"up": "w", "left": "a", "down": "s", "right": "d"}  # what they stand for where the game does not know them
LINGER = 1.5  # seconds at the end of an episode
HELD = 3  # steps that a key counts as held for: terminals do not tell when it is let go


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `dream` and its flags to the command line."""
    parser = commands.add_parser(
        "dream",
        help="play in the terminal; beside the game, see what the model dreams from your actions alone",
        description="Show the game in the terminal and, beside it, what the model dreams. It sees the game up to "
        "where the dream begins, and from there on knows the actions alone. The agent plays until you press one of the "
        "game's keys (w, a, s, d and space, the arrows, or the numbers of the actions). Tab: the agent plays again. "
        "Enter: the dream begins anew. q: end. For models that see images.",
    )
    add_playing_flags(parser)
    parser.add_argument(
        "--horizon", type=flags.count, default=30, help="steps after which the dream begins anew (default: %(default)s)"
    )
    parser.add_argument("--fps", type=flags.count, default=10, help="steps per second (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Play until it is ended and return the exit status: 0."""
    require("train", "cv2")
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "dream needs a terminal to draw in and to read keys from; `hd-agents enjoy` writes dreams into files."
        )
    try:
        UPPER_HALF.encode(sys.stdout.encoding)
    except UnicodeEncodeError as error:
        raise UsageError(
            f"dream draws with a sign that {sys.stdout.encoding}, the encoding of this output, lacks: in a terminal "
            "that shows UTF-8, set PYTHONIOENCODING=utf-8."
        ) from error
    agent = load_model(options.agent, options.device, options.agent_class)
    if isinstance(agent, ActingAgent):
        checked(agent.imagine)  # which says why it cannot
    try:
        dream = LiveDream(agent)
    except ValueError as error:
        fix = f"hd-agents enjoy {options.agent} --dream dream.png"
        raise UsageError(f"{options.agent}: {error} `{fix}` draws them as curves.") from error
    task = options.task or trained_on(options.agent)
    env_kwargs = env_kwargs_for(options.agent, task_id(task), options.env_kwargs)
    env = SeededEpisodes(checked_env(task, env_kwargs), ())
    try:
        check_spaces(agent, options.agent, task, env)
        player = player_for(agent, acting(task_id(task), "paper"))
        with sigterm_as_exit(), Terminal() as terminal, seeded(options.seed, agent.device):
            game = Game(player, dream, env, terminal, options.horizon, options.fps)
            for seed in count(options.seed):
                if not game.play(seed):
                    break
    finally:
        env.close()
    for line in game.told:
        print(line)
    return 0


class Hand:
    """Which action the pressed keys stand for, and whether anybody has pressed one.

    :param keys: keys -> action, as Gymnasium's ``get_keys_to_action`` tells them. The numbers of the first ten actions
        come on top; of other spaces than Discrete no action has a key.
    :ivar plays: whether the keys decide, and not the agent.
    """

    def __init__(self, keys: Mapping[Iterable[str | int], int], space: spaces.Space[Any]) -> None:
        self._actions: dict[frozenset[str], int] = {}
        self._idle = 0
        if isinstance(space, spaces.Discrete):
            self._idle = int(space.start)
            numbers = {frozenset(str(number)): self._idle + number for number in range(min(int(space.n), 10))}
            named = {frozenset(map(_name, held)): int(action) for held, action in keys.items()}
            self._actions = numbers | {held: action for held, action in named.items() if "".join(held).isprintable()}
            self._idle = self._actions.pop(frozenset(), self._idle)
        self._held: dict[str, int] = {}  # key -> steps that it still counts for, in the order of pressing
        self.plays = False

    @property
    def keys(self) -> list[str]:
        """All that stand for something."""
        return sorted(frozenset().union(*self._actions))

    def press(self, key: str) -> None:
        """Take a key in; one that stands for nothing is ignored."""
        key = key if key in self.keys else ARROWS.get(key, key)
        if key in self.keys:
            self.plays = True
            self._held.pop(key, None)
            self._held[key] = HELD

    def action(self) -> int:
        """For the next step: what the held keys stand for together, else the last of them, else nothing."""
        held = list(self._held)
        self._held = {key: left - 1 for key, left in self._held.items() if left > 1}
        alone = self._actions.get(frozenset(held[-1:]), self._idle)
        return self._actions.get(frozenset(held), alone)


def _name(key: str | int) -> str:
    """As a terminal tells of it, or a sign that none does."""
    return key if isinstance(key, str) else PYGAME.get(key) or (chr(key) if key <= sys.maxunicode else "\0")


class Game:
    """Episodes of an environment, and beside each a dream of it.

    :param player: acts where nobody has pressed a key. :param horizon: steps after which the dream begins anew.
    :param fps: steps per second.
    :ivar told: a line for each episode that was played.
    """

    def __init__(
        self, player: Any, dream: LiveDream, env: gym.Env[Any, Any], terminal: Terminal, horizon: int, fps: float
    ) -> None:
        self._player, self._dream, self._env, self._terminal = player, dream, env, terminal
        self._horizon, self._pause = horizon, 1.0 / fps
        self._due = time.monotonic()  # when the next step is to be made
        known = env.has_wrapper_attr("get_keys_to_action")
        self._hand = Hand(env.get_wrapper_attr("get_keys_to_action")() if known else {}, env.action_space)
        self.told: list[str] = []

    def play(self, seed: int) -> bool:
        """An episode; whether another one is wanted."""
        dream, policy = self._dream, self._dream.policy
        observation, _ = self._env.reset(seed=seed)
        action, state = self._player.predict(observation, None, np.ones(1, dtype=bool))
        moment, happened, dreamt = dream.begin(state), 0.0, 0.0
        steps, total, done = 0, 0.0, False
        while True:
            told = f"episode of seed {seed}: return {total:g} in {steps} steps{', ended' if done else ''}"
            since = f"reward {dreamt:.1f} dreamt, {happened:g} given; it goes on with {moment.goes_on:.0%}"
            self._show(observation, moment.picture, told, since)
            pressed = self._wait(LINGER if done else self._pause)
            if done or QUIT in pressed:
                self.told.append(told)
                return QUIT not in pressed
            chosen = self._hand.action() if self._hand.plays else action
            taken = int(chosen) if isinstance(self._env.action_space, spaces.Discrete) else chosen
            observation, reward, terminated, truncated, info = self._env.step(taken)
            executed = np.asarray(taken)
            if EXECUTED in info:
                executed = policy.actions.decode(encode_executed(policy.actions, info, 0)[None])[0]
            if self._hand.plays or EXECUTED in info:
                state = with_executed(policy.actions, state, executed)
            steps, total, done = steps + 1, total + float(reward), bool(terminated or truncated)
            action, state = self._player.predict(observation, state, np.zeros(1, dtype=bool))
            if ANEW in pressed or dream.steps >= self._horizon:
                moment, happened, dreamt = dream.begin(state), 0.0, 0.0
            else:
                moment = dream.step(executed)
                happened, dreamt = happened + float(reward), dreamt + moment.reward

    def _show(self, observation: Any, picture: Image, told: str, since: str) -> None:
        codec, keys = self._dream.policy.observations, self._hand.keys
        seen = to_rgb(codec.encode(observation)[self._dream.key][0])
        lines = (
            "left: what happens; right: what the model dreams, from the actions alone",
            f"{told}; {'you play' if self._hand.plays else 'the agent plays'}",
            f"dream of {self._dream.steps} steps, {self._horizon} at most: {since}",
            f"q: end   {f'play: {shown(keys)}   ' if keys else ''}Tab: the agent plays   Enter: dream anew",
        )
        self._terminal.show([seen, picture], lines)

    def _wait(self, seconds: float) -> list[str]:
        """The keys of the next step, so many seconds after the last one; at once where it is to end."""
        self._due = max(self._due + seconds, time.monotonic())
        pressed = self._terminal.pressed(max(0.0, self._due - time.monotonic()))
        while QUIT not in pressed and (left := self._due - time.monotonic()) > 0.0:
            pressed += self._terminal.pressed(left)
        for key in pressed:
            self._hand.press(key)
            if key == AGENT:
                self._hand.plays = False
        return pressed


def shown(keys: list[str]) -> str:
    """Keys, in their order, as people read them."""
    digits = [key for key in keys if key.isdigit()]
    words = ["space" if key == " " else key for key in keys if not key.isdigit()]
    return " ".join([*words, f"{digits[0]}-{digits[-1]}"])
