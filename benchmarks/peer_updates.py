"""How to make other implementations update and act, through their own functions and at our shapes.

Nothing of theirs is kept here: sheeprl is imported as installed, r2dreamer from a checkout.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from cases import ACTIONS, EPISODE, OBSERVATIONS, Case
from torch import nn

from hd_agents.presets import DEFAULTS, SIZES, Size

BATCHES = 3


class Contender(NamedTuple):
    """An implementation, ready to be timed.

    :param update: makes one update on a ready batch of noise.
    :param act: chooses an action for one environment, from NumPy to NumPy.
    """

    update: Callable[[], Any]
    act: Callable[[], Any]


def noise(case: Case, seed: int) -> dict[str, np.ndarray]:
    """A batch of noise, (B, T, ...) each, with an episode start every 40 rows or so."""
    rng = np.random.default_rng(seed)
    size = (case.batch_size, case.sequence_length)
    first = rng.random(size) < 1 / EPISODE
    last = np.zeros(size, bool)
    last[:, :-1] = first[:, 1:]
    action = np.eye(ACTIONS, dtype=np.float32)[rng.integers(ACTIONS, size=size)]
    batch = {"action": action, "reward": rng.standard_normal(size, dtype=np.float32), "first": first, "last": last}
    batch |= {key: rng.integers(0, 256, (*size, *shape), dtype=np.uint8) for key, shape in case.images.items()}
    return batch | {key: rng.standard_normal((*size, n), dtype=np.float32) for key, n in case.vectors.items()}


def widths(case: Case) -> Size:
    """The network widths of a case."""
    return SIZES[case.backbone][case.size]._replace(**case.overrides)


def sheeprl(case: Case, checkouts: Path, bfloat16: bool) -> Contender:
    """sheeprl's DreamerV3, as installed (pip install --no-deps sheeprl, and what it imports)."""
    found = importlib.util.find_spec("sheeprl")
    if found is None or found.origin is None:
        raise SystemExit("sheeprl is not installed for this interpreter; choose one with --python.")
    root = Path(found.origin).parent
    # Only DreamerV3 is wanted: the package's __init__ imports every algorithm and every simulator.
    package = types.ModuleType("sheeprl")
    package.__path__, package.ROOT_DIR, package.__version__ = [str(root)], str(root), "0"  # type: ignore[attr-defined]
    environments = types.ModuleType("sheeprl.utils.env")
    for name in ("make_env", "get_episode_stats", "get_vector_env_cls"):
        setattr(environments, name, None)
    sys.modules |= {"sheeprl": package, "sheeprl.utils.env": environments}
    import hydra
    import sheeprl.algos.dreamer_v3.dreamer_v3 as algorithm
    from lightning.fabric import Fabric
    from omegaconf import OmegaConf
    from sheeprl.utils.utils import dotdict

    size, usual = widths(case), DEFAULTS[case.backbone]
    model = "algo.world_model"
    overrides = ["exp=dreamer_v3_100k_ms_pacman", f"algo.dense_units={size.units}", f"algo.mlp_layers={size.layers}"]
    overrides += [f"{model}.encoder.cnn_channels_multiplier={size.depth}", f"algo.horizon={usual.horizon}"]
    overrides += [f"{model}.recurrent_model.recurrent_state_size={size.deter}"]
    overrides += [f"{model}.{part}_model.hidden_size={size.hidden}" for part in ("transition", "representation")]
    overrides += [f"{model}.stochastic_size={size.stoch}", f"{model}.discrete_size={size.classes}"]
    overrides += [
        f"algo.per_rank_batch_size={case.batch_size}",
        f"algo.per_rank_sequence_length={case.sequence_length}",
    ]
    for kind, keys in (("cnn", case.images), ("mlp", case.vectors)):
        overrides += [f"algo.{kind}_keys.{side}=[{','.join(keys)}]" for side in ("encoder", "decoder")]
    overrides += ["env.screen_size=64", "env.num_envs=1", "env.wrapper=null", "metric.log_level=0"]
    overrides += ["fabric.accelerator=cpu", "model_manager.disabled=True"]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(root / "configs")):
        config = hydra.compose("config", overrides=overrides)
    OmegaConf.set_struct(config, False)
    config.root_dir = config.run_name = config.exp_name = "x"
    settings = dotdict(OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
    algorithm.MetricAggregator.disabled = True
    torch.distributions.Distribution.set_default_validate_args(settings.distribution.validate_args)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if bfloat16 else "32-true")
    fabric.launch()
    spaces: dict[str, gym.Space[Any]] = {key: gym.spaces.Box(0, 255, (3, 64, 64), np.uint8) for key in case.images}
    spaces |= {key: gym.spaces.Box(-np.inf, np.inf, (n,), np.float32) for key, n in case.vectors.items()}
    built = algorithm.build_agent(fabric, (ACTIONS,), False, settings, gym.spaces.Dict(spaces))
    world_model, actor, critic, target, player = built[:5]
    player.init_states()
    named = {"world_model": world_model, "actor": actor, "critic": critic}
    optimizers = fabric.setup_optimizers(
        *(hydra.utils.instantiate(settings.algo[n].optimizer, params=m.parameters()) for n, m in named.items())
    )
    scale = settings.algo.actor.moments
    moments = algorithm.Moments(scale.decay, scale.max, scale.percentile.low, scale.percentile.high)
    names = {"action": "actions", "reward": "rewards", "first": "is_first", "last": "terminated"}
    batches = []
    for seed in range(BATCHES):
        batch = {}
        for key, value in noise(case, seed).items():
            value = value.transpose(0, 1, 4, 2, 3) if key in case.images else value
            value = value[..., None] if key in ("reward", "first", "last") else value
            batch[names.get(key, key)] = torch.from_numpy(np.ascontiguousarray(value.swapaxes(0, 1)))
        batches.append(batch)
    observations = cycle([{key: space.sample()[None] for key, space in spaces.items()} for _ in range(OBSERVATIONS)])
    done = 0

    def update() -> None:
        nonlocal done
        share = 0.02 if done else 1.0
        for new, slow in zip(critic.module.parameters(), target.parameters(), strict=True):
            slow.data.copy_(share * new.data + (1 - share) * slow.data)
        batch = {key: value.float() for key, value in batches[done % BATCHES].items()}
        done += 1
        algorithm.train(
            fabric, world_model, actor, critic, target, *optimizers, batch, None, settings, False, (ACTIONS,), moments
        )

    def act() -> np.ndarray:
        with torch.inference_mode():
            seen = algorithm.prepare_obs(fabric, next(observations), cnn_keys=list(case.images), num_envs=1)
            return torch.stack([x.argmax(-1) for x in player.get_actions(seen)], -1).numpy()

    return Contender(update, act)


def r2dreamer(case: Case, checkouts: Path, bfloat16: bool) -> Contender:
    """r2dreamer's DreamerV3 mode in float32 (or bfloat16 autocast), with our stride-2 CNN for equal arithmetic.

    Its own CNN has 2.6 to 5.2 times the arithmetic at the same depth. Its block GRU, LaProp, gradient clipping and
    replay value loss stay.
    """
    root = checkouts / "r2dreamer"
    if not root.is_dir():
        raise SystemExit(f"{root} is not there: check out NM512/r2dreamer into the folder given by --checkouts.")
    sys.path.insert(0, str(root))
    import dreamer
    import hydra
    import networks
    from omegaconf import OmegaConf
    from tensordict import TensorDict

    networks.ConvEncoder, networks.ConvDecoder = _strided(networks)
    cast = torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    dreamer.autocast = lambda *_, **__: cast
    size, usual = widths(case), DEFAULTS[case.backbone]
    overrides = ["env=atari100k", "model=size12M", "device=cpu", "model.compile=False", "model.rep_loss=dreamer"]
    overrides += [f"model.deter={size.deter}", f"model.hidden={size.hidden}", f"model.units={size.units}"]
    overrides += [f"model.depth={size.depth}", f"model.rssm.stoch={size.stoch}", f"model.discrete={size.classes}"]
    overrides += [f"model.imag_horizon={usual.horizon}", "model.rssm.img_layers=1", "model.rssm.obs_layers=1"]
    overrides += [f"model.{head}.layers={size.layers}" for head in ("reward", "cont", "actor", "critic")]
    overrides += [f"batch_size={case.batch_size}", f"batch_length={case.sequence_length}", "buffer.max_size=4000"]
    with hydra.initialize_config_dir(version_base=None, config_dir=str(root / "configs")):
        config = hydra.compose("configs", overrides=overrides)
    OmegaConf.set_struct(config, False)
    flags = {name: gym.spaces.Box(0, 1, (), np.bool_) for name in ("is_first", "is_last", "is_terminal")}
    images = {key: gym.spaces.Box(0, 255, shape, np.uint8) for key, shape in case.images.items()}
    actions = gym.spaces.Box(0, 1, (ACTIONS,), np.float32)
    actions.discrete = True  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(None):
        agent = dreamer.Dreamer(config.model, gym.spaces.Dict(images | flags), actions).to("cpu")
    start = (torch.zeros(case.batch_size, size.stoch, size.classes), torch.zeros(case.batch_size, size.deter))
    batches = []
    for seed in range(BATCHES):
        batch = {key: torch.from_numpy(value) for key, value in noise(case, seed).items()}
        last = batch.pop("last").unsqueeze(-1)
        batch |= {"is_first": batch.pop("first"), "is_last": last, "is_terminal": last.clone()}
        batch["reward"] = batch["reward"].unsqueeze(-1)
        batches.append(TensorDict(batch, batch_size=(case.batch_size, case.sequence_length)))

    class Replay:
        """Hands out the ready batches and keeps no latents."""

        drawn = 0

        def sample(self) -> tuple[Any, None, tuple[torch.Tensor, ...]]:
            self.drawn += 1
            return batches[self.drawn % BATCHES].clone(), None, tuple(part.clone() for part in start)

        def update(self, *_: Any) -> None:
            """Their replay would store the latents."""

    replay, acting = Replay(), agent.get_initial_state(1)
    observations = cycle([{key: space.sample()[None] for key, space in images.items()} for _ in range(OBSERVATIONS)])

    def act() -> np.ndarray:
        nonlocal acting
        seen = {key: torch.from_numpy(value) for key, value in next(observations).items()}
        seen["is_first"] = torch.zeros(1, dtype=torch.bool)
        action, acting = agent.act(TensorDict(seen, batch_size=(1,)), acting)
        return action.numpy()

    return Contender(lambda: agent.update(replay), act)


def _strided(networks: Any) -> tuple[type[nn.Module], type[nn.Module]]:
    """Encoder and decoder of four 4x4 convolutions of stride 2, with r2dreamer's own norm and initialisation."""

    def block(conv: nn.Module, channels: int) -> list[nn.Module]:
        return [conv, networks.RMSNorm2D(channels, eps=1e-4, dtype=torch.float32), nn.SiLU()]

    class Encoder(nn.Module):
        def __init__(self, config: Any, shape: tuple[int, int, int]) -> None:
            super().__init__()
            channels, layers = [shape[2], *(int(config.depth) * 2**i for i in range(4))], []
            for a, b in pairwise(channels):
                layers += block(nn.Conv2d(a, b, 4, 2, 1, bias=False), b)
            self.layers = nn.Sequential(*layers)
            self.out_dim = channels[-1] * (shape[0] // 16) * (shape[1] // 16)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.layers((image - 0.5).flatten(0, -4).permute(0, 3, 1, 2))
            return x.reshape(*image.shape[:-3], -1)

    class Decoder(nn.Module):
        def __init__(self, config: Any, deter: int, stoch: int, shape: tuple[int, int, int] = (3, 64, 64)) -> None:
            super().__init__()
            self.start = int(config.depth) * 8
            self.first = nn.Linear(deter + stoch, self.start * 16)
            channels, layers = [self.start // 2**i for i in range(4)], []
            for a, b in pairwise(channels):
                layers += block(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), b)
            self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], shape[0], 4, 2, 1))
            self.apply(networks.weight_init_)

        def forward(self, stoch: torch.Tensor, deter: torch.Tensor) -> torch.Tensor:
            lead = deter.shape[:-1]
            x = self.first(torch.cat([stoch.reshape(*lead, -1), deter], -1))
            x = self.layers(x.reshape(-1, 4, 4, self.start).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return torch.sigmoid(x).reshape(*lead, *x.shape[1:])

    return Encoder, Decoder


PEERS = {"sheeprl": sheeprl, "r2dreamer": r2dreamer}
