"""`mmard push`: what goes to the hub, and what it says where that does not work; the hub is a server on 127.0.0.1."""

import base64
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from handmade import make_run
from helpers import Run, small_net

from mmard import MmardError
from mmard.api.push import push
from mmard.models.weights import save_weights

hub = pytest.importorskip("huggingface_hub")


@dataclass
class Hub:
    """What the hub was told, and what it answers."""

    status: int = 200
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that takes every file as a small one."""
    told = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = told.status, {}
            if self.path == "/api/repos/create":
                told.created.append(json.loads(body))
                answer = {"url": f"{os.environ['HF_ENDPOINT']}/me/net"}
            elif self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            elif self.path.endswith("/commit/main"):
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "file":
                        told.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {"commitUrl": f"{os.environ['HF_ENDPOINT']}/me/net/commit/0", "commitOid": "0"}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with settings that name folders of this machine."""
    made = make_run(tmp_path / "runs/a")
    settings = (made / "settings.yaml").read_text().replace("runs/teacher", str(tmp_path / "far/teacher"))
    assert str(tmp_path) in settings
    (made / "settings.yaml").write_text(settings)
    save_weights(made / "best.safetensors", small_net(), {"settings": {"teacher": str(tmp_path / "far/teacher")}})
    (made / "model.onnx").write_bytes(b"onnx")
    (made / "mine.txt").write_text("not for others")
    return made


def test_a_run_goes_to_the_hub_without_folders_of_this_machine(
    run: Path, fake: Hub, mmard: Run, tmp_path: Path
) -> None:
    done = mmard("push", run, "me/net")
    assert done.returncode == 0, done.stderr
    assert (fake.created[0]["name"], fake.created[0]["organization"]) == ("net", "me")
    assert fake.created[0].get("private", fake.created[0].get("visibility")) in (True, "private")
    assert {"README.md", "best.safetensors", "settings.yaml", "model.onnx"} <= fake.files.keys()
    assert "mine.txt" not in fake.files
    assert "checkpoint.pt" not in fake.files
    assert fake.files["best.safetensors"] == (run / "best.safetensors").read_bytes()
    assert os.fsencode(tmp_path) not in b"".join(fake.files.values())
    assert hub.ModelCard(fake.files["README.md"].decode()).data.library_name == "mmard"
    assert "uploaded: " in done.stdout
    mmard("push", run, "me/net", "--public")
    assert fake.created[-1].get("private", fake.created[-1].get("visibility")) in (False, "public")


def test_a_dry_run_shows_files_and_card_and_asks_nobody(
    run: Path, fake: Hub, mmard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = mmard("push", run, "me/net", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (fake.created, fake.files) == ([], {})
    size = (run / "best.safetensors").stat().st_size / 1e6
    assert f"{size:9.3f} MB  best.safetensors" in done.stdout
    assert "## How it was judged" in done.stdout
    assert "nothing was uploaded" in done.stdout


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "the token is not valid"), (403, "may not write there"), (404, "no such owner or repository")],
)
def test_what_the_hub_refuses_is_one_line(status: int, words: str, run: Path, fake: Hub, mmard: Run) -> None:
    fake.status = status
    done = mmard("push", run, "me/net")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "me/net was not uploaded to the hub: " in done.stderr
    assert words in done.stderr


def test_what_cannot_be_pushed_is_one_line(
    run: Path, fake: Hub, mmard: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        done = mmard("push", *words)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr

    assert "'net' is no repository of the hub; expected OWNER/NAME" in refused(run, "net")
    assert "is no run folder" in refused(tmp_path, "me/net")
    (run / "model.onnx").write_text(f"from {tmp_path}/runs/a")
    assert "model.onnx names the folder" in refused(run, "me/net")
    (run / "model.onnx").unlink()
    monkeypatch.setattr(hub, "get_token", lambda: None)
    assert "there is no token for the hub" in refused(run, "me/net")
    (run / "best.safetensors").unlink()
    assert "has no weights yet (best.safetensors)" in refused(run, "me/net")
    assert fake.files == {}


def test_links_out_of_the_folder_and_what_is_no_export_stay_here(run: Path, tmp_path: Path) -> None:
    """A folder from somebody else may hold a link to any file of this machine."""
    (tmp_path / "secret").write_bytes(b"key")
    (run / "notes.bin").write_bytes(b"not for others")
    (run / ".env.onnx").write_bytes(b"not for others")
    assert {"notes.bin", ".env.onnx"}.isdisjoint(push(run, "me/net", dry_run=True).files)
    (run / "model.xml").write_bytes(b"xml")
    (run / "model.bin").write_bytes(b"bin")
    assert {"model.xml", "model.bin"} <= push(run, "me/net", dry_run=True).files.keys()
    (run / "model.pte").symlink_to(tmp_path / "secret")
    with pytest.raises(MmardError, match=r"model\.pte is a link out of the run's folder"):
        push(run, "me/net", dry_run=True)


@pytest.mark.parametrize("secret", ["hf_" + "aB3" * 12, "https://me:word@host/x.npz"])
def test_a_token_in_a_file_is_not_shown_to_all(run: Path, secret: str) -> None:
    (run / "network.py").write_text(f"KEY = '{secret}'")
    with pytest.raises(MmardError, match=r"network\.py holds a token or a password"):
        push(run, "me/net", dry_run=True)
