"""Directories and hub ids. The hub is a server on this machine; huggingface_hub asks it in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from edgeprune.checkpoint import source
from edgeprune.checkpoint.source import Source, resolve
from edgeprune.errors import CheckpointError, EdgePruneError, MissingExtra, UsageError
from tools.random_checkpoint import write_checkpoint

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import json, sys
from edgeprune.checkpoint.source import resolve
from edgeprune.errors import EdgePruneError
for word in sys.argv[1:]:
    model, _, revision = word.partition("@")
    try:
        found = resolve(model, revision or None, quiet=True)
        answer = {"path": str(found.path), "id": found.id, "revision": found.revision}
    except EdgePruneError as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
"""


class FakeHub(BaseHTTPRequestHandler):
    """Answers for ``good/*`` with ``files``, and for everything else with the error in its name."""

    files: ClassVar[dict[str, bytes]] = {}
    served: ClassVar[list[str]] = []
    errors: ClassVar[dict[str, tuple[int, str]]] = {
        "gone": (404, "RepoNotFound"),
        "private": (401, "RepoNotFound"),
        "gated": (403, "GatedRepo"),
    }

    def do_GET(self) -> None:
        """Serves the API and the files."""
        path = self.path.partition("?")[0].removeprefix("/api/models").lstrip("/")
        owner, _name, *rest = path.split("/")
        if owner in self.errors:
            status, code = self.errors[owner]
            return self._send(b"", status, {"X-Error-Code": code, "X-Error-Message": f"{owner} it is"})
        if "absent-revision" in rest:
            return self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        if "resolve" in rest:
            name = "/".join(rest[2:])
            self.served.append(name)
            return self._send(self.files[name], 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{len(name):040}"'})
        if "tree" in rest:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{len(name):040}"}
                for name, data in self.files.items()
            ]
            return self._send(json.dumps(listing).encode())
        siblings = [{"rfilename": name} for name in self.files]
        return self._send(json.dumps({"id": "good/model", "sha": COMMIT, "siblings": siblings}).encode())

    do_HEAD = do_GET

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a hub that holds the tiny checkpoint, and files nobody should ask for."""
    folder = write_checkpoint("tiny", tmp_path_factory.mktemp("hub"))
    FakeHub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    FakeHub.files |= {"pytorch_model.bin": b"pickle", "run.py": b"raise SystemExit", "README.md": b"#"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _ask(home: Path, *models: str, **environment: str) -> list[dict[str, str]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ran = subprocess.run(
        [sys.executable, "-c", ASK, *models],
        cwd=ROOT,
        env={**inherited, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_hub_id_is_downloaded_then_found_offline(tmp_path: Path, hub: str) -> None:
    (found,) = _ask(tmp_path, "good/model", HF_ENDPOINT=hub)
    assert (found["id"], found["revision"]) == ("good/model", COMMIT)
    assert Path(found["path"]).is_relative_to(tmp_path)  # HF_HOME
    files = {path.name for path in Path(found["path"]).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.json"} <= files
    assert not files & {"pytorch_model.bin", "run.py", "README.md"}
    assert "pytorch_model.bin" not in FakeHub.served

    again, absent = _ask(tmp_path, "good/model", "good/other", HF_HUB_OFFLINE="1", HF_ENDPOINT=hub)
    assert again == found
    assert absent["error"].startswith("CheckpointError: 'good/other' is not (completely) in the cache, and HF_HUB_OFF")


def test_what_a_hub_can_refuse(tmp_path: Path, hub: str) -> None:
    words = ("gone/model", "private/model", "gated/model", "good/model@absent-revision", "bad/..name")
    answers = [answer["error"] for answer in _ask(tmp_path, *words, HF_ENDPOINT=hub)]
    assert "the hub shows no 'gone/model': check the spelling" in answers[0]
    assert "'private/model'" in answers[1] and "HF_TOKEN" in answers[1]
    assert "'gated/model' is gated" in answers[2]
    assert "the hub has no 'good/model' at revision 'absent-revision'" in answers[3]
    assert "is no valid hub id" in answers[4]
    assert all(answer.startswith("CheckpointError: ") and "\n" not in answer for answer in answers)


def test_no_network(tmp_path: Path) -> None:
    (answer,) = _ask(tmp_path, "good/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["error"].startswith("CheckpointError: could not reach the hub, and 'good/model' is not")


def test_a_full_disk_while_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_arguments: object, **_options: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"could not download 'org/name': .*No space left"):
        resolve("org/name")


def test_quiet_hides_the_bars_and_restores_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    seen: list[bool] = []
    folder = write_checkpoint("tiny", tmp_path)

    def download(*_arguments: object, **_options: object) -> str:
        seen.append(are_progress_bars_disabled())
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    before = are_progress_bars_disabled()
    resolve("org/name", quiet=True)
    resolve("org/name")
    assert seen == [True, before]
    assert are_progress_bars_disabled() == before


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeprune\[export\]'"):
        resolve("org/name")


def test_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint("tiny", tmp_path / "org" / "name")
    assert resolve(str(folder)) == Source(path=folder, id="name", revision=None)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name").revision is None  # a directory wins over a hub id
    monkeypatch.chdir(folder)
    assert resolve(".").id == "name"


def test_a_revision_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="revision 'main' applies to hub ids only"):
        resolve(str(tmp_path), "main")


@pytest.mark.parametrize("word", ["absent", "/absent/place", "./a/b", "a/b/c", "", "../x", "org/na me"])
def test_neither_a_directory_nor_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgePruneError, match=r"expected a checkpoint directory|no checkpoint|not a checkpoint"):
        resolve(word)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(CheckpointError, match="is a file; expected a checkpoint's directory"):
        resolve(str(path))


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it holds no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="holds no weights"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickles_are_named_and_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match="only safetensors are read") as caught:
        resolve(str(tmp_path))
    assert str(tmp_path / name) in str(caught.value)
    assert "save_pretrained('converted')" in str(caught.value)


def test_source_has_a_name() -> None:
    with pytest.raises(ValueError, match="id is empty"):
        Source(path=Path(), id="", revision=None)
    assert "*.bin" not in source.HUB_PATTERNS
