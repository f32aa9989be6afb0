"""Graphed updates are the plain updates; what runs on CUDA alone is marked so."""

import copy
import gc
import inspect
import warnings
import weakref
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from hd_agents.graphs import WARMUP, Graphed, capture_on_cuda
from hd_agents.policies import CnnPolicy, DreamPolicy, Latent
from hd_agents.training.collection import GraphedActing
from hd_agents.training.compilation import compiled_or_plain
from tests.agents import tiny
from tests.models import batch, learner, networks

UPDATES = 20


class Recorder:
    """Stands for a graph: records nothing, and runs the function again at every replay."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Any, stream: Any) -> Any:
        self.recorded += 1
        metrics: dict[str, torch.Tensor] = {}
        return lambda: metrics.update(function()), metrics


def batches(device: str = "cpu") -> list[Any]:
    """Data of one shape, different in every update."""
    made = []
    for index in range(UPDATES):
        torch.manual_seed(index)
        data = batch()
        moved = {key: value.to(device) for key, value in data.observation.items()}
        made.append(
            type(data)(moved, *(part.to(device) for part in data[1:]))._replace(reward=data.reward.to(device) + index)
        )
    return made


def learn(backbone: str, capture: Any = None, device: str = "cpu", updates: int = UPDATES) -> tuple[Any, list[float]]:
    """A learner after the updates with rates that change, and what it said of its losses."""
    torch.manual_seed(0)
    student = learner(networks(backbone).to(device), backbone, capture=capture)
    update = student.train_step
    said = []
    torch.manual_seed(1)
    for index, data in enumerate(batches(device)[:updates]):
        student.set_learning_rates(1e-3 / (index + 1), 1e-3, 2e-3)
        said.append(float(update(data)["loss/model"]))
    return student, said


def agree(left: Any, right: Any, **tolerance: float) -> None:
    for (name, a), b in zip(left.networks.state_dict().items(), right.networks.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_replayed_updates_are_the_plain_ones(backbone: str) -> None:
    plain, expected = learn(backbone)
    recorder = Recorder()
    graphed, said = learn(backbone, recorder)
    agree(plain, graphed, rtol=0.0, atol=0.0)
    assert said == expected
    assert graphed.updates == plain.updates == UPDATES
    assert recorder.recorded == 1
    torch.testing.assert_close(graphed.newest[0].reward, batches()[-1].reward)


def test_what_a_graph_is_bound_to_makes_a_new_one() -> None:
    recorder = Recorder()
    student = learner(networks(), capture=recorder)
    update = student.train_step
    data = batch()
    for _ in range(WARMUP + 2):
        update(data)
    assert recorder.recorded == 1
    longer = type(data)(
        {key: torch.cat([value, value], 1) for key, value in data.observation.items()},
        *(torch.cat([part, part], 1) for part in data[1:]),
    )
    for _ in range(WARMUP):
        update(longer)
        assert recorder.recorded == 1
    update(longer)
    assert recorder.recorded == 2
    student.bfloat16 = False
    update(longer)
    assert recorder.recorded == 2  # it was float32 already
    student.actor_optimizer.load_state_dict(copy.deepcopy(student.actor_optimizer.state_dict()))
    for _ in range(WARMUP + 1):
        update(longer)
    assert recorder.recorded == 3


def _own_reward(student: Any) -> None:
    plain = student.networks.world_model.reward
    student.networks.world_model.reward = lambda features: 2.0 * plain(features)


def _other_scale(student: Any) -> None:
    student.networks.return_scale = type(student.networks.return_scale)(0.5)


def _more_weights(student: Any) -> None:
    student.model_optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))], "lr": 1e-3})


def _their_rate(student: Any) -> None:
    student.model_optimizer.param_groups[-1]["lr"] = 1e-4


def _other_moments(student: Any) -> None:
    student.model_optimizer.load_state_dict(copy.deepcopy(student.model_optimizer.state_dict()))


def _own_number(student: Any) -> None:
    student.networks.world_model.rssm.unimix = 0.5


def _other_balance(student: Any) -> None:
    student.networks.world_model.kl = student.networks.world_model.kl._replace(free=0.5)


def _other_number(student: Any) -> None:
    student.networks.world_model.rssm.unimix = np.float64(0.25)


def _other_term(student: Any) -> None:
    terms = student.networks.harmonizer.terms
    terms["continue"] = terms["continue"]._replace(scale=0.5)


def _other_class(student: Any) -> None:
    student.networks.actor.__class__ = type("Own", (type(student.networks.actor),), {})


def _other_gamma(student: Any) -> None:
    student.gamma = 0.5


def _one_frozen(student: Any) -> None:
    student.networks.actor.out.weight.requires_grad_(False)


def _moved_weight(student: Any) -> None:
    student.networks.actor.out.weight.data = student.networks.actor.out.weight.data.clone()


@pytest.mark.parametrize(
    "change",
    [
        *(_own_reward, _other_scale, _more_weights, _their_rate, _other_moments, _own_number, _other_gamma),
        *(_one_frozen, _moved_weight, _other_balance, _other_number, _other_term, _other_class),
    ],
    ids=lambda f: f.__name__,
)
def test_what_brings_no_new_weight_makes_a_new_graph_too(change: Any) -> None:
    recorder = Recorder()
    student = learner(networks(), capture=recorder)
    for weight in student.networks.world_model.encoder.parameters():  # the first ones, which then have no moments
        weight.requires_grad_(False)
    if change is _their_rate:
        _more_weights(student)
    for _ in range(WARMUP + 2):
        student.train_step(batch())
    assert recorder.recorded == 1
    change(student)
    for _ in range(WARMUP + 2):
        student.train_step(batch())
    assert recorder.recorded == 2


def test_draws_of_another_type_make_a_new_graph() -> None:
    recorder, data = Recorder(), batch()
    student = learner(networks(), capture=recorder)
    drawn = student.draw(data)
    for draws in (drawn, drawn._replace(posterior=torch.zeros_like(drawn.posterior, dtype=torch.int64))):
        for _ in range(WARMUP + 2):
            student.train_step(data, draws)
    assert recorder.recorded == 2


def test_what_a_graph_knows_by_its_address_stays_alive() -> None:
    """Else something else could come to lie there, and be taken for it."""
    owner = [torch.zeros(3)]
    step = Graphed(lambda x: (x + 1,), lambda: list(owner), "it", Repeater())
    step(torch.zeros(1))
    reference = weakref.ref(owner.pop())
    gc.collect()
    assert reference() is not None
    owner.append(torch.ones(3))
    step(torch.zeros(1))
    gc.collect()
    assert reference() is None


def test_calls_between_two_attempts_to_record() -> None:
    attempts, calls = [], [0]

    def capture(function: Any, stream: Any) -> Any:
        attempts.append(calls[0])
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = Graphed(lambda x: (x + 1,), list, "it", capture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for calls[0] in range(1, 12):
            step(torch.zeros(1))
    assert attempts == [WARMUP + 1, 2 * (WARMUP + 1)]


def test_calls_before_a_graph_wait_for_the_main_stream_and_it_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name, self.device = name if isinstance(name, str) else "aside", torch.device("cuda", 0)

        def wait_stream(self, other: Any) -> None:
            happened.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream: Any) -> Any:
        happened.append(f"on {stream.name}")
        try:
            yield
        finally:
            happened.append(f"off {stream.name}")

    main = Stream("main")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", on)
    step = Graphed(lambda x: happened.append("called"), list, "it", Repeater())
    monkeypatch.setattr("hd_agents.graphs._tensors", lambda tree: iter([SimpleNamespace(**PLACE)]))
    step(torch.zeros(1))
    around = ["aside waits for main", "on aside", "called", "off aside", "main waits for aside"]
    assert happened == around

    def fail(x: Any) -> Any:  # what it has asked for before may be going on still, and write weights
        happened.append("called")
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Graphed(fail, list, "it", Repeater())(torch.zeros(1))
    assert happened == 2 * around


PLACE = {"device": torch.device("cuda", 0), "shape": (1,), "dtype": torch.float32}


def set_again(every: int, calls: int) -> None:
    """Call something that depends on a setting, which is another one after so many calls."""
    setting = [0]
    step = Graphed(lambda x: (x + 1,), lambda: [setting[0]], "it", Repeater())
    for index in range(calls):
        setting[0] = index // every
        step(torch.zeros(1))


def test_a_copy_sees_what_changes_in_its_own_parts() -> None:
    student = learner(networks(), capture=Recorder())
    for _ in range(WARMUP + 2):
        student.train_step(batch())
    other = copy.deepcopy(student)
    for changes in range(3):
        other.networks.world_model.rssm.unimix = 0.1 * (changes + 1)
        for _ in range(WARMUP + 1):
            other.train_step(batch())
        assert other._run._capture.recorded == 2 + changes
    assert student._run._capture.recorded == 1


def test_what_is_set_to_what_it_was_makes_no_new_graph() -> None:
    recorder = Recorder()
    student = learner(networks(), capture=recorder)
    rssm = student.networks.world_model.rssm
    for _ in range(WARMUP + 5):
        rssm.unimix = float(str(rssm.unimix))
        rssm.note = (1, str(2.5))
        student.train_step(batch())
    assert recorder.recorded == 1


def test_a_part_that_counts_its_calls_is_named() -> None:
    """A graph would not count; so none is kept, and who wonders why is told."""
    student = learner(networks(), capture=Recorder())
    head = student.networks.world_model.reward_head
    head.calls = 0

    def count() -> None:
        for head.calls in range(25):
            student.train_step(batch())

    with pytest.warns(UserWarning, match=r"hardly of use: .* The last change was of ScalarHead.calls\."):
        count()


@pytest.mark.parametrize("every", [1, 5])
def test_graphs_that_are_hardly_of_use_are_told(every: int) -> None:
    with pytest.warns(UserWarning, match="CUDA graphs of it are hardly of use: .* changed 21 times") as caught:
        set_again(every, 200)
    assert len(caught) == 1
    set_again(100, 3_000)  # those that pay are not complained about


def test_a_graph_of_an_agent_that_is_set_back_to_no_moments() -> None:
    """As by the optimisers of an agent that has not learned yet: they are made anew outside of a graph."""
    recorder = Recorder()
    student, plain = learner(networks(), capture=recorder), learner(networks())
    plain.networks.load_state_dict(student.networks.state_dict())
    untrained = copy.deepcopy(student.actor_optimizer.state_dict())
    update = student.train_step
    for step, data in enumerate(batches()):
        if step == 8:
            for one in (student, plain):
                one.actor_optimizer.load_state_dict(copy.deepcopy(untrained))
        for one in (update, plain.train_step):
            torch.manual_seed(step)
            one(data)
    agree(plain, student, rtol=0.0, atol=0.0)
    assert recorder.recorded == 2


def test_a_failed_capture_leaves_nothing_behind() -> None:
    """Its tensors are free before the function is called without a graph: it may have failed for want of memory."""
    alive: list[weakref.ref[torch.Tensor]] = []
    seen: list[bool] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(any(one() is not None for one in alive))
        work = x + 1
        alive.append(weakref.ref(work))
        if recording:
            raise RuntimeError("CUDA out of memory")
        return work * 2

    def capture(function: Any, stream: Any) -> Any:
        recording.append(True)
        try:
            function()
        finally:
            recording.clear()
            raise RuntimeError("capture_end: the capture was invalidated")

    recording: list[bool] = []
    step = Graphed(function, list, "it", capture)
    for _ in range(WARMUP):
        step(torch.ones(3))
    with pytest.warns(UserWarning, match="No CUDA graph of it could be made.*CUDA out of memory"):
        assert step(torch.ones(3)).tolist() == [4.0] * 3
    assert step(torch.ones(3)).tolist() == [4.0] * 3
    assert seen == [False] * len(seen)
    assert len(seen) == WARMUP + 3


@pytest.mark.parametrize("times", [1, 2])
def test_a_graph_that_lacked_memory_is_tried_once_more(times: int) -> None:
    short = [True] * times
    seen: list[weakref.ref[torch.Tensor]] = []

    def capture(function: Any, stream: Any) -> Any:
        assert all(one() is None for one in seen)
        if not short:
            return Repeater()(function, stream)
        short.pop()
        work = function()[0]
        seen.append(weakref.ref(work))
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = Graphed(lambda x: (x + 1,), list, "it", capture)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [float(step(torch.full((1,), float(n)))[0]) for n in range(3 * WARMUP + 3)]
    assert found == [n + 1.0 for n in range(3 * WARMUP + 3)]
    assert (step._replay is not None) == (times == 1)
    assert len(caught) == times - 1


def test_memory_that_lacks_for_the_inputs_of_a_graph_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("hd_agents.graphs._cloned", full)
    step = Graphed(lambda x: (x + 1,), list, "it", Repeater())
    with pytest.warns(UserWarning, match="No CUDA graph of it could be made; it goes on without: CUDA out of memory"):
        found = [float(step(torch.full((1,), float(n)))[0]) for n in range(3 * WARMUP + 3)]
    assert found == [n + 1.0 for n in range(3 * WARMUP + 3)]


class FakeCuda:
    """What a capture asks of ``torch.cuda``, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, breaks: bool) -> None:
        self.said: list[str] = []
        self.breaks, self.device = breaks, torch.device("cuda:1")
        for name, value in {
            "CUDAGraph": lambda: self,
            "synchronize": lambda device: self.said.append(f"synchronize {device}"),
            "empty_cache": lambda: self.said.append("empty"),
            "stream": self.on,
            "graph_pool_handle": lambda: "pool",
            "default_generators": [None, self],
        }.items():
            monkeypatch.setattr(f"torch.cuda.{name}", value)
        for name in ("endAllocateToPool", "releasePool"):
            said = lambda index, pool, name=name: self.said.append(f"{name} {index} {pool}")  # noqa: E731
            monkeypatch.setattr(torch._C, f"_cuda_{name}", said, raising=False)

    @contextmanager
    def on(self, stream: Any) -> Any:
        assert stream is self
        self.said.append("on")
        try:
            yield
        finally:
            self.said.append("off")

    def capture_begin(self, pool: Any) -> None:
        assert pool == "pool"
        self.said.append("begin")

    def pool(self) -> str:
        if self.breaks:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return "pool"

    def clone_state(self) -> str:
        return "a state that is not recorded"

    def graphsafe_set_state(self, state: Any) -> None:
        self.said.append(state)

    def capture_end(self) -> None:
        self.said.append("end")
        if self.breaks:
            raise RuntimeError("invalidated")

    def replay(self) -> None:
        self.said.append("replay")


def test_a_capture_is_made_on_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda: Any = FakeCuda(monkeypatch, breaks=False)
    replay, results = capture_on_cuda(lambda: cuda.said.append("function") or 5, cuda)
    replay()
    assert results == 5
    assert cuda.said == ["synchronize cuda:1", "empty", "on", "begin", "function", "end", "off", "replay"]


def test_a_capture_that_breaks_is_ended_and_its_stream_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda: Any = FakeCuda(monkeypatch, breaks=True)
    with pytest.raises(RuntimeError, match="invalidated") as raised:
        capture_on_cuda(lambda: 1 // 0, cuda)
    assert isinstance(raised.value.__context__, ZeroDivisionError)
    ended = ["endAllocateToPool 1 pool", "releasePool 1 pool", "a state that is not recorded"]
    assert cuda.said[-6:] == ["begin", "end", "off", *ended]


def test_a_function_that_fails_in_a_sound_capture_leaves_the_pool_to_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory runs out: ``~CUDAGraph`` gives the pool back, and a second time would end the process."""
    cuda: Any = FakeCuda(monkeypatch, breaks=False)

    def short() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        capture_on_cuda(short, cuda)
    assert cuda.said[-3:] == ["begin", "end", "off"]


def test_torch_still_has_what_cleans_up() -> None:
    """Private names, which a processor's build does not have but its Python sources use."""
    source = inspect.getsource(torch.cuda.memory)
    assert "torch._C._cuda_endAllocateToPool(" in source or "_cuda_endAllocateToPool" in source
    assert "_cuda_releasePool" in source


def test_a_graph_that_cannot_be_replayed_is_given_up() -> None:
    def capture(function: Any, stream: Any) -> Any:
        def replay() -> None:
            raise RuntimeError("the generator is recording")

        return replay, None

    step = Graphed(lambda x: x + 1, list, "it", capture)
    for _ in range(WARMUP):
        step(torch.ones(2))
    with pytest.warns(UserWarning, match="No CUDA graph of it could be replayed.*the generator is recording"):
        assert step(torch.ones(2)).tolist() == [2.0] * 2
    assert step(torch.zeros(2)).tolist() == [1.0] * 2


def test_a_copy_makes_a_graph_of_its_own() -> None:
    recorder = Recorder()
    student = learner(networks(), capture=recorder)
    update = student.train_step
    data = batches()
    for one in data[: WARMUP + 3]:
        update(one)
    assert student._run._replay is not None  # type: ignore[attr-defined]
    other = copy.deepcopy(student)
    assert other._run._replay is None  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in student.networks.state_dict().items()}
    other.train_step(data[0])
    assert all(torch.equal(value, before[name]) for name, value in student.networks.state_dict().items())
    assert other.updates == student.updates + 1


def test_replay_makes_room_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tiny().learn(40)
    train_step, left = agent.learner.train_step, iter([True, False])
    monkeypatch.setattr(agent.replay_buffer, "leave_device", lambda: next(left))
    failing, held = iter([True, False, True]), []

    def short(batch: Any) -> Any:
        if next(failing):
            activations = torch.zeros(3)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_step(batch)

    monkeypatch.setattr(agent.learner, "train_step", short)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: held.append(held[0]()))
    before = agent._n_updates
    with pytest.warns(UserWarning, match="the replay stays in the host's"):
        agent.train(1)
    assert held[1:] == [None]  # what the update that failed has made is gone before the cache is emptied
    assert agent._n_updates == before + 1
    with pytest.raises(torch.OutOfMemoryError):  # there is nothing left to make room with
        agent.train(1)


def test_a_capture_that_fails_costs_a_warning_and_no_update() -> None:
    def fail(function: Any, stream: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain, expected = learn("dreamerv3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graphed, said = learn("dreamerv3", fail)
    agree(plain, graphed, rtol=0.0, atol=0.0)
    assert said == expected
    assert [str(one.message)[:30] for one in caught if "CUDA graph" in str(one.message)] == [
        "No CUDA graph of the update co"
    ]


class Repeater:
    """Stands for a graph of a function without side effects: every replay writes new results over the first."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Any, stream: Any) -> Any:
        self.recorded += 1
        results = function()

        def replay() -> None:
            for result, new in zip(results, function(), strict=True):
                result.copy_(new)

        return replay, results


def acted(policy: DreamPolicy, step: Any, n: int = 2, steps: int = 10) -> list[Latent]:
    """The latents of a walk through noise, with episodes that begin here and there."""
    rng, latent, latents = np.random.default_rng(0), policy.initial(n), []
    torch.manual_seed(3)
    for index in range(steps):
        seen = np.stack([policy.observation_space.sample() for _ in range(n)])
        starts = rng.random(n) < 0.3 if index else np.ones(n, dtype=bool)
        latent = step(policy.observations.encode(seen), latent, starts)
        latents.append(Latent(*(part.clone() for part in latent)))
    return latents


def make_policy(actions: spaces.Space[Any]) -> DreamPolicy:
    torch.manual_seed(0)
    policy = CnnPolicy(spaces.Box(0, 255, (16, 16, 3), np.uint8, seed=0), actions, size="nano")
    torch.nn.init.normal_(policy.networks.actor.out.weight)  # else all actions are equally good
    return policy


ACTION_SPACES = [spaces.Discrete(4), spaces.Box(-2.0, 2.0, (3,))]


@pytest.mark.parametrize("actions", ACTION_SPACES, ids=["discrete", "continuous"])
def test_replayed_acting_is_the_plain_one(actions: spaces.Space[Any]) -> None:
    plain, graphed = make_policy(actions), make_policy(actions)
    repeater = Repeater()
    expected = acted(plain, partial(plain.step, deterministic=False))
    found = acted(graphed, GraphedActing(graphed, repeater))
    assert repeater.recorded == 1
    assert len({tuple(latent.action.flatten().tolist()) for latent in found}) > 1
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=0.0)


@pytest.fixture
def valueless(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device whose tensors have no values, so that asking for one fails, as it would while a graph is recorded.

    PyTorch has neither fused optimisers nor clipping nor autocast for it: the first do nothing there.
    """
    plain, clip, autocast = torch.optim.Adam, torch.nn.utils.clip_grad_norm_, torch.autocast
    monkeypatch.setattr("torch.optim.Adam", lambda *args, **kwargs: plain(*args, **{**kwargs, "fused": False}))
    monkeypatch.setattr(plain, "step", lambda optimizer: None)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *args, foreach: clip(*args))
    monkeypatch.setattr("torch.autocast", lambda device, **kwargs: autocast("cpu", **kwargs))
    return "meta"


@pytest.mark.parametrize("groups", [(2, 3), ()], ids=["discrete", "continuous"])
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_no_value_is_asked_for_in_an_update(backbone: str, groups: tuple[int, ...], valueless: str) -> None:
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.zeros((), device=valueless))
    student = learner(networks(backbone, groups).to(valueless), backbone)
    data = batch(groups=groups)
    observation = {key: value.to(valueless) for key, value in data.observation.items()}
    data = type(data)(observation, *(part.to(valueless) for part in data[1:]))
    for _ in range(2):
        assert {value.device.type for value in student.train_step(data).values()} == {valueless}


@pytest.mark.parametrize("actions", ACTION_SPACES, ids=["discrete", "continuous"])
def test_no_value_is_asked_for_in_acting(actions: spaces.Space[Any]) -> None:
    policy = make_policy(actions).to("meta")
    seen = policy.to_device(policy.observations.encode(policy.observation_space.sample()[None]))
    first = torch.ones(1, dtype=torch.bool, device="meta")
    with torch.no_grad():
        latent = policy.step_on_device(seen, policy.initial(1), first, policy.draw(1))
    assert {part.device.type for part in latent} == {"meta"}


def test_acting_for_another_number_of_environments_makes_a_new_graph() -> None:
    policy, repeater = make_policy(ACTION_SPACES[0]), Repeater()
    step = GraphedActing(policy, repeater)
    acted(policy, step)
    assert acted(policy, step, n=5)[-1].deter.shape[0] == 5
    assert repeater.recorded == 2


def test_acting_with_another_part_of_ones_own_makes_a_new_graph() -> None:
    class Own(torch.nn.Linear):
        pass

    policy, repeater = make_policy(ACTION_SPACES[0]), Repeater()
    actor, step = policy.networks.actor, GraphedActing(policy, repeater)
    for recorded in (1, 2):
        actor.out = Own(actor.out.in_features, actor.out.out_features)
        acted(policy, step)
        assert repeater.recorded == recorded
    first = actor.out
    with torch.no_grad():
        first.weight.data = first.weight.data.clone()
    acted(policy, step)
    assert repeater.recorded == 3


@pytest.mark.parametrize("name", ["world_model.rssm.unimix", "actor.unimix"])
def test_acting_by_another_number_makes_a_new_graph(name: str) -> None:
    policy, repeater = make_policy(ACTION_SPACES[0]), Repeater()
    step = GraphedActing(policy, repeater)
    acted(policy, step)
    owner, _, attribute = name.rpartition(".")
    setattr(policy.networks.get_submodule(owner), attribute, 0.9)
    acted(policy, step)
    assert repeater.recorded == 2


@pytest.mark.parametrize("copied", [False, True])
def test_rates_are_stored_as_numbers(copied: bool) -> None:
    """On CUDA the optimisers hold tensors, which a file for another device must not."""
    student = learner(networks())
    student.train_step(batch())
    student = copy.deepcopy(student) if copied else student
    for group in student.model_optimizer.param_groups:
        group["lr"] = torch.tensor(0.25)
    assert [group["lr"] for group in student.model_optimizer.state_dict()["param_groups"]] == [0.25, 0.25]


def test_optimisers_of_a_copy_make_steps_outside_of_graphs_without_a_warning() -> None:
    """PyTorch warns of them on CUDA, where some come before a graph, unless an optimiser is marked; copies are not."""
    student = learner(networks())
    for one in (student, copy.deepcopy(student)):
        assert all(optimizer._warned_capturable_if_run_uncaptured for optimizer in one.optimizers.values())


def test_a_failing_compiler_is_replaced_by_the_plain_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def call(*values: Any) -> Any:
            raise FileNotFoundError("no C++ compiler")

        return call

    monkeypatch.setattr("torch.compile", broken)
    double = compiled_or_plain(lambda x: 2 * x)
    with pytest.warns(UserWarning, match="FileNotFoundError: no C\\+\\+ compiler"):
        assert double(2) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(3) == 6
    with pytest.raises(ZeroDivisionError):  # its own fault, and not the compiler's
        compiled_or_plain(lambda x: 1 // x)(0)


def test_a_copy_compiles_losses_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would go on with those of the weights that it was copied from, and its own would learn nothing."""
    monkeypatch.setattr("torch.compile", lambda function: lambda *values: function(*values))
    student = learner(networks(), compiled=True)
    data = batches()
    student.train_step(data[0])
    other = copy.deepcopy(student)
    for one in (student, other):
        torch.manual_seed(0)
        one.train_step(data[1])
    agree(student, other, rtol=0.0, atol=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.compile's own
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_nothing_is_compiled_again_after_the_first_updates(backbone: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    student = learner(networks(backbone), backbone, compiled=True)
    data = batches()
    for one in data[:2]:
        student.train_step(one)
    with torch.compiler.set_stance("fail_on_recompile"):
        for one in data[2:6]:
            student.train_step(one)


def test_what_the_mode_that_forbids_waiting_says_of_itself_is_no_error() -> None:
    """It says so once a process, when it is on already, and would leave it on for all tests that follow."""
    said = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"
    warnings.warn(said, UserWarning, stacklevel=1)


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["dreamerv3", "dreamerv2"])
def test_the_graph_gives_what_the_kernels_give(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    few = WARMUP + 6  # the last bits differ, and a latent that is sampled otherwise would come of that in time
    plain, expected = learn(backbone, device="cuda", updates=few)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="No CUDA graph")
        graphed, said = learn(backbone, capture_on_cuda, "cuda", few)
    assert said == pytest.approx(expected, rel=1e-3)
    agree(plain, graphed, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("actions", ACTION_SPACES, ids=["discrete", "continuous"])
def test_the_graph_of_acting_gives_what_the_kernels_give(actions: spaces.Space[Any]) -> None:
    plain, graphed = make_policy(actions).cuda(), make_policy(actions).cuda()
    expected = acted(plain, partial(plain.step, deterministic=False))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="No CUDA graph")
        found = acted(graphed, GraphedActing(graphed))
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_replayed_update_does_not_wait_for_the_device() -> None:
    student = learner(networks().cuda(), capture=capture_on_cuda)
    update = student.train_step
    data = batches("cuda")
    for one in data[: WARMUP + 2]:
        update(one)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(data[-1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_capture_that_waits_for_the_device_leaves_it_usable() -> None:
    """Reading a number on the host invalidates a capture; random numbers, memory and other graphs are as before."""
    sound = Graphed(lambda x: x * 2, list, "a sound one")
    wrong = Graphed(lambda x: x + x.sum().item(), list, "a wrong one")
    x = torch.ones(1 << 20, device="cuda")
    for _ in range(WARMUP + 2):
        sound(x)
    before = torch.cuda.memory_reserved()
    for _ in range(WARMUP):
        wrong(x)
    with pytest.warns(UserWarning, match="No CUDA graph of a wrong one"):
        assert wrong(x)[0] == 1 + (1 << 20)
    assert 0.0 <= torch.rand((), device="cuda").item() < 1.0
    assert sound(x)[0] == 2.0
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (64 << 20)
