"""The scores that the paper's authors published, as data: what our own are put beside."""

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hd_agents.zoo.catalogue import folder


class Published(NamedTuple):
    """What was published of a suite.

    :param source: of the numbers. :param unit: what each of them is.
    :param env_steps: P, at which the agents were evaluated.
    :param curves: method -> the zoo's name of a task -> (seeds, P) mean returns.
    :param stated: what the paper says of them itself: ``method``, human-normalised ``mean`` and ``median``, ``source``.
    """

    source: str
    unit: str
    env_steps: NDArray[np.int64]
    curves: dict[str, dict[str, NDArray[np.float64]]]
    stated: dict[str, Any]

    def scores(self, method: str, name: str) -> NDArray[np.float64]:
        """The seeds' scores of a task at the end of training."""
        return self.curves[method][name][:, -1]


def published(suite: str) -> Published | None:
    """What was published of a suite; None where no raw numbers are known, only figures."""
    path = folder() / "results" / f"official_{suite}.json"
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    curves = {
        method: {f"{suite}/{task}": np.array(seeds, dtype=np.float64) for task, seeds in tasks.items()}
        for method, tasks in data["methods"].items()
    }
    return Published(data["source"], data["unit"], np.array(data["env_steps"]), curves, data["stated"])
