"""`hd-agents tune`: search for hyper-parameters with Optuna, in a study that can be interrupted and gone on with."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from hd_agents import HarmonyDreamAgent
from hd_agents.cli import flags
from hd_agents.cli.curves import EVALUATION_ENVS
from hd_agents.cli.errors import FAILED, UsageError, checked, require
from hd_agents.cli.running import locked
from hd_agents.cli.study import (
    ORIGIN,
    STUDY,
    finished,
    full_disk_as_oserror,
    open_storage,
    open_study,
    origin,
    write_best,
)
from hd_agents.cli.tasks import allow_tensor_cores, class_in, plan_of, try_agent
from hd_agents.envs.closing import close
from hd_agents.evaluation import evaluate
from hd_agents.progress import bar_is_seen
from hd_agents.zoo import search_space
from hd_agents.zoo.search_space import Space
from hd_agents.zoo.setting_names import OF_RUN, settable
from hd_agents.zoo.training import Plan

NEEDED = ("optuna", "tqdm", "yaml")
TRIALS_SEED = 20_000  # of the first episode that judges a trial; not those that `zoo pack` judges the chosen agent by
BEST = "best.yml"
INTERRUPTED = 130


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `tune` and its flags to the command line."""
    parser = commands.add_parser(
        "tune",
        help="search for hyper-parameters; leaves the best as a row of the zoo",
        description="Train a task again and again with values that Optuna chooses (TPE), stop trials that fall behind "
        "the median, and leave the best as a row of the zoo in best.yml, beside study.db with all trials. Ctrl-C keeps "
        "the study, and the same command continues it.",
    )
    parser.add_argument("task", help="a name of `hd-agents list`, or a Gymnasium id")
    parser.add_argument(
        "--trials", type=flags.count, default=20, help="number of trials, earlier ones included (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=flags.seed, default=0, help="seed of the first trial; the others follow (default: 0)"
    )
    parser.add_argument("--space", type=Path, metavar="YML", help="what to search (default: the zoo's tuning.yml)")
    parser.add_argument(
        "--evaluations", type=flags.count, default=5, help="evaluations per trial, evenly spread (default: 5)"
    )
    parser.add_argument(
        "--episodes", type=flags.count, default=10, help="episodes per evaluation (default: %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="folder of the study (default: runs/<task>_tune)")
    flags.add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Search as asked and return the exit status: 0, FAILED where no trial succeeded, 130 after Ctrl-C."""
    require("tune", *NEEDED)
    plan = plan_of(options)
    allow_tensor_cores(options.device)
    space = checked(lambda: search_space.read(options.space))
    if unknown := [str(key) for key in space if key not in settable(plan.agent_class) or key in OF_RUN]:
        raise UsageError(f"{', '.join(unknown)}: no argument of HarmonyDreamAgent that can be tuned.")
    whole = space  # which the study is known by
    fixed = {setting.partition("=")[0].partition(".")[0].strip() for setting in options.settings}
    fixed |= {"size"} if options.size is not None else set()
    space = {key: values for key, values in space.items() if key not in fixed}
    if not space:
        raise UsageError("--set fixes all that is searched: leave some to the search, or give it more by --space.")
    usual = _usual(plan, space, options.device)
    folder = options.folder or flags.RUNS / f"{plan.task.replace('/', '-')}_tune"
    with locked(folder), full_disk_as_oserror(folder), open_storage(folder) as storage:
        study = open_study(storage, folder, plan, whole, options)
        if not any(trial.state.name in ("COMPLETE", "PRUNED", "WAITING") for trial in study.trials):
            study.enqueue_trial(usual)
        return _search(study, plan, space, folder, options)


def _usual(plan: Plan, space: Space, device: str) -> dict[str, Any]:
    """The task's own values, as far as the space has them. Raises UsageError where these make no agent."""
    agent = try_agent(plan, device)
    return search_space.within({**{key: getattr(agent, key, None) for key in space}, **plan.arguments}, space)


def _search(study: Any, plan: Plan, space: Space, folder: Path, options: argparse.Namespace) -> int:
    """Play the trials that are left, and print the best."""
    status, here = 0, origin(options.device)

    def play(trial: Any) -> float:
        trial.set_user_attr(ORIGIN, here)
        return _play(trial, plan, space, options)

    try:
        study.optimize(
            play,
            n_trials=max(0, options.trials - finished(study)),
            catch=(TrialFailed,),
            callbacks=[lambda study, trial: _tell(study, trial, plan, folder / BEST, options)],
        )
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on with the study.", flush=True)
        status = INTERRUPTED
    told = (folder / BEST).read_text(encoding="utf-8") if (folder / BEST).is_file() else ""
    if f"# Best of {finished(study)} trials" not in told:  # the last sitting was killed before it had written it
        write_best(study, plan, folder / BEST, options)
    print(f"{finished(study)} of {options.trials} trials in {folder / STUDY}")
    if (folder / BEST).is_file():
        print(f"The best of them, in {folder / BEST}:\n\n{(folder / BEST).read_text(encoding='utf-8')}")
        command = ["hd-agents", "train", options.task, "--preset", str(folder / BEST), "--seed", "1"]
        command += [f"--set=agent_class={own}" for own in [class_in(options.settings)] if own]
        print(f"To train by it: {shlex.join(command)}")
        return status
    return status or FAILED


class TrialFailed(Exception):
    """A trial that an error ended; the cause is the error itself."""


class _Watch(BaseCallback):
    """Evaluates now and then, reports to the trial, and ends the training of one that falls behind."""

    def __init__(self, trial: Any, every: int, judge: partial[float]) -> None:
        super().__init__()
        self._trial, self._every, self._judge = trial, every, judge
        self._next = every
        self.pruned = False

    def _on_step(self) -> bool:
        # The last evaluation is made after the training.
        if self.num_timesteps >= self._next and self._next + self._every <= self.locals["total_timesteps"]:
            self._next += self._every
            self._trial.report(self._judge(self.model), self.num_timesteps)
            self.pruned = self._trial.should_prune()
        return not self.pruned


def _play(trial: Any, plan: Plan, space: Space, options: argparse.Namespace) -> float:
    """One trial: train with suggested values, and give the mean return at the end."""
    import optuna

    found = search_space.suggest(trial, space)
    arguments = search_space.applied(plan.arguments, found)
    trial.set_user_attr("row", plan._replace(arguments=arguments).row())
    print(f"trial {trial.number}: " + ", ".join(f"{key}={arguments[key]}" for key in found), flush=True)
    seed = options.seed + trial.number
    env = plan.make_envs(seed)
    judge = partial(_score, plan=plan, episodes=options.episodes)
    watch = _Watch(trial, max(1, plan.steps // options.evaluations), judge)
    try:
        agent = checked(partial(plan.agent_class, env=env, seed=seed, device=options.device, **arguments))
        with _failing(trial):
            agent.learn(plan.steps, callback=watch, log_interval=None, progress_bar=bar_is_seen())
    finally:
        close(env)
    if watch.pruned:
        raise optuna.TrialPruned
    with _failing(trial):
        score = judge(agent)
    trial.report(score, agent.num_timesteps)
    return score


@contextmanager
def _failing(trial: Any) -> Iterator[None]:
    """Numbers that break, or whatever an environment does, end the trial alone: the others go on."""
    try:
        yield
    except Exception as error:
        trial.set_user_attr("error", str(error).partition("\n")[0] or repr(error))
        raise TrialFailed from error


def _score(agent: HarmonyDreamAgent, plan: Plan, episodes: int) -> float:
    found = evaluate(agent, plan.task, episodes, seed=TRIALS_SEED, n_envs=EVALUATION_ENVS, env_kwargs=plan.env_kwargs)
    return sum(found.returns) / episodes


def _tell(study: Any, trial: Any, plan: Plan, path: Path, options: argparse.Namespace) -> None:
    """One line about a trial that has ended, and the best one so far in its file."""
    ended = {"COMPLETE": "return {:.2f}", "PRUNED": "behind the median with return {:.2f}: stopped early"}
    last = trial.intermediate_values.get(trial.last_step, float("nan"))
    text = ended.get(trial.state.name, "").format(last) or f"failed: {trial.user_attrs.get('error')}"
    print(f"trial {trial.number}: {text}", flush=True)
    write_best(study, plan, path, options)
