"""Archives: what goes in comes out, and what cannot be stored is refused by name with the old file untouched."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import DATA, archive, state
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from hd_agents.saving.archive import ArchiveError, read_archive, write_archive


def optimizer_state() -> dict[str, Any]:
    layer = torch.nn.Linear(3, 5)
    adam = torch.optim.Adam(layer.parameters(), lr=1e-3)
    layer(torch.ones(2, 3)).sum().backward()
    adam.step()
    return adam.state_dict()


def assert_same(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    else:
        assert one == two


def test_everything_comes_back(tmp_path: Path) -> None:
    tensors = {"policy": state(), "policy.optimizer": optimizer_state()}
    write_archive(tmp_path / "agent", DATA, tensors)
    data, found = read_archive(tmp_path / "agent")
    assert_same(data, DATA)
    assert_same(found, tensors)


@pytest.mark.parametrize(
    ("given_name", "written"), [("agent", "agent.zip"), ("agent.zip", "agent.zip"), ("a_v1.5", "a_v1.5")]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_suffix_is_added_where_there_is_none(given_name: str, written: str, kind: type, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / given_name
    write_archive(kind(path), DATA, {})
    assert [file.name for file in path.parent.iterdir()] == [written]
    assert read_archive(kind(path))[0] == DATA


def test_zip_is_found_without_its_suffix_whatever_dots_its_name_has(tmp_path: Path) -> None:
    write_archive(tmp_path / "a_v1.5.zip", DATA, {})
    assert read_archive(tmp_path / "a_v1.5")[0] == DATA


def test_folder_beside_an_archive_of_its_name_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    write_archive(tmp_path / "agent", DATA, {})
    assert read_archive(tmp_path / "agent")[0] == DATA


def test_members_have_the_names_of_stable_baselines3_and_are_not_compressed() -> None:
    with zipfile.ZipFile(io.BytesIO(archive())) as file:
        assert file.namelist() == ["data", "policy.pth", "_stable_baselines3_version", "system_info.txt"]
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(file.read("data"))["gamma"] == 0.997


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text().filter(lambda key: key != "__type__")  # which is refused, with a message
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, database=None)
@given(st.dictionaries(st.text().filter(lambda key: not key.startswith("_")), documents))
def test_any_document_comes_back(data: dict[str, Any]) -> None:
    assert_same(read_archive(io.BytesIO(archive(data, {})))[0], data)


def test_views_are_stored_without_the_memory_they_look_into() -> None:
    big = torch.arange(1_000_000.0)
    raw = archive(
        {}, {"policy": {"part": big[3:10], "expanded": torch.ones(1).expand(3), "turned": big[:6].view(2, 3).T}}
    )
    assert len(raw) < 10_000
    found = read_archive(io.BytesIO(raw))[1]["policy"]
    assert found["part"].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert found["expanded"].tolist() == [1, 1, 1]
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_what_changes_while_it_is_written_is_stored_as_it_was() -> None:
    """As where one thread saves what another one trains."""
    weights = torch.zeros(1000)

    class Trained(io.BytesIO):
        def write(self, data: Any) -> int:
            weights.add_(1.0)
            return super().write(data)

    file = Trained()
    write_archive(file, {}, {"policy": {"weights": weights}})
    assert weights[0] > 0.0
    assert not read_archive(file)[1]["policy"]["weights"].any()


def test_gradients_and_modules_bookkeeping_are_left_behind() -> None:
    layer = torch.nn.Linear(3, 2)
    found = read_archive(io.BytesIO(archive({}, {"policy": layer.state_dict(keep_vars=True)})))[1]["policy"]
    assert not found["weight"].requires_grad
    layer.load_state_dict(found)


def test_containers_that_hold_nothing_may_occur_again() -> None:
    """Python has one empty tuple only, so they do."""
    empty = {"a": (), "b": ((), [], {}), "c": []}
    assert read_archive(io.BytesIO(archive({}, {"policy": empty})))[1]["policy"] == empty


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"policy": {"a": [1, np.float32(2)]}}, r"policy\['a'\]\[1\] is a float32"),
        ({"policy": {"a": np.float64(2)}}, r"policy\['a'\] is a float64"),  # a float to Python
        ({"policy": {"a": {1.5: 2}}}, r"policy\['a'\] has the key 1.5"),
        ({"policy": {"a": torch.eye(2).to_sparse()}}, "sparse"),
        ({"policy": {"a": torch.nn.ReLU()}}, r"policy\['a'\] is a ReLU"),
        ({"../policy": {}}, r"named '\.\./policy'"),
        ({"policy.pth/more": {}}, "named 'policy.pth/more'"),
        ({"": {}}, "named ''"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_the_old_file_stays(
    tensors: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(b"old")
    with pytest.raises(ArchiveError, match=message):
        write_archive(path, {}, tensors)
    with pytest.raises(ArchiveError, match=r"data\['rate'\] is a builtins.function.*exclude"):
        write_archive(path, {"rate": lambda left: left}, {})
    for key in ("_format", "_format_version"):
        with pytest.raises(ArchiveError, match=rf"\['{key}'\], which the archive itself uses"):
            write_archive(path, {key: 1}, {})
    with pytest.raises(ArchiveError, match="more than 16,777,216 numbers"):
        write_archive(path, {"space": spaces.MultiBinary(1 << 25)}, {})  # which could not be read again
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.zip"
    write_archive(path, DATA, {})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            write_archive(path, {}, {"policy": state()})
    assert read_archive(path)[0] == DATA
    assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]


def test_links_are_followed_and_permissions_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "link.zip").symlink_to(tmp_path / "real.zip")
    write_archive(tmp_path / "link.zip", DATA, {})
    assert (tmp_path / "link.zip").is_symlink()
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "real.zip").stat().st_mode == (tmp_path / "plain").stat().st_mode
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(OSError, match="not an ordinary file"):
        write_archive(tmp_path / "pipe.zip", DATA, {})
