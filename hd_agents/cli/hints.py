"""What a training tells beforehand where the machine will make it slow."""

import inspect
import sys
from collections.abc import Iterable

import torch
from stable_baselines3.common.utils import get_device

from hd_agents import HarmonyDreamAgent
from hd_agents.cli.tasks import allow_tensor_cores
from hd_agents.host import crowding
from hd_agents.presets import SIZES
from hd_agents.zoo.training import Plan


def tell_machine(plan: Plan, device: str) -> None:
    """Tell what makes learning slow, where it is the CPU that learns."""
    if not allow_tensor_cores(device) and (hint := crowding(torch.get_num_threads())):
        print(f"hd-agents: {hint}", file=sys.stderr, flush=True)
    hint_of_gpu([plan], device)


def hint_of_gpu(plans: Iterable[Plan], device: str) -> None:
    """What to expect, and to do, where networks of these sizes learn on the CPU."""
    usual = inspect.signature(HarmonyDreamAgent).parameters["size"].default
    sizes = {str(plan.arguments.get("size", usual)) for plan in plans} & SIZES["dreamerv3"].keys() - {"nano"}
    for size in sorted(sizes) if get_device(device).type != "cuda" else ():
        print(
            f"hd-agents: these settings (size {size}) are meant for a GPU, and this is the CPU. `hd-agents check` with "
            "the same task and settings tells how long it takes; --preset nano and --set train_ratio=... shorten it.",
            file=sys.stderr,
            flush=True,
        )
