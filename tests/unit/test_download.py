"""Downloads from a server on this machine: resumed, checked, kept, and refused in one line."""

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from helpers import small_net

from mmard import MmardError, load_model
from mmard.utils import download
from mmard.utils.download import download_folder, fetched, is_fetched
from mmard.utils.errors import Note
from mmard.utils.files import sha256

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


class Server(ThreadingHTTPServer):
    """A server of one file, with the faults that a test gives it.

    Attributes:
        cuts: after so many bytes the connection ends, one entry for each request; then no more.
        refuses: status codes, one for each request.
        ranges: what the requests asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.mark = WEIGHTS, '"one"'
        self.cuts: list[int] = []
        self.refuses: list[int] = []
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/models/w%20rn.pt?id=3"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, its = self.headers["Range"], self.server
        its.ranges.append(asked)
        if its.refuses:
            self.send_error(its.refuses.pop(0))
            return
        same = self.headers["If-Range"] in (None, its.mark)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(its.content) - 1}/{len(its.content)}")
        self.send_header("ETag", its.mark)
        self.send_header("Content-Length", str(len(its.content) - begin))
        self.end_headers()
        end = its.cuts.pop(0) if its.cuts else len(its.content)
        self.wfile.write(its.content[begin : max(begin, end)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_file_is_fetched_once_and_kept(server: Server) -> None:
    heard: list[tuple[int, int | None]] = []
    assert not is_fetched(server.url)
    file = fetched(server.url, DIGEST.upper(), lambda have, whole: heard.append((have, whole)))
    assert file.read_bytes() == WEIGHTS
    assert file.is_relative_to(download_folder())
    assert file.name == "w-rn.pt"
    assert heard[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert fetched(server.url) == file
    assert is_fetched(server.url)
    assert server.ranges == [None]


def test_a_cut_connection_goes_on_where_it_ended(server: Server) -> None:
    server.cuts = [300_000, 700_001]
    assert fetched(server.url, DIGEST).read_bytes() == WEIGHTS
    assert server.ranges == [None, "bytes=300000-", "bytes=700001-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server) -> None:
    server.cuts = [300_000] * 20
    with pytest.raises(MmardError, match=r"did not come: the connection was cut; 0\.3 MB are kept.*goes on") as e:
        fetched(server.url, DIGEST)
    assert "\n" not in str(e.value)
    server.cuts, server.ranges = [], []
    assert fetched(server.url, DIGEST).read_bytes() == WEIGHTS
    assert server.ranges == ["bytes=300000-"]


def test_another_file_at_the_address_is_fetched_from_its_beginning(server: Server) -> None:
    server.cuts = [300_000] * 20
    with pytest.raises(MmardError, match="did not come"):
        fetched(server.url)
    server.cuts, server.content, server.mark = [], WEIGHTS[::-1], '"two"'
    assert fetched(server.url).read_bytes() == WEIGHTS[::-1]


def test_a_server_that_fails_for_a_while_is_asked_again(server: Server) -> None:
    server.refuses = [503, 500]
    assert fetched(server.url).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([500] * 20, "the server says 500 Internal Server Error"),
        ([404], "404 Not Found; is the address still right"),
        ([403], "403 Forbidden; it wants a login, or permission"),
    ],
)
def test_a_server_that_refuses_is_one_line(server: Server, codes: list[int], words: str) -> None:
    server.refuses = codes
    with pytest.raises(MmardError, match=words) as e:
        fetched(server.url)
    assert server.url in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page and not the file itself.*direct link"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a pointer of Git LFS"),
        (WEIGHTS[:-1] + b"x", "is another file: it has sha256"),
    ],
)
def test_what_is_not_the_file_is_not_kept(server: Server, content: bytes, words: str) -> None:
    server.content = content
    with pytest.raises(MmardError, match=words):
        fetched(server.url, DIGEST)
    assert not is_fetched(server.url)
    server.content = WEIGHTS
    assert fetched(server.url, DIGEST).read_bytes() == WEIGHTS


def test_a_file_that_changed_since_is_refused(server: Server) -> None:
    file = fetched(server.url)
    file.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(MmardError, match="has changed since it was fetched; remove it"):
        fetched(server.url)
    file.unlink()
    assert fetched(server.url).read_bytes() == WEIGHTS
    with pytest.raises(MmardError, match=r"has sha256.*expected 00000"):
        fetched(server.url, "0" * 64)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "no address to fetch from"),
        ("weights.pt", "no address to fetch from"),
        ("http://[::1", "is no address to fetch from .Invalid IPv6 URL."),
        ("http://example.com/w.pt", "unprotected; give its sha256"),
    ],
)
def test_an_address_that_is_none(url: str, words: str, server: Server) -> None:
    with pytest.raises(MmardError, match=words):
        fetched(url)


def test_nobody_at_the_address(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(MmardError, match="did not come: Connection refused"):
        fetched(server.url)


def card(folder: Path, server: Server, **facts: object) -> Path:
    """A card whose weights the server gives."""
    torch.save({"state_dict": small_net(10, name="cnn-4-2").net.state_dict()}, folder / "w.pt")
    server.content = (folder / "w.pt").read_bytes()
    told = {
        "architecture": "cnn-4-2",
        "classes": 10,
        "channels": 1,
        "url": server.url,
        "sha256": sha256(folder / "w.pt"),
    }
    (folder / "card.json").write_text(json.dumps({**told, **facts}))
    return folder / "card.json"


def test_a_card_with_a_url_is_fetched_when_it_is_used_and_says_where(server: Server, tmp_path: Path) -> None:
    server.cuts = [5000]
    with pytest.warns(Note, match=r"fetching http://127.*it is kept in .*downloads"):
        model = load_model(card(tmp_path, server))
    saved = torch.load(tmp_path / "w.pt")["state_dict"]
    assert torch.equal(model.net.state_dict()["fc.weight"], saved["fc.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path / "card.json")
    assert len(server.ranges) == 2


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sha256": "0" * 64}, "is another file: it has sha256"),
        ({"file": "w.pt"}, "either 'file' or 'hub' or 'url'"),
        ({"url": "ftp://a/b"}, "no address to fetch from"),
        ({"url": None}, "either 'file' or 'hub' or 'url'"),
    ],
)
@pytest.mark.filterwarnings("ignore:fetching")
def test_a_card_with_a_wrong_url(server: Server, tmp_path: Path, facts: dict[str, object], words: str) -> None:
    with pytest.raises(MmardError, match=words):
        load_model(card(tmp_path, server, **facts))
