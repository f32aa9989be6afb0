"""Makes a package of a trained agent: its weights, what they score, pictures, and a card that says it all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hd_agents import checks
from hd_agents.agent import HarmonyDreamAgent
from hd_agents.envs.closing import close
from hd_agents.evaluation import acting, evaluate, player_for
from hd_agents.evaluation.scores import CONFIDENCE, prediction_interval
from hd_agents.extras import require
from hd_agents.films.filming import Episode, draw_dream, frames_per_second, play, write_video
from hd_agents.films.strip import CONTEXT, CURVE_HORIZON, HORIZON
from hd_agents.zoo import packages
from hd_agents.zoo.card_checks import check_env_kwargs
from hd_agents.zoo.cards import HERE, readme
from hd_agents.zoo.catalogue import env_id, folder, make_with, name_of
from hd_agents.zoo.models import RUN, training_facts, within
from hd_agents.zoo.precision import BITS

NUMBER = (int, float)
# Of the run, which a card has to state; there is no commit outside of a repository.
FACTS: dict[str, tuple[type, ...]] = {"command": (str,), "commit": (str, type(None)), "machine": (str,)}
FACTS |= {"seed": NUMBER, "wall_seconds": NUMBER}
EPISODES = 100
VIDEO_STEPS = 500
VIDEO_BYTES = 1_000_000


def pack(
    file: str | Path,
    name: str,
    run: Mapping[str, Any] | None = None,
    episodes: int = EPISODES,
    seed: int = 10_000,
    n_envs: int = 10,
    full: bool = True,
    target: Path | None = None,
    device: torch.device | str = "auto",
    progress_bar: bool = False,
    bits: int = 16,
) -> Path:
    """Make a package of a saved agent, evaluate what it holds by the paper's rule, and give the package's folder.

    Beside the weights it gets a video of what it holds, a film strip of its dreams, and a ``README.md``.

    :param file: of ``HarmonyDreamAgent.save``. :param name: of the task.
    :param run: how the agent was trained: ``command``, ``commit``, ``machine``, ``seed`` and ``wall_seconds``, and what
        else the card should say; ``env_kwargs``, where ``task`` is that of the package, are what its environments are
        made with. None for the ``run.json`` beside ``file``.
    :param episodes: of the evaluation, ``n_envs`` at a time.
    :param seed: of the first episode, and of the pictures; far from those of training.
    :param full: keep all networks, to learn on and to dream; False keeps what acting needs, which is less than half.
    :param target: the folder to make; None for the zoo's own.
    :param bits: of a weight; 32 keeps them as they were trained, 8 is for matrices. It is refused where the mean
        return leaves the interval of the same weights in half precision, on the same episodes.
    :raises ValueError: for an unknown task, or one whose spaces differ; where ``run`` lacks something; and for 8 bits
        that cost too much.
    :raises FileExistsError: where the folder exists.
    :raises ImportError: where the libraries that draw are missing, naming the extra.
    """
    checks.choice("bits", bits, BITS)
    require("Packing", "train", "cv2", "matplotlib", "safetensors")
    task = env_id(name)
    name = name_of(task)
    agent = _load(Path(file), device)
    facts = _facts(Path(file), run, task)
    env_kwargs = facts.get("env_kwargs", {})
    if target is None and "/" not in name:
        raise ValueError(f"{name!r} is no task of the zoo, where packages lie by suite: pass target (--folder).")
    of_zoo = folder() / "pretrained" / name
    target = of_zoo if target is None else Path(target)
    trained = {"env_steps": agent.num_timesteps, "gradient_steps": agent._n_updates, "backbone": agent.backbone}

    def scored(made: Path, bits: int) -> tuple[HarmonyDreamAgent, dict[str, Any]]:
        """The agent as a package holds it, and the card of what it holds and scores."""
        card = {**facts, "name": name, "task": task, **trained, **packages.write(agent, made, full, bits)}
        packages.seal(made, card)
        packed = packages.read(made, agent.device)
        found = evaluate(packed, task, episodes, "paper", seed, n_envs, progress_bar, env_kwargs)
        interval = prediction_interval(found.returns, episodes, CONFIDENCE)
        return packed, {**card, "interval": list(interval), "confidence": CONFIDENCE, "evaluation": found.to_json()}

    with packages.making(target) as made:
        half = scored(made, 16)[1] if bits == 8 else None
        packed, card = scored(made, bits)
        if half is not None:
            card["half_precision"] = {"mean_return": half["evaluation"]["mean_return"], "interval": half["interval"]}
            _check_loss(card)
        card |= _film(packed, packed if full else agent, task, env_kwargs, made, seed)
        (made / packages.README).write_text(readme(card, None if target == of_zoo else HERE), encoding="utf-8")
        packages.seal(made, card)
    return target


def _load(file: Path, device: torch.device | str) -> HarmonyDreamAgent:
    """The agent that is to be packed. ValueError for one of a class of somebody's own, or behind VecNormalize."""
    if own := (training_facts(file.parent) or {}).get("agent_class"):
        raise ValueError(
            f"{file} is of {own}, and a package holds the networks of HarmonyDreamAgent alone: share the file of "
            "save() with the code that it needs."
        )
    agent = HarmonyDreamAgent.load(file, device=device, verbose=0)
    if _sees_normalized(agent):
        raise ValueError(
            f"{file} was trained behind a VecNormalize, whose statistics a package does not hold: share the files of "
            "save() and of VecNormalize.save."
        )
    return agent


def _sees_normalized(agent: HarmonyDreamAgent) -> bool:
    """Whether the observations that the agent saw last were not those of its environments."""
    if agent._last_obs is None or agent._last_original_obs is None:
        return False
    seen, original = (
        observations if isinstance(observations, dict) else {"": observations}
        for observations in (agent._last_obs, agent._last_original_obs)
    )
    # Sorted: the agent sees images channels first, whatever its environments give.
    return any(not np.array_equal(np.sort(seen[key], axis=None), np.sort(original[key], axis=None)) for key in seen)


def _facts(file: Path, run: Mapping[str, Any] | None, task: str) -> dict[str, Any]:
    """How an agent was trained, as the card has to state it: with ``env_kwargs`` if it was trained on ``task``."""
    facts = (training_facts(file.parent) if run is None else run) or {}
    if not isinstance(facts, Mapping):
        raise ValueError(f"run={str(run)[:80]} is no object of names and values: {', '.join(FACTS)}.")
    if missing := [key for key in FACTS if key not in facts]:
        raise ValueError(
            f"The card has to state {', '.join(missing)}, as the {RUN} of a training run does: keep it beside the "
            "agent's file, or pass run={...} (--run JSON)."
        )
    for key, kind in FACTS.items():
        if isinstance(facts[key], bool) or not isinstance(facts[key], kind):
            told = "a number" if kind is NUMBER else "text"
            raise ValueError(f"The run's {key} is {facts[key]!r}: expected {told}.")
    facts = dict(facts)
    env_kwargs = facts.pop("env_kwargs", {})
    if facts.get("task") == task and check_env_kwargs(env_kwargs, "The run"):
        facts["env_kwargs"] = env_kwargs
    return facts


def _check_loss(card: Mapping[str, Any]) -> None:
    """Refuse 8 bits that score outside the interval of half precision."""
    played, half = card["evaluation"], card["half_precision"]
    low, high = half["interval"]
    if not within(played["mean_return"], low, high):
        raise ValueError(
            f"In 8 bits the model's return is {played['mean_return']:.2f}, and in half precision "
            f"{half['mean_return']:.2f} on the same {played['episodes']} episodes, interval [{low:.2f}, {high:.2f}]: "
            "pack it with bits=16 (--bits 16)."
        )


def _film(
    packed: HarmonyDreamAgent,
    dreaming: HarmonyDreamAgent,
    task: str,
    env_kwargs: Mapping[str, Any],
    made: Path,
    seed: int,
) -> dict[str, dict[str, Any] | None]:
    """Film the packed agent and draw the dream of it, or of one with all networks; what the card says of both.

    ``video`` is None, and there is no file, where the task draws no pictures.
    """
    env = make_with(task, env_kwargs, drawn=True)
    try:
        episode = play(packed, env, seed, VIDEO_STEPS, player_for(packed, acting(task, "paper")))
        dreamer = play(dreaming, env, seed, CONTEXT + max(HORIZON, CURVE_HORIZON))
        fps = frames_per_second(env)
    finally:
        close(env)
    video = _write_video(made / packages.VIDEO, episode, task, fps) if episode.frames else None
    return {"video": video, "dream": {**draw_dream(made / packages.DREAM, dreaming, dreamer, task)}}


def _write_video(path: Path, episode: Episode, task: str, fps: float) -> dict[str, Any]:
    """Write as much of the episode as VIDEO_BYTES hold, halving it until it fits; what the card says of it."""
    totals = np.cumsum([0.0, *episode.rewards])
    captions = [f"{task}\nseed {episode.seed}, step {step}, return {total:.2f}" for step, total in enumerate(totals)]
    shown = len(episode.frames)
    write_video(path, episode.frames, fps, captions)
    while path.stat().st_size > VIDEO_BYTES and shown > 2:
        shown = (shown + 1) // 2
        write_video(path, episode.frames[:shown], fps, captions)
    steps = shown - 1
    whole = episode.whole and steps == len(episode.rewards)
    return {"seed": episode.seed, "steps": steps, "return": float(totals[steps]), "whole": whole}
