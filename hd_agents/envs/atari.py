"""Atari games by the protocol of Atari100K. Needs ale-py and OpenCV (the `atari` extra)."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from hd_agents.extras import needing

with needing("An Atari game", "atari"):
    import ale_py
    import cv2
    from ale_py import roms

from hd_agents.randomness import new_generator
from hd_agents.saving.jsonable import ArchiveError

__all__ = ["Atari"]

Image = npt.NDArray[np.uint8]

MAX_FRAMES = 108_000  # half an hour at 60 frames a second
SHORTER = {"chopper_command": 5_400}  # run so by the official code's instructions
NOOP = 0


class Atari(gymnasium.Env[Image, np.int64]):
    """A game of the Arcade Learning Environment as Atari100K plays it.

    Observation: ``(size, size, 3)`` uint8, the pixelwise maximum of the last two frames of the repeat (games draw some
    things only every other frame), reduced by OpenCV's area interpolation. After a reset, and where a game ends
    before the last frame of a repeat, there is one frame, and no maximum.
    Actions: the game's minimal set, each repeated ``action_repeat`` frames or until the game ends.
    Reward: the sum of the score's changes over the repeat, not clipped.
    Episode: a whole game, all lives; ``truncated`` at ``max_frames``. It starts with 0 to ``noop_max`` frames of doing
    nothing, which don't count. ``info`` has the ``lives`` left and the ``frames`` played.

    After ``reset(seed=...)`` everything follows from the seed, also in an environment that has been in use.

    :param game: ALE's name of the ROM, such as ``"ms_pacman"``.
    :param size: pixels of the observation's edge.
    :param action_repeat: frames per step, 1 or more.
    :param noop_max: most frames of doing nothing at the start.
    :param max_frames: frames per episode; None for 108,000, and 5,400 in Chopper Command.
    :param repeat_action_probability: of ALE repeating the last action instead ("sticky"); 0 by the protocol.
    :param official_termination: report the cut at ``max_frames`` as ``terminated``, as the official code does; it then
        counts as the end of all reward.
    :param render_mode: None or "rgb_array" (the last frame in ALE's own resolution).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(
        self,
        game: str,
        size: int = 64,
        action_repeat: int = 4,
        noop_max: int = 29,
        max_frames: int | None = None,
        repeat_action_probability: float = 0.0,
        official_termination: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if action_repeat < 1 or size < 1 or noop_max < 0:
            raise ValueError(f"{action_repeat=}, {size=}, {noop_max=}: the first two start at 1, noop_max at 0")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is not supported: choose None or 'rgb_array'")
        rom = roms.get_rom_path(game) if game in roms.get_all_rom_ids() else None
        if rom is None:
            raise ValueError(f"game={game!r} is none of ALE's: {', '.join(sorted(roms.get_all_rom_ids()))}")
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", repeat_action_probability)
        self._ale.loadROM(rom)
        self._rom = rom
        self._actions = self._ale.getMinimalActionSet()
        height, width = self._ale.getScreenDims()
        # The last frame, the one before, and their maximum; made once, as the emulator can write into them.
        self._screen = np.zeros((height, width, 3), np.uint8)
        self._screen_before = np.zeros_like(self._screen)
        self._both = np.zeros_like(self._screen)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self.render_mode = render_mode
        self.game = game
        self.action_repeat = action_repeat
        self.noop_max = noop_max
        self.max_frames = SHORTER.get(game, MAX_FRAMES) if max_frames is None else max_frames
        self.official_termination = official_termination
        self._size = (size, size)
        self._frames = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Image, dict[str, Any]]:
        """Start a game; ``options`` are not used."""
        super().reset(seed=seed)
        if seed is not None:
            self._ale.setInt("random_seed", int(self.np_random.integers(2**31)))
            self._ale.loadROM(self._rom)  # the emulator takes a seed, and forgets its past, only here
        self._ale.reset_game()
        for _ in range(self.np_random.integers(self.noop_max + 1)):
            self._ale.act(NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._frames = 0
        self._ale.getScreenRGB(self._screen)
        return self._reduce(self._screen), self._info()

    def step(self, action: np.int64 | int) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        """Play ``action_repeat`` frames, or what is left of the game."""
        ale, chosen = self._ale, self._actions[action]
        reward, frame, terminated = 0, 0, False
        while frame < self.action_repeat and not terminated:
            reward += ale.act(chosen)
            terminated = ale.game_over()
            frame += 1
            if frame == self.action_repeat - 1:
                ale.getScreenRGB(self._screen_before)
        self._frames += frame
        ale.getScreenRGB(self._screen)
        picture = self._screen
        if frame == self.action_repeat and frame > 1:
            picture = np.maximum(self._screen, self._screen_before, out=self._both)
        truncated = self._frames >= self.max_frames and not terminated
        if self.official_termination:
            terminated, truncated = terminated or truncated, False
        return self._reduce(picture), float(reward), terminated, truncated, self._info()

    def render(self) -> Image | None:
        """Return the last frame, ``(210, 160, 3)`` uint8 in most games, or None without a render mode."""
        return self._screen.copy() if self.render_mode == "rgb_array" else None

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys -> action, for people: w, a, s, d and the space bar, as ALE has them for its own environments."""
        keys = {"UP": "w", "LEFT": "a", "DOWN": "s", "RIGHT": "d", "FIRE": " "}
        return {
            tuple(key for word, key in keys.items() if word in action.name): number
            for number, action in enumerate(self._actions)
        }

    def get_state(self) -> dict[str, Any]:
        """Where the game stands, emulator and random numbers included; see :mod:`hd_agents.envs.state`.

        :raises ArchiveError: with sticky actions, as ALE does not tell which action it may repeat next.
        """
        if self._ale.getFloat("repeat_action_probability") > 0.0:
            raise ArchiveError(f"Where {self.game} stands cannot be stored, as repeat_action_probability is not 0.")
        emulator = np.frombuffer(self._ale.cloneState(include_rng=True).serialize(), np.uint8)
        return {"emulator": emulator, "frames": self._frames, "generator": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where another game stood that was made with the same arguments. Drawn from the next step on.

        :raises ArchiveError: if ALE cannot read its emulator's state.
        """
        try:
            self._ale.restoreState(ale_py.ALEState(state["emulator"].tobytes()))
        except SystemError as error:  # what ALE makes of its exceptions
            raise ArchiveError(f"ALE cannot read the stored state of {self.game}: it is damaged.") from error
        self._frames = state["frames"]
        self.np_random = new_generator(state["generator"])

    def _reduce(self, picture: Image) -> Image:
        reduced = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        return np.asarray(reduced, dtype=np.uint8)

    def _info(self) -> dict[str, Any]:
        return {"lives": self._ale.lives(), "frames": self._frames}
