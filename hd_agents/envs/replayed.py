"""Simulators whose state cannot be copied: where an episode stands is how it began and what was done since."""

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from hd_agents.saving.jsonable import ArchiveError

__all__ = ["Replayed"]


class Replayed(gymnasium.Env[Any, NDArray[np.float32]], ABC):
    """An environment that is stored as the random numbers its episode began with, and the actions since.

    It is put back by playing them again without drawing, which takes as long as the simulator does. Everything has to
    follow from these two. See :mod:`hd_agents.envs.state`.
    """

    _begun: dict[str, Any] | None = None
    _played: list[NDArray[np.float64]]

    @abstractmethod
    def _random(self) -> dict[str, Any]:
        """The states of all random generators, as plain values."""

    @abstractmethod
    def _set_random(self, states: dict[str, Any]) -> None:
        """Undo :meth:`_random`."""

    @abstractmethod
    def _start(self) -> Any:
        """Reset the simulator, drawing nothing."""

    @abstractmethod
    def _play(self, action: NDArray[Any]) -> Any:
        """Take a step of the simulator, drawing nothing."""

    def _begin(self) -> Any:
        """What :meth:`_start` gives, remembered; for ``reset``, once the generators are seeded."""
        self._begun, self._played = self._random(), []
        return self._start()

    def _act(self, action: NDArray[Any]) -> Any:
        """What :meth:`_play` gives, remembered; for ``step``."""
        self._played.append(np.array(action, np.float64))
        return self._play(action)

    def get_state(self) -> dict[str, Any]:
        """How the episode began, and the actions since.

        :raises ArchiveError: before the first ``reset``.
        """
        if self._begun is None:
            raise ArchiveError(f"{type(self).__name__} cannot be stored before it is reset.")
        return {"begun": self._begun, "played": np.array(self._played).reshape(-1, *self.action_space.shape)}  # type: ignore[misc]

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where another environment stood that was made with the same arguments."""
        self._set_random(state["begun"])
        self._begin()
        for action in state["played"]:
            self._act(action)
