"""The card of a trained model for people: ``README.md``, written from ``card.json``."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hd_agents.host import format_bytes
from hd_agents.zoo.catalogue import PRESETS, preset_of

WHOLE = "all networks"  # what a package can hold, instead of what acting needs
HERE = "path/of/this/folder"  # where a package is that lies neither in the zoo nor on the Hub


def readme(card: Mapping[str, Any], place: str | None = None) -> str:
    """A complete model card in Markdown, with links to the pictures that lie beside it.

    :param card: what ``card.json`` holds, but for the checksums.
    :param place: what :func:`hd_agents.zoo.load` finds the package by; None for the task's name.
    """
    name, played = card["name"], card["evaluation"]
    place = place or name
    making = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in card.get("env_kwargs", {}).items())])
    parts = [
        f"# {name}",
        f"A HarmonyDream agent for the Gymnasium task `{card['task']}`, trained and packed by hd_agents.",
        "```python\n"
        f'from hd_agents import zoo\n\nagent, env = zoo.load("{place}"), zoo.make_env({making})\n'
        "obs, _ = env.reset()\nplayer = agent.player()\naction = player.act(obs)\n```",
        *([_further(card, place)] if card["holds"] == WHOLE else []),
        "## Score",
        _score(card, played),
        "## Training",
        _table(_training(card)),
        "## Weights",
        _table(_weights(card)),
        "## Pictures",
        _video(card),
        _dream(card),
        f"Everything here and the return of each episode is in `card.json`; `hd-agents zoo verify {place}` checks the "
        "files and plays the evaluation again.",
    ]
    return "\n\n".join(parts) + "\n"


def _further(card: Mapping[str, Any], place: str) -> str:
    preset = preset_of(card["command"])
    shipped = preset in PRESETS and preset != "paper"  # no file of whoever trained it
    words = ["hd-agents", "train", card["name"], *(["--preset", preset] if shipped else [])]
    words += [f"--env-kwargs={key}={value!r}" for key, value in card.get("env_kwargs", {}).items()]
    return (
        "`agent.imagine(obs)` is what it expects to happen after an episode's first observation; after a later one, "
        "before the player acts on it, it is `agent.imagine(obs, state=player.state)`. To learn on: "
        f"`agent.set_env(env)` and `agent.learn(...)`, or `{shlex.join([*words, '--trained-agent', place])}`."
    )


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _score(card: Mapping[str, Any], played: Mapping[str, Any]) -> str:
    low, high = card["interval"]
    rows = {
        "return, mean ± standard deviation": f"**{played['mean_return']:.2f}** ± {played['std_return']:.2f}",
        f"{card['confidence']:.0%} interval of the mean of another evaluation": f"{low:.2f} to {high:.2f}",
        "episodes": f"{played['episodes']}, seeds {played['seeds'][0]} to {played['seeds'][-1]}, "
        f"{played['n_envs']} environments side by side",
        "rule of acting": f"{played['rule']} ({played['acting']})",
    }
    if "success_rate" in played:
        rows["success rate"] = f"{played['success_rate']:.0%}"
    if "human_normalized_score" in played:
        rows["human-normalised score"] = f"{played['human_normalized_score']:.3f}"
    if "half_precision" in card:
        half = card["half_precision"]
        low, high = half["interval"]
        text = f"{half['mean_return']:.2f}, interval {low:.2f} to {high:.2f}"
        rows["the same episodes in half precision"] = text
    return _table(rows)


def _training(card: Mapping[str, Any]) -> dict[str, Any]:
    rows = {
        "command": f"`{card['command']}`",
        **({"its settings": f"`{json.dumps(card['settings'])}`"} if "settings" in card else {}),
        "seed": card["seed"],
        "environment steps": f"{card['env_steps']:,}",
        "gradient steps": f"{card['gradient_steps']:,}",
        "backbone": card["backbone"],
        **_beginning(card.get("trained_agent")),
        **_changes(card.get("changes", ())),
        "wall time": _duration(card["wall_seconds"]),
        "machine": card["machine"],
        "commit": f"`{card['commit']}`" if card["commit"] else "unknown",
    }
    if "trained" in card:
        rows["date"] = card["trained"]
    return rows


def _beginning(before: Any) -> dict[str, Any]:
    """The agent whose weights the run began with, as `hd-agents train` has it; gradient steps count its own."""
    if not isinstance(before, Mapping):
        return {} if before is None else {"began with": f"`{before}`"}
    steps = f"{before['env_steps']:,} environment and {before['gradient_steps']:,} gradient steps"
    return {"began with": f"`{before['model']}`, after {steps}"}


def _changes(changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was changed where the run was resumed; the command has the newest settings."""
    told = [f"at step {one['env_steps']:,} {one['changed']}" for one in changes]
    return {"changed on the way": "; ".join(told)} if told else {}


def _duration(seconds: float) -> str:
    """``_duration(3725) == "1 h 2 min 5 s"``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + (f"{minutes} min " if hours or minutes else "") + f"{rest} s"


def _weights(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "networks": card["holds"],
        "numbers": f"{card['parameters']:,}",
        "precision": card["precision"],
        "size": format_bytes(card["bytes"]),
    }


def _video(card: Mapping[str, Any]) -> str:
    video = card["video"]
    if video is None:
        return f"There is no video: `{card['task']}` draws no pictures."
    how = " with sampled actions" if card["evaluation"]["acting"] == "sampled" else ", by the actor's mode"
    length = (
        f"a whole episode of {video['steps']} steps" if video["whole"] else f"an episode's first {video['steps']} steps"
    )
    text = f"{length}, seed {video['seed']}, return {video['return']:.2f}"
    return (
        f"[video.mp4](video.mp4): the agent of this package playing{how}, {text}.\n\n"
        '<video src="video.mp4" controls muted></video>'
    )


def _dream(card: Mapping[str, Any]) -> str:
    dream = card["dream"]
    drawn = "" if card["holds"] == WHOLE else " Drawn with all networks of the trained agent, before packing."
    return (
        f"![Truth, dream and error](dream.png)\n\nThe world model's dream beside the truth, in an episode of seed "
        f"{dream['seed']}: {dream['context']} observations are seen, then {dream['horizon']} steps are dreamt from the "
        f"actions alone.{drawn}"
    )
