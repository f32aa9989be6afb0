"""What an agent will take: sizes of networks, batches and replay, told before training."""

from torch import nn

from hd_agents.host import format_bytes
from hd_agents.replay import SequenceReplay
from hd_agents.replay_memory import free_bytes

TRAINED_COPIES = 4  # a weight, its gradient, and Adam's two moments


def describe(networks: nn.Module, replay: SequenceReplay, batch_rows: int) -> str:
    """Lines for people; the last one warns if the replay will not fit.

    What activations take on top depends on the device and is not estimated.

    :param batch_rows: B * T.
    """
    weights = sum(parameter.numel() for parameter in networks.parameters())
    size = sum(parameter.numel() * parameter.element_size() for parameter in networks.parameters())
    trained = format_bytes(TRAINED_COPIES * size)
    row, frames = replay.nbytes_estimate() / replay.capacity, replay.image_bytes
    lines = [
        f"Networks: {weights:,} weights, {format_bytes(size)}; {trained} with gradients and Adam's moments",
        f"Batch: {batch_rows:,} rows of {format_bytes(row)}, {format_bytes(batch_rows * row)}",
        replay.describe(),
    ]
    if frames:
        lines[-1] += f", {format_bytes(replay.capacity * frames)} of them frames"
    free = free_bytes(replay.folder)
    if free is not None and replay.nbytes_estimate() > free:
        lines.append(f"WARNING: only {format_bytes(free)} are free for the replay: training will stop at once")
    return "\n".join(lines)
