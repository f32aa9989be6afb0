"""Packages of trained models: what they hold, that they act like the agent, and that a wrong one is found out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.env_util import make_vec_env

from hd_agents import HarmonyDreamAgent, zoo
from hd_agents.cli import main, pictures
from hd_agents.envs import namespace
from hd_agents.evaluation import PROTOCOLS, ActorsMode, Evaluation, evaluate
from hd_agents.evaluation.scores import prediction_interval
from hd_agents.files import sha256_of
from hd_agents.films import filming
from hd_agents.saving.jsonable import ArchiveError
from hd_agents.zoo import packages
from tests.agents import tiny
from tests.suites import NEEDS, require

RUN = {"command": "hd-agents train", "commit": "abc", "machine": "a desk", "seed": 3, "wall_seconds": 1.5}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a tiny CartPole agent and the facts of its training."""
    folder = tmp_path_factory.mktemp("run")
    agent = tiny(seed=3, tensorboard_log=str(folder / "secret")).learn(40)
    agent.save(folder / "agent.zip")
    (folder / "run.json").write_text(json.dumps({"task": "CartPole-v1", **RUN}))
    return folder


@pytest.fixture(scope="module")
def root(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo folder that the CartPole agent was packed into."""
    folder = tmp_path_factory.mktemp("zoo")
    target = folder / "pretrained" / "classic" / "CartPole"
    zoo.pack(saved / "agent.zip", "CartPole-v1", episodes=20, full=False, target=target, device="cpu")
    return folder


@pytest.fixture
def shipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, in the place of the package's own zoo folder; gives the package's folder."""
    for module in ("models", "packing"):
        monkeypatch.setattr(f"hd_agents.zoo.{module}.folder", lambda: root)
    return root / "pretrained" / "classic" / "CartPole"


def test_a_package_holds_what_acting_needs(shipped: Path, saved: Path) -> None:
    assert {path.name for path in shipped.iterdir()} == {"card.json", *packages.FILES}
    assert {path.name for path in shipped.parent.iterdir()} == {"CartPole"}
    weights = load_file(shipped / "weights.safetensors")
    agent = HarmonyDreamAgent.load(saved / "agent.zip", device="cpu")
    networks = {key.split(".")[1] if "actor" in key else key.split(".")[2] for key in weights}
    assert networks == {"actor", "encoder", "rssm"}
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())
    state = agent.policy.state_dict()
    assert all(torch.equal(tensor, state[key].half()) for key, tensor in weights.items())
    text = (shipped / "agent.json").read_text()
    for private in ("secret", "ep_info_buffer", '"seed"', "system_info"):
        assert private not in text


def test_the_card_says_where_it_comes_from_and_what_it_scores(shipped: Path) -> None:
    card = zoo.card("classic/cartpole")
    assert card.items() >= {**RUN, "task": "CartPole-v1", "name": "classic/CartPole", "env_steps": 40}.items()
    assert card["gradient_steps"] == zoo.load("CartPole-v1")._n_updates == 1
    assert (
        card["evaluation"]["returns"]
        == evaluate(zoo.load("CartPole-v1"), "CartPole-v1", 20, seed=10_000, n_envs=10).returns
    )
    low, high = card["interval"]
    assert low < card["evaluation"]["mean_return"] < high
    assert card["bytes"] == (shipped / "weights.safetensors").stat().st_size
    assert card["bytes"] < 2 * card["parameters"] + 3_000
    row = zoo.results()[0]
    assert row["mean_return"] == card["evaluation"]["mean_return"]
    assert row["interval"] == [low, high]
    assert zoo.results("atari100k") == []


def test_a_loaded_model_acts_like_the_agent(shipped: Path, saved: Path) -> None:
    """In half precision, so states agree to three digits; nothing that acting uses is missing."""
    assert zoo.pretrained() == ["classic/CartPole"]
    agent = HarmonyDreamAgent.load(saved / "agent.zip", device="cpu")
    packed = zoo.load("classic/CartPole", device="cpu")
    assert packed.num_timesteps == 40
    assert packed.seed is None  # whoever loads it goes on with random numbers of their own
    rng, ours, theirs = np.random.default_rng(0), None, None
    for _ in range(20):
        obs = rng.normal(size=(3, 4)).astype(np.float32)
        _, ours = packed.predict(obs, ours, np.zeros(3, bool), deterministic=True)
        _, theirs = agent.predict(obs, theirs, np.zeros(3, bool), deterministic=True)
        assert np.allclose(ours[0], theirs[0], atol=5e-3)
        ours = theirs  # a latent that tips over to another class is no error


def test_what_the_package_lacks_is_refused_not_made_up(shipped: Path, tmp_path: Path) -> None:
    packed = zoo.load(shipped)
    with pytest.raises(ValueError, match="full=True"):
        packed.learn(1)
    for taught in (lambda: packed.train(1), lambda: packed.add_episode([])):
        with pytest.raises(ValueError, match="cannot learn on"):
            taught()
    with pytest.raises(ValueError, match="full=True"):
        packed.imagine(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"copy the folder of the package.*full=True"):
        packed.save(tmp_path / "agent")
    assert not list(tmp_path.iterdir())
    networks = packed.policy.networks
    assert all(weight.isnan().all() for weight in networks.critic.parameters())
    assert all(weight.isfinite().all() for weight in networks.actor.parameters())


@pytest.mark.parametrize("bits", [16, 32])
def test_a_full_package_learns_on(bits: int, saved: Path, tmp_path: Path) -> None:
    zoo.pack(saved / "agent.zip", "classic/CartPole", episodes=2, target=tmp_path / "a", bits=bits)
    agent, packed = HarmonyDreamAgent.load(saved / "agent.zip", device="cpu"), zoo.load(tmp_path / "a", device="cpu")
    state, close = packed.policy.state_dict(), {32: 0.0, 16: 1e-3}[bits]
    for key, tensor in agent.policy.state_dict().items():
        torch.testing.assert_close(state[key], tensor, rtol=close, atol=1e-7 if close else 0.0)
        assert tensor.ndim or torch.equal(state[key], tensor), key  # the range of returns, coefficients
    assert type(packed) is HarmonyDreamAgent
    packed.set_env(zoo.make_env("CartPole-v1"))
    before = packed._n_updates
    packed.learn(60)
    assert packed._n_updates > before
    assert packed.imagine(np.zeros(4, np.float32), horizon=2).rewards.shape == (2,)


def test_a_package_learns_on_in_another_number_of_environments(tmp_path: Path) -> None:
    agent = tiny(env=make_vec_env("CartPole-v1", n_envs=3)).learn(60)
    target = tmp_path / "a"
    packages.seal(target, packages.write(agent, target))
    for count in (1, 2, 3):
        packed = packages.read(target, "cpu")
        packed.set_env(make_vec_env("CartPole-v1", n_envs=count))
        assert packed.learn(60)._n_updates > agent._n_updates


def test_verification_repeats_the_evaluation(shipped: Path) -> None:
    found = zoo.verify("classic/CartPole")
    card = zoo.card("classic/CartPole")
    assert found.passed
    assert found.evaluation.returns == card["evaluation"]["returns"]
    assert [found.low, found.high] == card["interval"]
    fewer = zoo.verify("classic/CartPole", episodes=5)
    assert fewer.evaluation.seeds == found.evaluation.seeds[:5]
    assert fewer.high - fewer.low > found.high - found.low
    assert (fewer.low, fewer.high) == prediction_interval(card["evaluation"]["returns"], 5, 0.99)


@pytest.mark.parametrize(("offset", "status"), [(0.0, 0), (30.0, 1), (-30.0, 1)])
def test_verification_fails_when_the_score_left_the_interval(
    offset: float, status: int, shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = zoo.card(shipped)["evaluation"]

    def changed(*arguments: Any, **named: Any) -> Evaluation:
        fields = {key: stated.get(key, {}) for key in Evaluation._fields}
        return Evaluation(**{**fields, "returns": [value + offset for value in stated["returns"]]})

    monkeypatch.setattr("hd_agents.zoo.models.evaluate", changed)
    assert main(["zoo", "verify", "classic/CartPole"]) == status
    assert ("FAILED" in capsys.readouterr().out) == bool(status)


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
def test_a_changed_or_lost_file_is_found_out(name: str, shipped: Path, tmp_path: Path) -> None:
    broken = copy(shipped, tmp_path / "a")
    raw = bytearray((broken / name).read_bytes())
    raw[-2] ^= 1
    (broken / name).write_bytes(raw)
    with pytest.raises(ArchiveError, match=rf"{name}.*checksum"):
        zoo.load(broken)
    (broken / name).unlink()
    with pytest.raises(ArchiveError, match=rf"{name} is missing"):
        zoo.load(broken)


def rewrite_card(folder: Path, **changes: Any) -> None:
    """With checksums that fit, as someone does who edits a package on purpose."""
    sums = {name: sha256_of(folder / name) for name in ("agent.json", "weights.safetensors")}
    card = {**json.loads((folder / "card.json").read_text()), "sha256": sums, **changes}
    (folder / "card.json").write_text(json.dumps(card))


def test_a_package_chooses_no_place_and_no_seed(shipped: Path, tmp_path: Path) -> None:
    edited = copy(shipped, tmp_path / "a")
    data = json.loads((edited / "agent.json").read_text())
    (edited / "agent.json").write_text(json.dumps({**data, "tensorboard_log": "elsewhere", "seed": 3, "verbose": 2}))
    rewrite_card(edited)
    torch.manual_seed(7)
    wanted = zoo.load(shipped), torch.rand(())
    torch.manual_seed(7)
    agent, drawn = zoo.load(edited), torch.rand(())
    assert (agent.tensorboard_log, agent.seed, agent.verbose) == (None, None, 0)
    assert drawn == wanted[1]


def test_weights_of_another_agent_are_refused(shipped: Path, tmp_path: Path) -> None:
    broken = copy(shipped, tmp_path / "a")
    weights = load_file(broken / "weights.safetensors")
    key = next(iter(weights))
    for change, message in (
        ({key: weights[key][:1]}, "expected"),
        ({"other": weights[key].clone()}, "other is only in the archive"),
    ):
        save_file({**weights, **change}, broken / "weights.safetensors")
        rewrite_card(broken)
        with pytest.raises(ArchiveError, match=message):
            zoo.load(broken)
    (broken / "weights.safetensors").write_bytes((shipped / "weights.safetensors").read_bytes())
    data = json.loads((broken / "agent.json").read_text())
    for document, message in (
        ({**data, "num_timesteps": "many"}, "num_timesteps is 'many'"),
        ({**data, "policy_kwargs": {"units": "many"}}, rf"The package {broken} cannot be used"),
        ({"__type__": "tuple", "items": []}, "holds a tuple where an object is expected"),
    ):
        (broken / "agent.json").write_text(json.dumps(document))
        rewrite_card(broken)
        with pytest.raises(ArchiveError, match=message):
            zoo.load(broken)
    (broken / "weights.safetensors").write_bytes(b"nothing")
    rewrite_card(broken)
    with pytest.raises(ArchiveError, match="damaged"):
        zoo.load(broken)
    for text in ("[]", "{", "[" * 100_000, '{"format": "hd_agents package", "format_version": 2}'):
        (broken / "card.json").write_text(text)
        with pytest.raises(ArchiveError, match=r"JSON|checksum"):
            zoo.load(broken)
    (broken / "card.json").write_bytes((shipped / "card.json").read_bytes())
    rewrite_card(broken, format_version=3)
    with pytest.raises(ArchiveError, match="reads 'hd_agents package' 2 only"):
        zoo.load(broken)
    rewrite_card(broken, format_version=2, format="another package")
    with pytest.raises(ArchiveError, match="has the format 'another package'"):
        zoo.load(broken)


def test_packing_needs_the_facts_and_an_empty_place(shipped: Path, saved: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "agent.zip"
    lonely.write_bytes((saved / "agent.zip").read_bytes())
    with pytest.raises(ValueError, match=", ".join(RUN)):
        zoo.pack(lonely, "classic/CartPole", episodes=1, target=tmp_path / "a")
    with pytest.raises(FileExistsError, match="remove it"):
        zoo.pack(saved / "agent.zip", "classic/CartPole", episodes=1)
    with pytest.raises(ValueError, match="spaces do not match"):
        zoo.pack(lonely, "Acrobot-v1", RUN, episodes=1, target=tmp_path / "a")
    with pytest.raises(FileExistsError, match="remove it"):
        zoo.pack(lonely, "classic/CartPole", RUN, episodes=1, target=lonely)
    assert {path.name for path in tmp_path.iterdir()} == {"agent.zip"}


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    agent = tiny()
    next(agent.policy.networks.actor.parameters()).data[0] = 1e6
    with pytest.raises(ValueError, match="half precision"):
        packages.write(agent, tmp_path)


def test_a_task_without_a_model(shipped: Path) -> None:
    with pytest.raises(ValueError, match="there is one for: classic/CartPole"):
        zoo.load("atari100k/pong")


def test_shipped_models_are_intact() -> None:
    """Whatever ships is in its place, loads, and states everything."""
    for name in zoo.pretrained():
        card = zoo.card(name)
        zoo.load(name, device="cpu")
        assert card["name"] == name in zoo.list()
        drawn_slowly = name.startswith("metaworld/")  # 100 episodes are an hour of drawing without a GPU
        assert card["evaluation"]["episodes"] == (20 if drawn_slowly else 100)


def test_command_line(shipped: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = ["zoo", "pack", str(saved / "agent.zip"), "classic/cartpole", "--episodes", "2"]
    assert main([*pack, "--folder", str(tmp_path / "whole")]) == 0
    assert "MB, holds all networks, float16" in capsys.readouterr().out
    assert main([*pack, "--folder", str(tmp_path / "model"), "--acting-only"]) == 0
    assert "MB, holds what acting needs" in capsys.readouterr().out
    assert main(pack) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["list", "--pretrained"]) == 0
    assert re.fullmatch(r"classic/CartPole  CartPole-v1  model: \d+\.\d\n", capsys.readouterr().out)
    assert main(["list", "metaworld", "lever"]) == 0
    assert capsys.readouterr().out == "metaworld/lever-pull  metaworld/lever-pull-v0\n"
    assert main(["list", "nonsense"]) == 2
    assert main(["zoo", "verify", "atari100k/pong"]) == 2
    capsys.readouterr()
    command = ["evaluate", "classic/CartPole", "--episodes", "3", "--seed", "10000", "--model"]
    assert main([*command, "classic/CartPole"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [10_000, 10_001, 10_002]


def test_enjoy_films_a_model(shipped: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("classic/CartPole", str(saved / "agent.zip")):
        assert main(["enjoy", model, "--episodes", "2", "--video", str(tmp_path / "new" / "a.mp4")]) == 0
        printed = capsys.readouterr().out
        assert len(re.findall(r"seed \d: return \d+ in \d+ steps", printed)) == 2
        assert (tmp_path / "new" / "a.mp4").stat().st_size > 1_000
        (tmp_path / "new" / "a.mp4").unlink()


def test_films_are_played_by_the_rule_of_the_scores(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PROTOCOLS, namespace("CartPole-v1"), ("mode", 10))
    players: list[Any] = []
    play = filming.play
    monkeypatch.setattr(filming, "play", lambda *rest, player: players.append(player) or play(*rest, player=player))
    assert main(["enjoy", str(saved), "--episodes", "2", "--dream", str(tmp_path / "dream.png")]) == 0
    assert [type(player) for player in players] == [ActorsMode] * 2
    assert (tmp_path / "dream.png").is_file()
    agent = HarmonyDreamAgent.load(saved / "agent.zip", device="cpu")
    pictures.leave(agent, zoo.training.plan("CartPole-v1"), 0, tmp_path)
    assert [type(player) for player in players] == [ActorsMode] * 5
    capsys.readouterr()
    evaluated = evaluate(agent, "CartPole-v1", 1, seed=0)
    assert evaluated.acting == "mode"
    assert sum(play(agent, zoo.make_env("CartPole-v1"), 0, player=players[0]).rewards) == evaluated.returns[0]


def test_enjoy_draws_a_dream(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "dream.png"
    assert main(["enjoy", str(saved), "--episodes", "1", "--dream", str(picture)]) == 0
    assert re.search(r"dream.png  \d+ observations seen, \d+ steps dreamt\n$", capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["enjoy", str(saved), "--episodes", "1", "--dream", str(tmp_path / "dream.xyz")]) == 2
    assert "xyz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["atari100k/pong"], "No trained model ships"),
        (["nowhere.zip"], "no saved agent"),
        (
            ["classic/CartPole", "--task", "Acrobot-v1"],
            "the model classic/CartPole cannot play Acrobot-v1: Observation spaces",
        ),
        (["classic/CartPole", "--video", "v.gif"], "use v.mp4"),
        (["classic/CartPole", "--dream", "d.png"], "packed for acting only, and cannot dream"),
    ],
)
def test_enjoy_mistakes(arguments: list[str], message: str, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enjoy", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_agent_without_facts_needs_a_task(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lonely = tmp_path / "agent.zip"
    lonely.write_bytes((saved / "agent.zip").read_bytes())
    assert main(["enjoy", str(lonely)]) == 2
    assert "--task" in capsys.readouterr().err
    assert main(["enjoy", str(lonely), "--task", "classic/CartPole", "--episodes", "1"]) == 0
    assert "--video" in capsys.readouterr().out


@pytest.mark.parametrize("name", zoo.pretrained())
def test_shipped_models_load_act_and_dream(name: str) -> None:
    if name.partition("/")[0] in NEEDS:
        require(name)
    agent, env = zoo.load(name, device="cpu"), zoo.make_env(name)
    obs, _ = env.reset(seed=0)
    assert env.action_space.contains(
        np.asarray(agent.predict(obs, None, np.ones(1, bool))[0]).reshape(env.action_space.shape)
    )
    assert {"command", "commit", "machine", "seed", "env_steps", "wall_seconds"} <= zoo.card(name).keys()
    assert type(agent) is HarmonyDreamAgent
    assert np.isfinite(agent.imagine(obs, horizon=2).rewards).all()


def test_a_shipped_model_still_scores_what_its_card_says() -> None:
    found = zoo.verify("classic/CartPole", episodes=10)
    assert found.passed, found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda card: card.pop("evaluation"), "evaluation, evaluation.task"),
        (lambda card: card["evaluation"].update(returns="abc"), "evaluation.returns as every card does"),
        (lambda card: card["evaluation"].update(returns=["a"]), "evaluation.returns as every card does"),
        (lambda card: card["evaluation"].update(returns=[10**400]), "evaluation.returns as every card does"),
        (lambda card: card["evaluation"].update(mean_return=float("nan")), "evaluation.mean_return as every card does"),
        (lambda card: card.update(interval=[1.0]), "interval as every card does"),
        (lambda card: card.update(interval=[1.0, 2.0, 3.0]), "interval as every card does"),
        (lambda card: card["evaluation"].update(episodes=True), "evaluation.episodes"),
        (lambda card: card["evaluation"].update(episodes=1), "evaluation.episodes, evaluation.n_envs"),
        (lambda card: card["evaluation"].update(seeds=[1]), "evaluation.episodes, evaluation.n_envs"),
        (lambda card: card["evaluation"].update(n_envs=10**9), "evaluation.episodes, evaluation.n_envs"),
        (lambda card: card["evaluation"].update(n_envs=0), "evaluation.episodes, evaluation.n_envs"),
        (lambda card: card.update(interval=[]), "interval"),
        (lambda card: card.update(name=5), "name"),
    ],
)
def test_cards_that_do_not_state_what_is_read_of_them(
    change: Any, told: str, shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copy(shipped, tmp_path / "a")
    card = json.loads((broken / "card.json").read_text())
    change(card)
    (broken / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArchiveError, match=rf"card.json does not state {told}"):
        zoo.card(broken)
    assert main(["zoo", "verify", str(broken)]) == 1
    assert f"does not state {told}" in capsys.readouterr().out
