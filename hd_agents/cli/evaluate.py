"""`hd-agents evaluate`: how good a saved agent is, as JSON."""

import argparse
import json
import sys
from pathlib import Path

from hd_agents.cli import flags
from hd_agents.cli.errors import UsageError, checked, make_folder
from hd_agents.cli.loading import MODEL, MODELS_OWN, check_spaces, env_kwargs_for, load_model
from hd_agents.cli.tasks import checked_env, task_id
from hd_agents.envs.closing import close
from hd_agents.evaluation import RULES, Evaluation, evaluate
from hd_agents.files import write_text
from hd_agents.progress import bar_is_seen


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `evaluate` and its flags to the command line."""
    parser = commands.add_parser(
        "evaluate",
        help="play episodes with a saved agent and write the results, as JSON",
        description="Play whole episodes with a saved agent by the papers' rules, and write their returns, lengths, "
        "successes and seeds, and the versions of everything, as JSON. The same command gives the same numbers again.",
    )
    parser.add_argument("task", help="a name of `hd-agents list`, or a Gymnasium id")
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument(
        "--episodes",
        type=flags.count,
        help="number of episodes (default: 100 for Atari, 10 for the robotics suites, 20 elsewhere)",
    )
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="paper",
        help="paper: sampled actions in Atari, the actor's mode in a sampled latent state in the robotics suites; "
        "deterministic: the mode of latent state and action (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=flags.seed, default=0, help="seed of the first episode; the others follow (default: 0)"
    )
    parser.add_argument(
        "--n-envs", type=flags.count, default=1, help="number of environments side by side (default: %(default)s)"
    )
    flags.add_env_flag(parser, usual=MODELS_OWN)
    flags.add_device_flag(parser)
    flags.add_class_flag(parser)
    parser.add_argument("--output", type=Path, metavar="JSON", help="file to write (default: standard output)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate as asked and return the exit status: 0."""
    if options.output is not None and options.output.is_dir():  # now, and not when all is played
        raise UsageError(f"--output {options.output} is a folder: give a file's name.")
    agent = load_model(options.model, options.device, options.agent_class)
    task = task_id(options.task)
    env_kwargs = env_kwargs_for(options.model, task, options.env_kwargs)
    env = checked_env(task, env_kwargs)  # says what is missing where there is no such task
    try:
        check_spaces(agent, options.model, task, env)
    finally:
        close(env)
    if options.output is not None:
        make_folder(options.output.parent)
    arguments = (options.episodes, options.rule, options.seed, options.n_envs, bar_is_seen(), env_kwargs)
    found = checked(lambda: evaluate(agent, task, *arguments))
    trained = {"model": options.model, "env_steps": agent.num_timesteps, "gradient_steps": agent._n_updates}
    entries = {**trained, **found.to_json()}.items()  # a line each, as lists of an episode a line are long
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in entries)
    text = f"{{\n{lines}\n}}\n"
    if options.output is None:
        sys.stdout.write(text)
    else:
        checked(lambda: write_text(options.output, text))
    print(summary(found), file=sys.stderr)
    return 0


def summary(found: Evaluation) -> str:
    """One line for people."""
    values = found.to_json()
    made = f" with {dict(found.env_kwargs)}" if found.env_kwargs else ""
    text = f"{found.task}{made}: return {values['mean_return']:.2f} ± {values['std_return']:.2f}"
    if "success_rate" in values:
        text += f", success {values['success_rate']:.0%}"
    if "human_normalized_score" in values:
        text += f", human-normalised {values['human_normalized_score']:.3f}"
    return f"{text} (mean ± deviation of {values['episodes']} episodes, {found.rule} rule: {found.acting})"
