"""Files that lie: real ones of every kind we read, mutated, and what reading them comes to.

Used by tests/test_fuzz.py (a few) and benchmarks/fuzz.py (tens of thousands).
"""

import contextlib
import hashlib
import io
import json
import random
import shutil
import struct
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.torch as safetensors
import torch
from golden_case import KEPT, Case
from gymnasium import spaces
from hypothesis import strategies as st

import hd_agents
from hd_agents import HarmonyDreamAgent
from hd_agents.callbacks import RunCheckpoint
from hd_agents.policies import MultiInputPolicy
from hd_agents.saving.archive import read_archive
from hd_agents.training.recorder import read_record, write_record
from hd_agents.zoo import packages
from hd_agents.zoo.packages import AGENT, WEIGHTS
from tests.agents import Clock, Scripted, tiny

FOLDERS = ("package16", "package8", "checkpoint")  # kinds that are several files
PACKAGE = str(Path(hd_agents.__file__).parent)
SPACE = spaces.Dict({"eye": spaces.Box(0, 255, (16, 16, 3), np.uint8), "arm": spaces.Box(-1, 1, (5,))})
OFFICIAL = {"npz": "b3_jax_image_cont_metaworld", "pt": "a2_v2_disc"}
NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 63, 2**31, 2**63, 10**12, 10**30, 10**400, 0.5, -0.0, 1e308, "", "x", "nan"),
    *([], {}, [[]], [1, 2], ["a"], {"a": 1}, {"__type__": "tuple", "items": []}, "../../x", "/x", "\x00", "é" * 999),
    {"__type__": "float", "value": "nan"},
    {"__type__": "float", "value": "inf"},
    {"__type__": "ndarray", "dtype": "<f8", "shape": [10**6, 10**6], "fill": 0.0},
    {"__type__": "ndarray", "dtype": "|u1", "shape": [3], "fill": 1},
    {"__type__": "space", "space": {"kind": "MultiBinary", "n": 10**11}},
    {"__type__": "space", "space": {"kind": "MultiBinary", "n": 0}},
    {"__type__": "space", "space": {"kind": "Discrete", "n": 10**15, "start": 0, "dtype": "<i8"}},
    {"__type__": "space", "space": {"kind": "Dict", "spaces": []}},
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
JSON = st.recursive(
    st.sampled_from(NASTY) | SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)
TENSORS: list[Any] = [
    torch.zeros(0),
    torch.zeros(()),
    torch.ones(3, 7),
    torch.full((5,), float("nan")),
    torch.ones(2, dtype=torch.int64),
    torch.ones(2, dtype=torch.complex64),
    torch.ones(4, dtype=torch.bool),
    torch.ones(1).expand(10**9),
    *(3, 1e308, "text", None, [], {}, [torch.ones(2)]),
]


def env_of(case: Case) -> gym.Env[Any, Any]:
    """An environment with the spaces of an official model."""
    model = case.model
    action = spaces.Discrete(model.action_size) if case.discrete else spaces.Box(-1, 1, (model.action_size,))
    vectors = {key: spaces.Box(-9, 9, (width,)) for key, width in model.vectors.items()}
    return Scripted(spaces.Box(0, 255, (64, 64, 3), np.uint8) if model.images else spaces.Dict(vectors), action)


def corpus() -> dict[str, bytes]:
    """One small real file for each reader; about a second."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        agent = tiny("MultiInputPolicy", Scripted(SPACE, spaces.Discrete(3)), seed=0).learn(48)
        clock = tiny(env=Clock(5), seed=0, backbone="dreamerv2").learn(40)
        files: dict[str, Callable[[Any], Any]] = {
            "agent": agent.save,
            "clock": clock.save,
            "parameters": clock.save,
            "policy": agent.policy.save,
            "replay": clock.save_replay_buffer,
        }
        found = {}
        for name, save in files.items():
            save(Path(folder, f"{name}.file"))
            found[name] = Path(folder, f"{name}.file").read_bytes()
        found["record"] = write_record(clock, Path(folder)).read_bytes()
        for bits in (16, 8):
            found[f"package{bits}"] = zipped(write_package(agent, Path(folder, f"package{bits}"), bits))
        checkpoint = RunCheckpoint(Path(folder, "checkpoints"), 30)
        tiny(env=Clock(5), seed=0, backbone="dreamerv2").learn(40, checkpoint)
        found["checkpoint"] = zipped(Path(folder, "checkpoints"))
    file = io.BytesIO()
    np.savez(file, **Case(KEPT, OFFICIAL["npz"]).params)
    found["npz"] = file.getvalue()
    file = io.BytesIO()
    params = Case(KEPT, OFFICIAL["pt"]).params
    torch.save({key: torch.from_numpy(np.asarray(value)) for key, value in params.items()}, file)
    return found | {"pt": file.getvalue()}


def write_package(agent: HarmonyDreamAgent, target: Path, bits: int) -> Path:
    """A package of a model as the zoo holds it, with no more on its card than reading needs."""
    packages.seal(target, packages.write(agent, target, bits=bits))
    return target


def zipped(folder: Path) -> bytes:
    """The files of a folder, as one that can be mutated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for path in sorted(folder.iterdir()):
            target.writestr(path.name, path.read_bytes())
    return file.getvalue()


def unzipped(raw: bytes, folder: Path) -> None:
    """Undo :func:`zipped`, as far as that goes. Checksums are made to fit: whoever forges a file forges them too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in archive.namelist():
            (folder / Path(name).name).write_bytes(archive.read(name))
    with contextlib.suppress(Exception):
        sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (AGENT, WEIGHTS)}
        card = json.loads((folder / packages.CARD).read_text())
        (folder / packages.CARD).write_text(json.dumps({**card, "sha256": sums}))
    for path in folder.glob("checkpoint-*.json"):
        with contextlib.suppress(Exception):
            document = json.loads(path.read_text())
            for name in document["files"]:
                content = (folder / name).read_bytes()
                document["files"][name] = [len(content), hashlib.sha256(content).hexdigest()]
            document.pop("sha256", None)
            text = json.dumps(document, sort_keys=True).encode()
            path.write_text(json.dumps({**document, "sha256": hashlib.sha256(text).hexdigest()}))


class Readers:
    """Reads files of every kind; each gives something that works, or raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = tiny(env=Clock(5), seed=0, backbone="dreamerv2")
        self.envs = {kind: env_of(Case(KEPT, name)) for kind, name in OFFICIAL.items()}

    def read(self, kind: str, raw: bytes) -> None:
        """Read ``raw`` as a file of ``kind`` and try out what comes of it."""
        if kind in self.envs:
            path = self.folder / f"model.{kind}"
            path.write_bytes(raw)
            HarmonyDreamAgent.from_official(path, self.envs[kind], classes=5, device="cpu")
            return
        if kind in FOLDERS:
            unzipped(raw, self.folder / kind)
            if kind != "checkpoint":
                agent = packages.read(self.folder / kind, "cpu")
                agent.predict(agent.observation_space.sample(), deterministic=True)
            else:
                RunCheckpoint(self.folder / kind, 30).resume(Clock(5))
            return
        file = io.BytesIO(raw)
        if kind == "replay":
            self.clock.load_replay_buffer(file)
            if self.clock.replay_buffer.can_sample(5):  # type: ignore[union-attr]
                self.clock.replay_buffer.sample(2, 5, np.random.default_rng(0))  # type: ignore[union-attr]
        elif kind == "parameters":
            self.clock.set_parameters(file)
        elif kind == "policy":
            path = self.folder / "policy.zip"
            path.write_bytes(raw)
            MultiInputPolicy.load(str(path), device="cpu")
        else:
            agent = HarmonyDreamAgent.load(file, device="cpu")
            agent.predict(agent.observation_space.sample(), deterministic=True)
            if kind == "record":
                file.seek(0)
                read_record(agent, read_archive(file)[1])


def outcome(readers: Readers, kind: str, raw: bytes) -> str:
    """ "read", "refused", or the traceback of a foreign error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file may make NumPy or Gymnasium warn; that is no failure
            readers.read(kind, raw)
    except ValueError as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if last.filename.startswith(PACKAGE):
            return "refused"
        return f"foreign ValueError: {error}\n{traceback.format_exc()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return "read"


@st.composite
def mutants(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A kind of file and bytes that were one, changed in one to three places."""
    kind = draw(st.sampled_from(sorted(files)))
    raw = files[kind]
    rng = random.Random(draw(st.integers(0, 2**48)))
    value = draw(JSON)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        raw = mutate(kind, raw, rng, value)
    return kind, raw


def mutate(kind: str, raw: bytes, rng: random.Random, value: Any) -> bytes:
    """One change: of the bytes, or of what they say."""
    if rng.random() < 0.25 or not raw:
        return mutate_bytes(raw, rng)
    try:
        if kind == "replay":
            return mutate_replay(raw, rng, value)
        if kind == "pt":
            return mutate_tensors(raw, rng)
        return mutate_zip(kind, raw, rng, value)
    except Exception:  # what was changed before can no longer be opened
        return mutate_bytes(raw, rng)


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled or inserted bytes."""
    out, at = bytearray(raw), rng.randrange(len(raw) + 1)
    choice = rng.randrange(5)
    if choice == 0:
        return bytes(out[:at])
    if choice == 1:
        return bytes(out[:at] + rng.randbytes(rng.randrange(20)) + out[at:])
    if choice == 2:
        end = min(len(out), at + rng.randrange(2000))
        return bytes(out[:end] + out[at:])
    for _ in range(rng.choice([1, 3, 30])):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def mutate_json(document: Any, rng: random.Random, value: Any) -> Any:
    """The document with one item replaced, removed, repeated or renamed, at any depth."""
    if isinstance(document, dict) and document:
        key = rng.choice(sorted(document))
        choice = rng.random()
        if choice < 0.5 and isinstance(document[key], dict | list) and document[key]:
            return {**document, key: mutate_json(document[key], rng, value)}
        if choice < 0.6:
            return {name: item for name, item in document.items() if name != key}
        if choice < 0.65:
            return {**document, rng.choice(["layers", "n_envs", "included", "predict", "x"]): value}
        return {**document, key: rng.choice([value, *NASTY])}
    if isinstance(document, list) and document:
        index = rng.randrange(len(document))
        changed = [mutate_json(document[index], rng, value)]
        return document[:index] + rng.choice([[], changed, changed * 2]) + document[index + 1 :]
    return rng.choice([value, *NASTY])


def mutate_zip(kind: str, raw: bytes, rng: random.Random, value: Any) -> bytes:
    """One member changed, renamed, removed or added; sometimes compressed, or a link."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    parts = [name for name in members if name.endswith((".pth", ".npy"))]
    name = "data" if "data" in members and rng.random() < 0.6 else rng.choice(parts or list(members))
    choice = rng.random()
    if kind in FOLDERS:
        name = rng.choice(list(members))
        if name == WEIGHTS and choice < 0.5:
            members[name] = mutate_weights(members[name], rng)
        elif choice < 0.1:
            del members[name]
        elif name.endswith(".json") and choice < 0.8:
            members[name] = json.dumps(mutate_json(json.loads(members[name]), rng, value)).encode()
        elif name.startswith(("agent-", "state-")):
            members[name] = mutate_zip("agent", members[name], rng, value)
        else:
            members[name] = mutate_bytes(members[name], rng)
    elif choice < 0.05:
        members[rng.choice(["../evil.pth", "/tmp/evil.pth", "a/b.pth", "evil.so", "x.npy", "x.pth"])] = members[name]
    elif choice < 0.1:
        del members[name]
    elif choice < 0.2:
        members[name] = mutate_bytes(members[name], rng)
    elif name == "data":
        members["data"] = json.dumps(mutate_json(json.loads(members["data"]), rng, value)).encode()
    elif name.endswith(".npy"):
        members[name] = mutate_array(members[name], rng)
    else:
        members[name] = mutate_tensors(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice([0] * 19 + [zipfile.ZIP_DEFLATED])) as target:
        for member, content in members.items():
            info = zipfile.ZipInfo(member)
            info.compress_type = target.compression
            info.external_attr = rng.choice([0] * 19 + [0o120777 << 16])  # a symbolic link
            target.writestr(info, content)
    return file.getvalue()


def mutate_weights(raw: bytes, rng: random.Random) -> bytes:
    """A package's weights with one of its tensors replaced, removed or added."""
    state = mutate_tree(safetensors.load(raw), rng)
    fit = {str(key): item for key, item in state.items() if torch.is_tensor(item) and item.is_contiguous()}
    return safetensors.save(fit)


def mutate_tensors(raw: bytes, rng: random.Random) -> bytes:
    """A state dict with one tensor replaced, removed, added, or its pickle's bytes changed."""
    if rng.random() < 0.2:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in members if name.endswith(".pkl"))
        members[name] = mutate_bytes(members[name], rng)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as target:
            for member, content in members.items():
                target.writestr(member, content)
        return file.getvalue()
    state = torch.load(io.BytesIO(raw), weights_only=True)
    file = io.BytesIO()
    torch.save(mutate_tree(state, rng), file)
    return file.getvalue()


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """One leaf of nested dicts and lists replaced, removed or added."""
    if isinstance(tree, dict) and tree:
        key = rng.choice(list(tree))
        choice = rng.random()
        if choice < 0.1:
            return {name: item for name, item in tree.items() if name != key}
        if choice < 0.2:
            return {**tree, rng.choice(["x", 0, 99, "step"]): rng.choice(TENSORS)}
        return {**tree, key: mutate_tree(tree[key], rng)}
    if isinstance(tree, list | tuple) and tree:
        index = rng.randrange(len(tree))
        return [mutate_tree(item, rng) if position == index else item for position, item in enumerate(tree)]
    if isinstance(tree, torch.Tensor) and rng.random() < 0.5:
        return rng.choice([tree.flatten(), tree.double(), tree.half(), tree.unsqueeze(0), tree * 1e30])
    return rng.choice(TENSORS)


def mutate_array(raw: bytes, rng: random.Random) -> bytes:
    """An .npy file with another shape or type in its header, or other content."""
    array = np.load(io.BytesIO(raw))
    changes: list[Any] = [array.ravel(), array[None], array.astype("<i8"), array[..., :1], np.array(["a", "b"])]
    changes += [np.zeros((1, rng.choice([3, 9, 3 * 10**5])), np.float32), np.zeros((0, 5)), array.astype(np.complex64)]
    file = io.BytesIO()
    if rng.random() < 0.5:
        np.save(file, rng.choice(changes))
        return file.getvalue()
    header = {"descr": rng.choice(["<f4", "|O", "<f8", "V9"]), "fortran_order": rng.random() < 0.5}
    np.lib.format.write_array_header_1_0(file, {**header, "shape": rng.choice([(10**6, 10**6), (-1,), (), (3, 4)])})
    return file.getvalue() + array.tobytes()


def mutate_replay(raw: bytes, rng: random.Random, value: Any) -> bytes:
    """A replay file with another header, or with other numbers in its rows."""
    size = struct.unpack("<I", raw[12:16])[0]
    header, rows = raw[16 : 16 + size], raw[16 + size :]
    if rng.random() < 0.3:
        return raw[: 16 + size] + mutate_bytes(rows, rng)
    text = json.dumps(mutate_json(json.loads(header), rng, value)).encode()
    return raw[:12] + struct.pack("<I", len(text)) + text + rows
