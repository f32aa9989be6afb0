"""What a file declares is compared with what it holds, before anything of that size is built."""

import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import repacked
from gymnasium import spaces

from hd_agents import HarmonyDreamAgent, official
from hd_agents.official.files import read_npz
from hd_agents.policies import MlpPolicy
from hd_agents.saving.archive import ArchiveError, read_archive, write_archive
from hd_agents.saving.vetting import blamed_on
from tests.agents import Clock, tiny


@pytest.fixture(scope="module")
def raw() -> bytes:
    file = io.BytesIO()
    tiny(env=Clock(5), seed=0).learn(40).save(file)
    return file.getvalue()


def with_data(raw: bytes, change: Callable[[dict[str, Any]], Any]) -> io.BytesIO:
    def edit(members: dict[str, bytes]) -> None:
        data = json.loads(members["data"])
        change(data)
        members["data"] = json.dumps(data).encode()

    return repacked(raw, edit)


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["policy_kwargs"].update(units=50_000), r"do not match its settings: .*is \(16, .*expected"),
        (lambda data: data["policy_kwargs"].update(deter=10**30), "cannot be used|do not match"),
        (lambda data: data["policy_kwargs"].update(layers=10**9), "declares layers=1000000000 but holds"),
        (lambda data: data["policy_kwargs"].update(vector_layers=10**9), "declares vector_layers=1000000000 but holds"),
        (lambda data: data["policy_kwargs"].update(bins=10**9), "do not match its settings"),
        (lambda data: data.update(size="xlarge", policy_kwargs={}), "do not match its settings"),
        (lambda data: data["action_space"]["space"].update(n=10**9), "do not match its settings"),
        (lambda data: data.update(n_envs=10**9), "n_envs is 1000000000: expected 1 to"),
        (lambda data: data.update(num_timesteps="many"), "num_timesteps is 'many': expected a count"),
        (lambda data: data.update(seed=-1), "seed is -1"),
        (lambda data: data.update(buffer_size=10**30), "buffer_size=.*below 2"),
        (lambda data: data.update(included={"predict": 3}), "includes a value for 'predict'"),
        (lambda data: data.update(included={"num_timesteps": "x"}), "includes a value for 'num_timesteps'"),
        (lambda data: data.update(included={"replay_folder": "evil"}), "includes a value for 'replay_folder'"),
        (lambda data: data.update(included={"tensorboard_log": "evil"}), "includes a value for 'tensorboard_log'"),
        (lambda data: data.update(ep_info_buffer=[{"r": 1.0}]), "ep_info_buffer"),
    ],
)
def test_declarations_that_do_not_fit_are_refused_at_no_cost(
    raw: bytes, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    before = peak()
    with pytest.raises(ValueError, match=message):
        HarmonyDreamAgent.load(with_data(raw, change), device="cpu")
    assert peak() - before < 200_000_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_timesteps", 10**30),
        ("_total_timesteps", -1),
        ("_replay_credit", {"__type__": "float", "value": "inf"}),
        ("_replay_credit", -1.0),
        ("_pretrained", 1),
        ("n_envs", 0),
        ("verbose", 3),
        ("seed", 1 << 32),
        ("tensorboard_log", 3),
        ("frozen_schedules", {"learning_rate": 1}),
        ("ep_info_buffer", [{"r": 1.0, "l": 1.0, "t": 1.0, "x": 1.0}]),
        ("ep_success_buffer", ["x"]),
        ("included", []),
    ],
)
def test_values_of_another_kind_are_refused_by_name(raw: bytes, name: str, value: Any) -> None:
    with pytest.raises(ArchiveError, match=f"The archive's {name} is "):
        HarmonyDreamAgent.load(with_data(raw, lambda data: data.update({name: value})), device="cpu")


def changed(raw: bytes, change: Callable[[dict[str, Any]], Any]) -> io.BytesIO:
    data, tensors = read_archive(io.BytesIO(raw))
    change(tensors)
    file = io.BytesIO()
    write_archive(file, data, tensors)
    file.seek(0)
    return file


def first_moment(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return tensors["learner.model_optimizer"]["state"][0]


def actor_rates(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors["learner.actor_optimizer"]["param_groups"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("policy"), "lacks the weights"),
        (lambda parts: parts["policy"].popitem(), "is only in the networks"),
        (lambda parts: parts["policy"].update(x=torch.ones(1)), "x is only in the archive"),
        (lambda parts: parts["policy"].update({key: t.int() for key, t in parts["policy"].items()}), "do not match"),
        (lambda parts: parts.update(env={}), "env is an invalid|cannot be used"),
        (lambda parts: first_moment(parts).update(exp_avg=torch.ones(2)), "moments of shapes"),
        (lambda parts: first_moment(parts).update(exp_avg=torch.ones(2).double()), "moments of shapes"),
        (lambda parts: parts["learner.actor_optimizer"]["state"].update({999: {}}), "other networks"),
        (lambda parts: actor_rates(parts).update(betas=(2.0, 0.9)), "betas"),
        (lambda parts: actor_rates(parts).update(betas=(0.9, 1.0)), "betas"),
        (lambda parts: actor_rates(parts).update(betas=(-0.1, 0.9)), "betas"),
        (lambda parts: actor_rates(parts).update(betas=(0.9,)), "betas"),
        (lambda parts: actor_rates(parts).update(betas=0.9), "is damaged: TypeError"),
        (lambda parts: actor_rates(parts).update(lr=-1.0), "rates"),
        (lambda parts: actor_rates(parts).update(eps=float("inf")), "rates"),
        (lambda parts: actor_rates(parts).pop("eps"), "is damaged: KeyError"),
        (lambda parts: parts["learner.actor_optimizer"].update(state=[]), "is damaged: AttributeError"),
        (
            lambda parts: parts["learner.actor_optimizer"]["param_groups"].append({}),
            "has 2 groups of parameters, expected 1",
        ),
        (lambda parts: first_moment(parts).update(more=torch.ones(2).double()), "moments of shapes"),
        (lambda parts: parts["running"].update(_last_obs=torch.ones(1, 7)), "shape"),
        (lambda parts: parts["running"].update(latent=[torch.ones(1, 2)] * 3), "needs? "),
    ],
)
def test_tensors_that_do_not_fit_are_refused(raw: bytes, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        HarmonyDreamAgent.load(changed(raw, change), device="cpu")


def test_rates_of_the_optimizers_come_back(raw: bytes) -> None:
    rates = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "lr": 2e-3}
    file = changed(raw, lambda parts: actor_rates(parts).update(rates, maximize=True))
    (group,) = HarmonyDreamAgent.load(file, device="cpu").learner.optimizers["actor"].param_groups
    assert group.items() >= rates.items()
    assert not group["maximize"]  # which is no rate: that of a file could turn learning round


def optimizer_of(agent: HarmonyDreamAgent) -> Any:
    return agent.learner.optimizers["model"]


def moments_of(agent: HarmonyDreamAgent) -> list[torch.Tensor]:
    states = optimizer_of(agent).state.values()
    return [state[key] for state in states for key in ("exp_avg", "exp_avg_sq")]


def test_moments_lie_in_memory_as_their_weights_do(raw: bytes) -> None:
    """The fused kernels walk through both in the order of memory, whatever their strides say."""

    def turned_round(parts: dict[str, Any]) -> None:
        for state in parts["learner.model_optimizer"]["state"].values():
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key].mT.contiguous().mT if state[key].dim() > 1 else state[key]

    straight = HarmonyDreamAgent.load(io.BytesIO(raw), device="cpu")
    agent = HarmonyDreamAgent.load(changed(raw, turned_round), device="cpu")
    for weight, state in optimizer_of(agent).state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == weight.stride()
    torch.testing.assert_close(moments_of(agent), moments_of(straight), rtol=0.0, atol=0.0)


def test_agents_do_not_share_moments(raw: bytes) -> None:
    one, other = (HarmonyDreamAgent.load(io.BytesIO(raw), device="cpu") for _ in range(2))
    other.set_parameters(one.get_parameters())
    for left, right in zip(optimizer_of(one).state.values(), optimizer_of(other).state.values(), strict=True):
        for key, moment in left.items():
            assert torch.equal(moment, right[key])
            assert moment.data_ptr() != right[key].data_ptr()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(12).as_strided((3, 4), (0, 0), 11),  # whose numbers are one, at the end of the memory
        torch.zeros(12).as_strided((3, 4), (1, 1)),
        torch.zeros(3, 8)[:, ::2],
    ],
)
def test_tensors_whose_numbers_share_their_places_are_refused(tensor: torch.Tensor) -> None:
    file, small = io.BytesIO(), io.BytesIO()
    torch.save({"a": tensor}, file)
    write_archive(small, {}, {"policy": {"a": torch.ones(1)}})
    with pytest.raises(ArchiveError, match="has numbers that share their places or lie apart"):
        read_archive(repacked(small.getvalue(), lambda members: members.update({"policy.pth": file.getvalue()})))


@pytest.mark.parametrize("kept", [torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.rand(4, 3).t()])
def test_tensors_in_any_order_of_memory_come_back(kept: torch.Tensor) -> None:
    file = io.BytesIO()
    write_archive(file, {}, {"policy": {"a": kept, "nothing": torch.zeros(3, 0), "one": torch.ones(1, 1)}})
    file.seek(0)
    assert torch.equal(read_archive(file)[1]["policy"]["a"], kept)


def test_tensors_cannot_share_their_way_to_more_than_the_file() -> None:
    whole = torch.ones(10_000)
    file = io.BytesIO()
    torch.save({str(index): whole[: 9_999 - index] for index in range(1000)}, file)
    small = io.BytesIO()
    write_archive(small, {}, {"policy": {"a": torch.ones(1)}})
    with pytest.raises(ArchiveError, match=r"its tensors take .* bytes, but it has"):
        read_archive(repacked(small.getvalue(), lambda members: members.update({"policy.pth": file.getvalue()})))


def test_policies_are_checked_too(tmp_path: Path) -> None:
    MlpPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), size="nano").save(str(tmp_path / "policy.zip"))
    data, tensors = read_archive(tmp_path / "policy.zip")
    data["settings"]["size"] = "xlarge"
    write_archive(tmp_path / "policy.zip", data, tensors)
    with pytest.raises(ArchiveError, match="do not match its settings"):
        MlpPolicy.load(str(tmp_path / "policy.zip"))


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def test_npz_files() -> None:
    arrays = {"a/b": np.arange(6.0).reshape(2, 3).T, "n": np.array(3), "none": np.zeros((0, 4), np.float16)}
    found = read_npz(npz(**arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    with pytest.raises(ArchiveError, match="compressed"):
        read_npz(npz(compressed=True, a=np.zeros(9)))
    with pytest.raises(ArchiveError, match=r"declares object of shape \(1,\)"):
        read_npz(npz(a=np.array([{}])))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(ArchiveError, match=r"declares float64 of shape \(1000000, 1000000\), which are not the bytes"):
        read_npz(file.getvalue())


def test_an_official_array_cannot_ask_for_all_the_others() -> None:
    """A GRU of a few numbers, long and thin, would mean matrices of terabytes."""
    arrays = {
        "wm/rssm/gru/kernel": np.zeros((1, 3 * 10**6), np.float32),
        "wm/rssm/img_in/kernel": np.zeros((9, 4), np.float32),
        "wm/rssm/img_stats/kernel": np.zeros((4, 4), np.float32),
        "wm/rssm/obs_out/kernel": np.zeros((10**6 + 4, 4), np.float32),
        "task_behavior/ac/actor/h0/kernel": np.zeros((4, 10**5), np.float32),
        "task_behavior/critic/net/dist_out/out/kernel": np.zeros((4, 255), np.float32),
        "wm/enc/mlp/h0/kernel": np.zeros((3, 4), np.float32),
        "wm/dec/mlp/dist_a/out/kernel": np.zeros((4, 3), np.float32),
    }
    before = peak()
    with pytest.raises(ValueError, match=r"is missing|has shape"):
        official.for_spaces(arrays, spaces.Dict({"a": spaces.Box(-1, 1, (3,))}), spaces.Discrete(5))
    assert peak() - before < 200_000_000


def test_running_out_of_memory_is_not_blamed_on_the_file() -> None:
    with pytest.raises(MemoryError), blamed_on("It"):
        raise MemoryError
    with pytest.raises(ArchiveError, match="It cannot be used: KeyError: 'a'"), blamed_on("It"):
        raise KeyError("a")
    with pytest.raises(torch.OutOfMemoryError), blamed_on("It"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_an_endless_value_is_told_in_short(raw: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"expected a count") as caught:
        HarmonyDreamAgent.load(with_data(raw, lambda data: data.update(num_timesteps="9" * 10**6)), device="cpu")
    assert len(str(caught.value)) < 500
