"""Whatever a file holds, reading it gives an agent or our own error; benchmarks/fuzz.py tries many thousands more."""

from pathlib import Path

import pytest
from fuzzing import FOLDERS, Readers, corpus, mutants, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return corpus()


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("fuzz"))


def test_unchanged_files_are_read(files: dict[str, bytes], readers: Readers) -> None:
    assert {kind: outcome(readers, kind, raw) for kind, raw in files.items()} == dict.fromkeys(files, "read")


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_changed_files_give_an_agent_or_our_error(
    data: st.DataObject, files: dict[str, bytes], readers: Readers
) -> None:
    kind, raw = data.draw(mutants(files))
    assert outcome(readers, kind, raw) in ("read", "refused")
    names = {path.name for path in readers.folder.iterdir()}
    assert names <= {"model.npz", "model.pt", "policy.zip", *FOLDERS}, "nothing is written beside the files"
    assert not Path("/tmp/evil.pth").exists()
