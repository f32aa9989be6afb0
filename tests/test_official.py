"""Agreement with the official code, number for number, and the import of its weights.

The cases come from the folder ``HD_GOLDEN_DIR``, else from the copy in tests/data/golden; see golden_case.py for what
they hold, golden_checks.py for what is compared, docs/fidelity.md for the table and the tolerances.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import gymnasium
import numpy as np
import pytest
import torch
from golden_case import KEPT, Case, case_names, classes, folder, state, unsupported
from golden_checks import PARTS
from golden_report import strip
from gymnasium import spaces

from hd_agents import HarmonyDreamAgent, official
from hd_agents.backbones import objectives
from hd_agents.nn import products

CASES = case_names(folder())
OURS = [name for name in case_names(KEPT) if not unsupported(KEPT, name)]
FILES = {"world model": "wm"}


def case(name: str, where: Path | None = None) -> Case:
    """A case, or a skip that says why it is none."""
    where = where or folder()
    reason = unsupported(where, name)
    if reason:
        pytest.skip(reason)
    return Case(where, name)


def test_folder_has_cases() -> None:
    assert any(unsupported(folder(), name) is None for name in CASES), f"no case for us in {folder()}"


def test_a_folder_without_cases_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(tmp_path) == 1
    assert "nothing was compared" in capsys.readouterr().out


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_official(name: str, part: str, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With either library's matrix products."""
    found = case(name)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: onednn)
    monkeypatch.setattr(products, "LARGE", 0)
    if not (found.where / f"{name}_{FILES.get(part, part)}.npz").exists():
        pytest.skip(f"{name} has no file for this part")
    rows = PARTS[part](found)
    beyond = [f"{row.quantity}: {row.error:.2e} > {row.tolerance:.0e}" for row in rows if not row.passed]
    assert rows
    assert not beyond, "\n".join(beyond)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_arrives_once(name: str) -> None:
    found = case(name)
    networks = found.networks()
    back = found.parts(dict(networks.state_dict()), networks)
    for key, value in found.params.items():
        if official.UNUSED.search(key) and key not in back:
            continue
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_stays_near(name: str) -> None:
    """Rounding to 8 bits: losses within 1 %, the gradient of the total within 3 % in norm and 0.995 in direction."""
    found = case(name)
    data = found.part("wm")
    batch, start = found.batch(strip(data, "data/"), data.get("state_in/action")), state(data, "state_in/")
    losses, slopes = [], []
    for enabled in (False, True):
        networks = found.networks()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = networks.world_model.losses(batch, classes(data["post/stoch"]), start)
        total, _ = networks.harmonizer(output.losses)
        total.backward()
        means = {key: float(loss.detach().float().mean()) for key, loss in output.losses.items()}
        losses.append(means | {"total": float(total.detach())})
        grads = [p.grad for p in networks.world_model.parameters() if p.grad is not None]
        slopes.append(torch.cat([grad.flatten() for grad in grads]))
    for key, exact in losses[0].items():
        assert losses[1][key] == pytest.approx(exact, rel=0.01, abs=0.01), key
    assert float(slopes[1].norm() / slopes[0].norm()) == pytest.approx(1.0, abs=0.03)
    assert float(torch.cosine_similarity(slopes[0], slopes[1], 0)) > 0.995


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.compile's own
@pytest.mark.parametrize("name", CASES)
def test_compiled_world_model_agrees(name: str) -> None:
    """Compiled, the losses stay within 1e-5 and the gradient of the total within 1e-3 of the largest entry."""
    found = case(name)
    data = found.part("wm")
    batch, start = found.batch(strip(data, "data/"), data.get("state_in/action")), state(data, "state_in/")
    totals, slopes = [], []
    for compiled in (False, True):
        torch.compiler.reset()  # else the unimix of the case before makes this one's a variable
        networks = found.networks()
        losses = torch.compile(networks.world_model.losses) if compiled else networks.world_model.losses
        total, _ = networks.harmonizer(losses(batch, classes(data["post/stoch"]), start).losses)
        total.backward()
        totals.append(total.detach())
        slopes.append([parameter.grad for parameter in networks.world_model.parameters()])
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-5, atol=1e-5)
    for eager, other in zip(*slopes, strict=True):
        if eager is not None:
            torch.testing.assert_close(other, eager, rtol=0, atol=1e-3 * float(eager.abs().max()) + 1e-9)


@pytest.mark.parametrize("name", OURS)
def test_networks_for_the_spaces_of_an_environment(name: str) -> None:
    found = case(name, KEPT)
    size = found.model.action_size
    actions = spaces.Discrete(size) if found.discrete else spaces.Box(-1, 1, (size,))
    shapes = found.model.vectors
    if found.model.images:
        observations: spaces.Space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    else:
        observations = spaces.Dict({key: spaces.Box(-9, 9, (width,)) for key, width in shapes.items()})
    model = official.for_spaces(found.params, observations, actions, classes=5)
    networks = model.networks()
    official.load(found.params, networks)
    assert list(model.images) == (["observation"] if found.model.images else [])
    for key, value in found.networks().state_dict().items():
        torch.testing.assert_close(networks.state_dict()[key], value, rtol=0, atol=0, msg=key)
    wrong = spaces.Box(-1, 1, (size,)) if found.discrete else spaces.Discrete(size)
    for space in (wrong, spaces.Box(-1, 1, (size + 1,))):
        with pytest.raises(ValueError, match=f"has {size} .* actions, but"):
            official.for_spaces(found.params, observations, space, classes=5)
    with pytest.raises(ValueError, match="one key"):
        official.for_spaces(
            found.params,
            spaces.Dict({key: spaces.Box(0, 255, (64, 64, 3), np.uint8) for key in "ab"}),
            actions,
            classes=5,
        )


@pytest.mark.parametrize("name", OURS)
def test_sizes_are_the_configuration(name: str) -> None:
    found = case(name, KEPT)
    config, sizes = found.config, found.model.overrides
    assert sizes["deter"] == config["rssm"]["deter"]
    assert sizes["hidden"] == config["rssm"]["units" if found.jax else "hidden"]
    assert sizes["stoch"] == config["rssm"]["stoch"]
    assert (sizes["units"], sizes["layers"]) == (config["actor"]["units"], config["actor"]["layers"])
    assert sizes["predict_continue"] == (found.jax or config["pred_discount"])
    assert found.model.action_size == found.meta["spec"]["action"]["n"]
    assert found.discrete == (found.meta["spec"]["action"]["kind"] == "discrete")
    if found.model.images:
        assert sizes["depth"] == config["encoder"]["cnn_depth"]
        assert found.model.images == {"image": (64, 64, 3)}
    else:
        assert found.model.vectors == found.meta["spec"]["vectors"]


@pytest.fixture(scope="module")
def wmlib() -> Case:
    return case("a2_v2_disc", KEPT)


@pytest.fixture(scope="module")
def jax() -> Case:
    return case("b3_jax_image_cont_metaworld", KEPT)


def test_latent_shape_must_be_told_when_not_square(jax: Case) -> None:
    with pytest.raises(ValueError, match=r"20 latent units .* pass classes="):
        official.sizes(jax.params)


def test_files_tensors_and_prefixes(wmlib: Case, jax: Case, tmp_path: Path) -> None:
    torch.save(
        {key: torch.from_numpy(np.asarray(value)) for key, value in wmlib.params.items()}, tmp_path / "variables.pt"
    )
    np.savez(tmp_path / "jax.npz", **{f"checkpoint/{key}": value for key, value in jax.params.items()})
    for found, file in ((wmlib, "variables.pt"), (jax, "jax.npz")):
        params = official.read(tmp_path / file)
        networks = official.sizes(params, classes=5).networks()
        official.load(params, networks)
        for key, value in found.networks().state_dict().items():
            torch.testing.assert_close(networks.state_dict()[key], value, rtol=0, atol=0, msg=key)
    with pytest.raises(ValueError, match=r"variables\.pt"):
        official.read(tmp_path / "checkpoint.ckpt")


def test_wrong_shape_names_tensor_and_both_shapes(wmlib: Case, jax: Case) -> None:
    for found, key, expected in (
        (wmlib, "wm.heads.reward.dense0.weight", r"\(24, 52\)"),
        (wmlib, "_task_behavior.actor.out.out.bias", r"\(5,\)"),
        (jax, "agent/wm/dec/cnn/s1res/kernel", r"\(4, 4, 4, 8\)"),
        (jax, "agent/task_behavior/ac/actor/dist_out/std/kernel", r"\(24, 4\)"),
    ):
        broken = found.params | {key: np.zeros((7, 3), np.float32)}
        with pytest.raises(ValueError, match=rf"{key.removeprefix('agent/')} has shape \(7, 3\).* needs {expected}"):
            official.load(broken, found.networks())


def test_missing_and_unknown_tensors_are_named(wmlib: Case, jax: Case) -> None:
    key = "wm.rssm.img_out_0.bias"
    with pytest.raises(ValueError, match=f"{key} is missing"):
        official.load({name: value for name, value in wmlib.params.items() if name != key}, wmlib.networks())
    with pytest.raises(ValueError, match=r"No place .*wm/rssm/extra \(2,\)"):
        official.load(jax.params | {"agent/wm/rssm/extra": np.zeros(2)}, jax.networks())
    with pytest.raises(ValueError, match="Neither"):
        official.sizes({"policy.weight": np.zeros(3)})


def test_reward_scaling_of_wmlib_is_refused(wmlib: Case) -> None:
    with pytest.raises(ValueError, match=r"rewnorm\.mag"):
        official.sizes(wmlib.params | {"_task_behavior.rewnorm.mag": np.array(2.0)}, classes=5)


def test_weights_trained_without_harmony_start_it_at_one(jax: Case) -> None:
    plain = {key: value for key, value in jax.params.items() if "har_s" not in key}
    found = official.sizes(plain, classes=5)
    assert found.harmony is False
    networks = found.networks(harmony=True)
    official.load(plain, networks)
    assert networks.harmonizer.log_sigma.tolist() == [0.0, 0.0, 0.0]


def test_accidents_are_off_by_default() -> None:
    settings = {"return_lambda": 0.95, "entropy_coefficient": 0.3}
    assert objectives("dreamerv2", discrete=False, **settings).entropy_in_targets == 0.0
    assert objectives("dreamerv2", discrete=False, official_quirks=True, **settings).entropy_in_targets == 0.3
    assert objectives("dreamerv2", discrete=True, official_quirks=True, **settings).entropy_in_targets == 0.0
    assert objectives("dreamerv3", discrete=False, official_quirks=True, **settings).entropy_in_targets == 0.0


class Still(gymnasium.Env[Any, Any]):
    """Spaces and nothing behind them."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """A random observation."""
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Another one."""
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("name", OURS)
def test_an_agent_made_of_an_official_model_predicts_learns_and_is_saved(name: str, tmp_path: Path) -> None:
    found = Case(KEPT, name)
    model = found.model
    vectors = {key: spaces.Box(-1.0, 1.0, (size,), np.float32) for key, size in model.vectors.items()}
    images = [spaces.Box(0, 255, shape, np.uint8) for shape in model.images.values()]
    actions = model.action_size
    action_space = spaces.Discrete(actions) if model.discrete else spaces.Box(-1.0, 1.0, (actions,), np.float32)
    env = Still(images[0] if images else spaces.Dict(vectors), action_space)
    few = {"learning_starts": 9, "batch_size": 2, "sequence_length": 8, "horizon": 3, "train_ratio": 16.0}
    classes = model.overrides["classes"]
    untold = {"free_nats": 0.5, "continue_gradient": False}  # of how it learned, which no array tells
    few |= {"classes": classes, "policy_kwargs": untold}
    agent = HarmonyDreamAgent.from_official(found.params, env, seed=0, **few)
    world_model = agent.policy.networks.world_model
    assert (world_model.kl.free, world_model.continue_gradient) == (0.5, False)
    theirs = found.networks().actor.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in agent.policy.networks.actor.state_dict().items())
    observation = agent.env.reset()
    before = agent.predict(observation, deterministic=True)
    agent.save(tmp_path / "agent")
    after = HarmonyDreamAgent.load(tmp_path / "agent").predict(observation, deterministic=True)
    for one, other in zip((before[0], *before[1]), (after[0], *after[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    random: list[bool] = []
    agent.learn(12, callback=lambda found, _: random.append(found["random"]) or True)
    assert random == [False] * 12  # it has learned, and plays by itself before learning_starts too
    assert agent.learner.updates > model.updates
    wrong = Still(env.observation_space, spaces.Discrete(actions + 1))
    with pytest.raises(ValueError, match="actions"):
        HarmonyDreamAgent.from_official(found.params, wrong, classes=classes)
    shaped = {"backbone": "dreamerv2", "policy_kwargs": {"deter": 8, **untold}}
    with pytest.raises(ValueError, match="backbone, deter: follows from the model"):
        HarmonyDreamAgent.from_official(found.params, env, classes=classes, **shaped)
    with pytest.raises(ValueError, match="classes=0: use a whole number"):
        HarmonyDreamAgent.from_official(found.params, wrong, classes=0)
