"""Reading archives: nothing in a file is executed or believed, and every error says what is wrong."""

import base64
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import archive, repacked
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from hd_agents.saving.archive import ArchiveError, read_archive


def test_missing_file_tells_the_paths_tried(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"agent and .*agent\.zip"):
        read_archive(tmp_path / "agent")


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    with pytest.raises(ArchiveError, match="folder"):
        read_archive(tmp_path)
    for raw in (b"", b"random bytes" * 100, pickle.dumps({"a": 1})):
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match=f"{path} is not a saved agent: expected a zip"):
            read_archive(path)
    path.write_bytes(archive()[:-50])
    with pytest.raises(ArchiveError, match="truncated or damaged"):
        read_archive(path)
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=4, device="cpu").save(path)
    with pytest.raises(ArchiveError, match=r"not of an hd_agents agent \(its parts: data, .*library that wrote it"):
        read_archive(path)


def set_member(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("data"), "not of an hd_agents agent"),
        (set_member("data", b"{"), "'data' is not JSON"),
        (set_member("data", b"[" * 100_000), "'data' is not JSON"),
        (set_member("data", b'{"_format": "hd_agents", "_format_version": 1, "a": NaN}'), "NaN is not JSON"),
        (set_member("data", b'{"_format": "hd_agents", "_format_version": 2}'), "format version is 2"),
        (set_member("data", b'{"_format": "hd_agents", "_format_version": 1, "a": {"__type__": "os"}}'), "type 'os'"),
        (set_member("../evil.pth", b""), r"it holds '\.\./evil\.pth'"),
        (set_member("/tmp/evil.pth", b""), "it holds '/tmp/evil.pth'"),
        (set_member("evil.so", b""), "it holds 'evil.so'"),
        (set_member("policy.pth", b"junk"), "'policy.pth' is damaged or foreign"),
    ],
)
def test_damaged_members_are_refused(change: Callable[[dict[str, bytes]], None], message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_archive(repacked(archive(), change))


@settings(max_examples=150, deadline=None, database=None)
@given(st.data())
def test_any_flipped_byte_gives_the_archive_or_our_error(data: st.DataObject) -> None:
    raw = bytearray(archive())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(raw), len(raw) // 2, len(raw) - 1]))
    with suppress(ArchiveError):
        read_archive(io.BytesIO(bytes(raw[:cut])))


class Bomb:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def test_malicious_pickles_are_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "owned"
    bomb = Bomb(target)
    members = [
        ("policy.pth", pickle.dumps(bomb)),
        ("policy.pth", saved({"a": bomb})),
        ("policy.pth", saved({"a": bomb}, pickle_protocol=4)),
        ("policy.pth", saved({"a": bomb}, _use_new_zipfile_serialization=False)),
        ("data", pickle.dumps(bomb)),
    ]
    for name, content in members:
        with pytest.raises(ArchiveError):
            read_archive(repacked(archive(), set_member(name, content)))
        assert not target.exists()
    pickle.loads(pickle.dumps(bomb))
    assert target.exists(), "the bomb of this test must work where it is unpickled"


def test_serialized_text_in_data_stays_text(tmp_path: Path) -> None:
    """Stable-Baselines3 unpickles what stands under ':serialized:'; here it is a string like any other."""
    text = {":serialized:": base64.b64encode(pickle.dumps(Bomb(tmp_path / "owned"))).decode(), ":type:": "x"}
    assert read_archive(io.BytesIO(archive({"policy": text}, {})))[0]["policy"] == text
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (bytearray(10), "__builtin__ bytearray|builtins bytearray"),
        (torch.nn.Parameter(torch.ones(1)), "_rebuild_parameter"),
        (OrderedDict(a=torch.ones(1).expand(10**9)), "fewer numbers than its shape"),
        ([torch.ones(1)] * 2, None),
    ],
)
def test_state_dicts_hold_plain_tensors_only(value: Any, message: str | None) -> None:
    file = repacked(archive(), set_member("policy.pth", saved({"a": value})))
    if message is None:
        assert read_archive(file)[1]["policy"] == {"a": value}
    else:
        with pytest.raises(ArchiveError, match=message):
            read_archive(file)


def test_containers_that_unfold_without_end_are_refused() -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    for content in (saved({"a": value}), saved(circle)):
        with pytest.raises(ArchiveError, match="occurs twice"):
            read_archive(repacked(archive(), set_member("policy.pth", content)))
    with pytest.raises(ArchiveError, match="holds a list"):
        read_archive(repacked(archive(), set_member("policy.pth", saved([1]))))


def test_compressed_bombs_are_refused_before_they_unfold() -> None:
    zeros = {"a": torch.zeros(3_000_000)}
    whole = repacked(archive({}, {"policy": zeros}), lambda members: None, zipfile.ZIP_DEFLATED)
    assert len(whole.getvalue()) < 30_000
    with pytest.raises(ArchiveError, match=r"'data' is compressed or encrypted.*zip -0"):
        read_archive(whole)
    inner = repacked(saved(zeros), lambda members: None, zipfile.ZIP_DEFLATED).getvalue()
    with pytest.raises(ArchiveError, match=r"policy.pth.*is compressed"):
        read_archive(repacked(archive(), set_member("policy.pth", inner)))


def test_sizes_that_the_file_does_not_have_are_refused() -> None:
    raw = archive()
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        size = file.getinfo("policy.pth").file_size.to_bytes(4, "little")
    entry = raw.rindex(b"PK\1\2", 0, raw.rindex(b"policy.pth"))
    huge = (1 << 31).to_bytes(4, "little")
    assert raw[entry + 20 : entry + 28] == size * 2
    forged = raw[: entry + 20] + huge * 2 + raw[entry + 28 :]
    with pytest.raises(ArchiveError, match=r"claim 2,147,\d+,\d+ bytes, but the file has"):
        read_archive(io.BytesIO(forged))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_parts_of_the_same_name_are_refused() -> None:
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, "a") as target:
        target.writestr("data", "{}")
    with pytest.raises(ArchiveError, match="same name"):
        read_archive(file)


def test_running_out_of_memory_is_not_blamed_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        read_archive(io.BytesIO(archive()))
