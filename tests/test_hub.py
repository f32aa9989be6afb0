"""Packages on the Hugging Face Hub, the library's calls replaced by folders that hold calls to its signatures."""

import errno
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hd_agents import zoo
from hd_agents.cli import main
from hd_agents.zoo import hub

hub_library = pytest.importorskip("huggingface_hub")
REAL = {
    "snapshot_download": inspect.signature(hub_library.snapshot_download),
    **{name: inspect.signature(getattr(hub_library.HfApi(), name)) for name in ("create_repo", "upload_folder")},
}
ROOT = Path(__file__).parents[1]
NAME = "someone/harmony-CartPole-v1"
PACKAGE = {"card.json", "agent.json", "weights.safetensors"}


class FakeHub:
    """Repositories as folders of ``root``, versions as folders in them. Calls have to fit the library's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.public: set[str] = set()

    def _bind(self, function: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        bound = REAL[function].bind(*arguments, **named).arguments
        self.calls.append((function, bound))
        return bound

    def snapshot_download(self, *arguments: Any, **named: Any) -> str:
        call = self._bind("snapshot_download", arguments, named)
        version = call["revision"] or "main"
        source, cache = self.root / call["repo_id"], self.root / "cache" / call["repo_id"] / version
        if not source.is_dir():
            raise self.error("RepositoryNotFoundError", "404 Client Error\n\nRepository Not Found for url: ...")
        if not (source / version).is_dir():
            raise self.error("RevisionNotFoundError", "404 Client Error\n\nRevision Not Found for url: ...")
        cache.mkdir(parents=True, exist_ok=True)
        for path in (source / version).rglob("*"):
            name = path.relative_to(source / version).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in call["allow_patterns"]):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                (cache / name).unlink(missing_ok=True)
                (cache / name).symlink_to(path)  # as in the library's cache
        return str(cache)

    def create_repo(self, *arguments: Any, **named: Any) -> str:
        call = self._bind("create_repo", arguments, named)
        if not call["private"]:
            self.public.add(call["repo_id"])
        return f"https://the.hub/{call['repo_id']}"

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=repo_id not in self.public)

    def upload_folder(self, *arguments: Any, **named: Any) -> None:
        call = self._bind("upload_folder", arguments, named)
        there = self.root / call["repo_id"] / "main"
        for name in call["delete_patterns"]:
            (there / name).unlink(missing_ok=True)
        shutil.copytree(call["folder_path"], there, dirs_exist_ok=True)

    @staticmethod
    def error(kind: str, text: str) -> Exception:
        """One of the library's own, without the response from the network that its constructor wants."""
        parts = {"__init__": lambda self: None, "__str__": lambda self: text}
        return type(kind, (getattr(hub_library.errors, kind),), parts)()

    def downloads(self) -> list[dict[str, Any]]:
        return [call for function, call in self.calls if function == "snapshot_download"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A Hub with nothing on it, and a working folder where nothing has a repository's name."""
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub_library, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(hub_library, "HfApi", lambda: made)
    monkeypatch.chdir(tmp_path)
    return made


def shipped() -> Path:
    return zoo.folder() / "pretrained" / "classic" / "CartPole"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf://org/repo", hub.Repository("org/repo")),
        ("hf://classic/CartPole", hub.Repository("classic/CartPole")),
        ("hf://org/repo/classic/CartPole", hub.Repository("org/repo", "classic/CartPole")),
        (NAME, hub.Repository(NAME)),
        ("classic/CartPoel", None),
        ("Dmc-Vision/walker", None),
        ("ALE/Skiing-v5", None),
        ("CartPole-v1", None),
        ("phys2d/CartPole-v1", None),
        ("org/repo/classic/CartPole", None),
        ("./org/repo", None),
        ("/org/repo", None),
        ("runs/CartPole", None),  # a folder `runs` is here
    ],
)
def test_which_names_mean_the_hub(name: str, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.repository(name) == expected


@pytest.mark.parametrize("name", ["hf://org", "hf://org/repo/../..", "hf://", "hf://org/repo/"])
def test_no_place_on_the_hub(name: str, fake: FakeHub) -> None:
    with pytest.raises(ValueError, match="hf://org/repo/suite/task"):
        zoo.load(name)
    assert not fake.calls


def test_a_package_from_the_hub_is_the_package(fake: FakeHub) -> None:
    shutil.copytree(shipped(), fake.root / NAME / "main")
    (fake.root / NAME / "main" / "agent.pkl").write_bytes(b"would be executed")
    agent = zoo.load(NAME, device="cpu")
    ours = zoo.load("classic/CartPole", device="cpu").policy.state_dict()
    assert agent.num_timesteps == 10_000
    assert all(tensor.equal(ours[key]) or tensor.isnan().all() for key, tensor in agent.policy.state_dict().items())
    (call,) = fake.downloads()
    assert set(call["allow_patterns"]) == PACKAGE
    assert {path.name for path in (fake.root / "cache").rglob("*") if path.is_file()} == PACKAGE
    assert zoo.card(f"hf://{NAME}")["task"] == "CartPole-v1"
    assert zoo.verify(NAME, episodes=1).evaluation.seeds == [10_000]


def test_a_package_from_the_hub_chooses_no_module_to_import(
    fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the module lies where the command line looks for one's own."""
    there = fake.root / NAME / "main"
    shutil.copytree(shipped(), there)
    card = json.loads((there / "card.json").read_text())
    card["task"] = card["evaluation"]["task"] = "lying_about:CartPole-v1"
    (there / "card.json").write_text(json.dumps(card))
    Path("lying_about.py").write_text("")
    with pytest.raises(ValueError, match=f"{NAME} is of lying_about:CartPole-v1, and nothing from the Hub chooses"):
        zoo.verify(NAME, episodes=1)
    for command in (["zoo", "verify", NAME], ["enjoy", NAME]):
        assert main(command) == 2
        assert "nothing from the Hub chooses" in capsys.readouterr().err
        assert "lying_about" not in sys.modules
    assert main(["enjoy", NAME, "--task", "CartPole-v1"]) == 0, "another task may be played"
    assert main(["zoo", "verify", str(there), "--episodes", "1"]) == 0, "a folder here is one's own"
    assert sys.modules.pop("lying_about").__name__ == "lying_about"
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "lying_about", sys)
    assert zoo.verify(NAME, episodes=1).evaluation.seeds == [10_000]


def test_versions_and_folders_on_the_hub(fake: FakeHub) -> None:
    shutil.copytree(shipped(), fake.root / "org" / "all" / "v2" / "classic" / "CartPole")
    assert zoo.load("hf://org/all/classic/CartPole", "v2", "cpu").num_timesteps == 10_000
    (call,) = fake.downloads()
    assert call["revision"] == "v2"
    assert set(call["allow_patterns"]) == {f"classic/CartPole/{name}" for name in PACKAGE}
    with pytest.raises(ValueError, match="no version 'v3': give a branch, tag or commit"):
        zoo.load("hf://org/all/classic/CartPole", "v3")
    with pytest.raises(ValueError, match=r"org/all holds no package: it has no card\.json"):
        zoo.load("org/all", "v2")
    with pytest.raises(ValueError, match="no repository 'org/none' that you may use"):
        zoo.load("org/none")


@pytest.mark.parametrize("name", ["classic/CartPole", shipped()])
def test_the_version_of_a_model_that_is_here(name: str | Path, fake: FakeHub) -> None:
    commit = zoo.card(name)["commit"]
    assert zoo.load(name, commit[:7], "cpu").num_timesteps == 10_000
    for other in ("0000000", commit[:6], "", "main"):
        with pytest.raises(ValueError, match=f"version='{other}': .* trained with commit {commit}"):
            zoo.load(name, other)
    assert not fake.calls


def test_a_package_that_was_changed_on_the_way_is_refused(fake: FakeHub) -> None:
    folder = fake.root / NAME / "main"
    shutil.copytree(shipped(), folder)
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="checksum"):
        zoo.load(NAME)
    with pytest.raises(ValueError, match="checksum"):
        zoo.pull(NAME, "here")
    card = json.loads((folder / "card.json").read_text())
    for part in ("interval", "evaluation"):
        (folder / "card.json").write_text(json.dumps({key: value for key, value in card.items() if key != part}))
        with pytest.raises(ValueError, match=f"does not state {part}"):
            zoo.load(NAME)
    assert not Path("here").exists()


@pytest.mark.parametrize("kind", ["LocalEntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError", "client"])
def test_no_network_is_told_in_one_line(
    kind: str, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_the_client = hub_library.errors.HfHubHTTPError.__bases__[0]
    error = of_the_client("cannot connect\nand more") if kind == "client" else fake.error(kind, "cannot connect\nmore")

    def fails(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(hub_library, "snapshot_download", fails)
    assert main(["pull", NAME]) == 2
    assert capsys.readouterr().err == f"hd-agents: The Hub did not give or take {NAME}: cannot connect\n"


@pytest.mark.parametrize("file", ["cache", None])
def test_a_full_disk_at_a_pull_is_not_the_hubs_fault(
    file: str | None, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", file)

    monkeypatch.setattr(hub_library, "snapshot_download", fails)
    assert main(["pull", NAME]) == 1
    place = file or hub_library.constants.HF_HUB_CACHE
    assert capsys.readouterr().err == f"hd-agents: [Errno 28] No space left on device: {place!r}\n"


def test_push_then_pull(fake: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped(), "mine")
    for name in ("notes.txt", "agent.zip"):
        Path("mine", name).write_bytes(name.encode())
    assert main(["push", "mine", NAME]) == 0
    assert capsys.readouterr().out == f"https://the.hub/{NAME}\n"
    there = fake.root / NAME / "main"
    whole = {*PACKAGE, "README.md", "video.mp4", "dream.png"}
    assert {path.name for path in there.iterdir()} == whole
    assert "](video.mp4)" in (there / "README.md").read_text()
    (there / "run.py").write_text("print('never')")
    assert main(["pull", NAME, "--folder", "models/pole"]) == 0
    assert capsys.readouterr().out.startswith("models/pole: CartPole-v1, return 4")
    pulled = Path("models/pole")
    assert {path.name for path in pulled.iterdir()} == whole
    assert not any(path.is_symlink() for path in pulled.iterdir())
    unchanged = whole - {"card.json", "README.md"}
    assert all((pulled / name).read_bytes() == Path("mine", name).read_bytes() for name in unchanged)
    assert zoo.verify(pulled, episodes=1).evaluation.seeds == [10_000]
    assert [path.name for path in pulled.parent.iterdir()] == ["pole"]
    assert main(["pull", NAME, "--folder", "models/pole"]) == 2
    assert "models/pole exists already" in capsys.readouterr().err
    assert main(["pull", f"hf://{NAME}", "--version", "main"]) == 0
    assert capsys.readouterr().out.startswith(str(fake.root / "cache"))
    assert main(["enjoy", NAME, "--episodes", "1"]) == 0


def test_a_package_replaces_the_one_before(fake: FakeHub) -> None:
    zoo.push("classic/CartPole", NAME)
    shutil.copytree(shipped(), "plain")
    Path("plain", "video.mp4").unlink()
    card = zoo.card("plain")
    del card["sha256"]["video.mp4"]
    Path("plain", "card.json").write_text(json.dumps(card))
    zoo.push("plain", NAME)
    assert not (zoo.pull(NAME, "back") / "video.mp4").exists()


def test_the_card_of_what_was_pushed_describes_its_page(fake: FakeHub) -> None:
    zoo.push("classic/CartPole", NAME)
    there, before = fake.root / NAME / "main", zoo.card("classic/CartPole")
    now = json.loads((there / "card.json").read_text())
    assert now["sha256"].pop("README.md") == hashlib.sha256((there / "README.md").read_bytes()).hexdigest()
    before["sha256"].pop("README.md", None)
    assert now == before


def test_private_repositories_stay_private(fake: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(shipped()), "me/secret", "--private"]) == 0
    fake.public.add("me/open")
    assert main(["push", str(shipped()), "me/open", "--private"]) == 2
    assert "me/open exists and is public" in capsys.readouterr().err
    assert [call["repo_id"] for function, call in fake.calls if function == "upload_folder"] == ["me/secret"]


def test_a_token_that_the_hub_does_not_take_is_told(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that has run out, with which not even public repositories are given."""
    error = fake.error("HfHubHTTPError", "Client error '401 Unauthorized' for url ...")
    error.response = SimpleNamespace(status_code=401)  # type: ignore[attr-defined]

    def fails(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(hub_library, "snapshot_download", fails)
    assert main(["pull", NAME]) == 2
    assert f"does not take the token that was sent for {NAME}: log in anew" in capsys.readouterr().err


def test_an_answer_of_somebody_else_is_told(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the log-in page of a network."""
    monkeypatch.setattr(hub_library, "snapshot_download", lambda *arguments, **named: json.loads("<html>"))
    assert main(["pull", NAME]) == 2
    assert f"The Hub did not give or take {NAME}: the answer is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors", "dream.png"])
def test_a_damaged_copy_in_the_cache_is_told_with_the_way_out(
    name: str, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library asks only whether a file is there, so the next try would find it again."""
    shutil.copytree(shipped(), fake.root / NAME / "main")
    (fake.root / NAME / "main" / name).write_bytes(b"")
    for command in (["pull", NAME], *([] if name == "dream.png" else [["enjoy", NAME]])):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert name in told and f"delete {fake.root / 'cache' / 'someone'}, where it was fetched to" in told
    assert main(["zoo", "verify", NAME]) == 1
    assert "If it is whole on the Hub, delete" in capsys.readouterr().out


def test_what_cannot_be_pushed(fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(shipped(), tmp_path / "damaged")
    (tmp_path / "damaged" / "agent.json").write_text("{}")
    for arguments, message in (
        (["damaged", "me/repo"], "checksum"),
        (["classic/CartPole", "me/repo/classic/CartPole"], "a repository of its own"),
        (["classic/CartPole", "foo"], "'foo': a package has a repository of its own; write it as org/repo."),
        (["atari100k/pong", "me/repo"], "No trained model ships"),
    ):
        assert main(["push", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not fake.calls


def test_a_full_disk_is_not_the_hubs_fault(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match=r"^No space left on device$"):
        zoo.push("classic/CartPole", NAME)
    assert not fake.calls


def test_the_page_has_a_header_that_the_hub_reads(fake: FakeHub) -> None:
    zoo.push("classic/CartPole", NAME)
    text = (fake.root / NAME / "main" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "hd_agents"
    assert {"CartPole-v1", "reinforcement-learning", "deep-reinforcement-learning"} <= set(header["tags"])
    (result,) = header["model-index"][0]["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    (metric,) = result["metrics"]
    card = zoo.card("classic/CartPole")
    assert metric["type"] == "mean_reward"
    mean, _, deviation = metric["value"].partition(" +/- ")
    assert float(mean) == pytest.approx(card["evaluation"]["mean_return"], abs=0.01)
    assert float(deviation) == pytest.approx(card["evaluation"]["std_return"], abs=0.01)
    assert f'zoo.load("hf://{NAME}")' in text and card["commit"] in text and card["command"] in text
    assert hub_library.ModelCard(text).data.eval_results[0].metric_type == "mean_reward"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hd_agents\[hub\]"):
        zoo.load("hf://org/repo")


def test_the_real_library_reads_its_cache_without_a_network(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(shipped(), cache / "snapshots" / ("a" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    nowhere = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    program = f"from hd_agents import zoo; print(zoo.load({NAME!r}, device='cpu').num_timesteps); zoo.load('org/none')"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **nowhere},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "10000\n", result.stderr
    assert "ConnectionError: The Hub did not give or take org/none" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("command"),
        lambda card: card["evaluation"].pop("std_return"),
        lambda card: card.update(video="a film"),
        lambda card: card.update(wall_seconds="long"),
        lambda card: card["evaluation"].update(success_rate="most"),
    ],
)
def test_a_card_without_what_its_page_tells_is_not_pushed(
    change: Any, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shipped(), "copy")
    card = json.loads(Path("copy", "card.json").read_text())
    change(card)
    Path("copy", "card.json").write_text(json.dumps(card))
    assert main(["push", "copy", "me/repo"]) == 2
    assert "card.json does not state all that its page tells" in capsys.readouterr().err
    assert not fake.calls


def test_a_gated_repository_is_there_and_has_to_be_asked_for(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gated(*arguments: object, **named: object) -> None:
        raise fake.error("GatedRepoError", "403 Client Error\n\nCannot access gated repo for url ...")

    monkeypatch.setattr(hub_library, "snapshot_download", gated)
    assert main(["pull", NAME]) == 2
    assert f"{NAME} is open only to those whom its owner admits: ask for access" in capsys.readouterr().err
