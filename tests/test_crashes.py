"""The short version of ``benchmarks/crashes.py``: a run that is killed ends as the run it would have been."""

from pathlib import Path

from benchmarks.crashes import crash


def test_killed_runs_go_on(tmp_path: Path) -> None:
    done = crash(tmp_path, kills=4, seed=1)
    assert any(kill.saved for kill in done)
