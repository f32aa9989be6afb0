"""What an agent consists of and will take, told before training: networks, sizes, batches and replay."""

from hd_agents.host import format_bytes
from hd_agents.policies import DreamPolicy
from hd_agents.replay import SequenceReplay
from hd_agents.replay.memory import free_bytes

TRAINED_COPIES = 4  # a weight, its gradient, and Adam's two moments


def describe(policy: DreamPolicy, replay: SequenceReplay, batch_rows: int, train_ratio: float) -> str:
    """Lines for people; the last one warns if the replay will not fit.

    What activations take on top depends on the device and is not estimated.

    :param batch_rows: B * T. :param train_ratio: replayed steps per env step.
    """
    parameters = list(policy.networks.parameters())
    weights = sum(parameter.numel() for parameter in parameters)
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    trained = format_bytes(TRAINED_COPIES * size)
    row, frames = replay.nbytes_estimate() / replay.capacity, replay.image_bytes
    lines = [
        *_describe_networks(policy),
        f"Gradient steps per env step: {train_ratio / batch_rows:.3g}, each on {batch_rows} replayed steps",
        f"Networks: {weights:,} weights, {format_bytes(size)}; {trained} with gradients and Adam's moments",
        f"Batch: {batch_rows:,} rows of {format_bytes(row)}, {format_bytes(batch_rows * row)}",
        describe_replay(replay),
    ]
    if frames:
        lines[-1] += f", {format_bytes(replay.capacity * frames)} of them frames"
    free = free_bytes(replay.folder)
    if free is not None and replay.nbytes_estimate() > free:
        lines.append(f"WARNING: only {format_bytes(free)} are free for the replay: training will stop at once")
    return "\n".join(lines)


def describe_replay(replay: SequenceReplay) -> str:
    """One line: rows stored, rows that fit, memory or disk."""
    place = "memory" if replay.folder is None else replay.folder
    return (
        f"Replay: {len(replay):,} of {replay.capacity:,} rows stored ({replay.n_envs} x {replay.rows_per_env:,}), "
        f"{format_bytes(replay.nbytes_estimate())} of {place} when full"
    )


def _describe_networks(policy: DreamPolicy) -> list[str]:
    """Which network each observation key goes to, what is resized, and what the actions are."""
    lines, sizes = [], policy.networks.world_model.encoder.sizes
    for key, spec in policy.observations.images.items():
        line = f"Observation {key!r} -> image network {spec.height}x{spec.width}x{spec.channels}"
        if sizes[key] != (spec.height, spec.width):
            line += f", resized to {sizes[key][0]}x{sizes[key][1]} on the device"
        lines.append(line)
    for key, vector in policy.observations.vectors.items():
        lines.append(f"Observation {key!r} -> vector network {vector.size}{' (one-hot)' if vector.nvec else ''}")
    groups = policy.actions.groups
    kind = f"choices of {' x '.join(map(str, groups))}" if groups else f"{policy.actions.size} continuous dimensions"
    return [*lines, f"Actions: {kind}"]
