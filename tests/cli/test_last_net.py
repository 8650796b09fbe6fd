"""What is printed stands as it is, and an end that nobody foresaw is one line: faults, Ctrl-C, a closed pipe, no memory."""

import errno
import io
import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import torch
from helpers import Run, command, small_net
from rich.console import Console

from mmard.api import catalogue
from mmard.cli import console
from mmard.cli.ls import list_all
from mmard.models.architectures import Architecture, build
from mmard.models.weights import save_weights
from mmard.runs.folder import RunFolder
from mmard.utils.errors import MmardError, as_mistake, is_out_of_memory
from mmard.utils.files import write_text, write_whole
from mmard.utils.terminal import ScreenTable, line

HOSTILE = "a [red]b[/red] [/x] [link=x] \\[c] :smile: \\"


def screen() -> Console:
    return Console(
        file=io.StringIO(), width=120
    )  # with markup: what is printed must not hang on the console's settings


def printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_text_of_users_is_never_markup() -> None:
    out, table = screen(), ScreenTable(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row((HOSTILE, "bold"))
    out.print(table)
    out.print(line(HOSTILE, (HOSTILE, "bold")))
    assert printed(out).count(HOSTILE) == 7


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert line("a\x1b[2J\rb\u202ec\udcff\n").plain == "a\\x1b[2J\\rb\\u202ec\\udcff\n"


@pytest.mark.parametrize("word", ["x[/b]", "x[red]", "a\\", "x[@click]", "\x1b[31m"])
def test_brackets_in_any_word_are_shown_as_they_are(word: str, mmard: Run) -> None:
    shown = line(word).plain
    for words in (["show", word], ["eval", word], ["study", word], ["report", word], ["train", f"train.lr={word}"],
                  ["ls", word], ["diagnose", word], ["export", word], ["results", word], [word]):  # fmt: skip
        done = mmard(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert shown in done.stderr or repr(word)[1:-1] in done.stderr, (words, done.stderr)


def test_a_fault_is_one_line_with_a_file_and_exit_70(
    mmard: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of a\nnew kind [red]")

    monkeypatch.setattr(catalogue, "catalogue", broken)
    monkeypatch.setenv("SECRET", "sesame")
    done = mmard("ls", "methods")
    assert (done.returncode, done.stderr.count("\n")) == (70, 1)
    (file,) = tmp_path.glob("mmard-error-*.txt")
    assert "unexpected ZeroDivisionError: of a new kind [red]" in done.stderr
    assert str(file.name) in done.stderr
    details = file.read_text()
    assert details.startswith("mmard ls methods\n")
    for part in ("test_last_net.py", "ZeroDivisionError", f"torch {torch.__version__}", "Python 3"):
        assert part in details
    assert "sesame" not in details


def test_details_go_elsewhere_where_nothing_can_be_written(
    mmard: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()  # nobody can write into a folder that is gone, root neither
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(temporary))
    monkeypatch.setattr(catalogue, "catalogue", lambda: 1 / 0)
    done = mmard("ls")
    assert done.returncode == 70
    (file,) = temporary.glob("mmard-error-*.txt")
    assert str(file) in done.stderr


def test_ctrl_c_is_one_line_and_130(mmard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "catalogue", stopped)
    done = mmard("ls")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_python_gets_the_exception_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "catalogue", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list_all(None)


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("ls", "models"), stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(write)
    assert done.stderr == ""


def test_memory_that_is_not_there_is_one_line_whoever_says_it() -> None:
    for ask in (
        lambda: torch.zeros(10**13),
        lambda: torch.zeros(10**10, 10**10),
        lambda: bytearray(10**14),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as e:
            ask()
        assert is_out_of_memory(e.value)
        assert "out of memory" in str(as_mistake(e.value))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "name",
    [
        "cnn-100000000-3",
        "wrn-34-1000000",
        "cnn-16-999",
        "wrn-94-9999",
        "vit-9999999-1-4",
        "cnn-1-" + 30 * "9",
        pytest.param("wrn-9994-9999", marks=pytest.mark.slow),
    ],
)
def test_a_name_of_absurd_size_is_one_line(name: str, mmard: Run) -> None:
    with pytest.raises(MmardError, match=name):
        build(Architecture(name=name, classes=10))
    done = mmard("train", "--method", "standard", "--student", name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert name in done.stderr


def test_a_card_of_absurd_size_is_one_line() -> None:
    with pytest.raises(MmardError, match="GiB, this machine has"):
        build(Architecture(name="cnn-16-3", classes=10**13))


def test_how_large_a_network_is_draws_no_random_number() -> None:
    torch.manual_seed(3)
    expected = torch.nn.Conv2d(3, 4, 3, bias=False).weight
    torch.manual_seed(3)
    net = build(Architecture(name="cnn-4-2", classes=4))
    assert torch.equal(next(net.parameters()), expected)


def test_each_process_says_which_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "RANK", "3")
    console.tell("bold red", "error", "no [x]")
    assert capsys.readouterr().err == "error in process 3: no [x]\n"


def test_a_full_disk_is_one_line_with_the_path_and_what_is_free(tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(MmardError) as e:
        write_whole(tmp_path / "a.json", full)
    assert f"cannot write {tmp_path}/a.json: No space left on device; free some space" in str(e.value)
    assert " MB are free there" in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MmardError, match="is no plain file and cannot be replaced"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_no_attacks_by_an_empty_list_of_names_is_one_line(mmard: Run, tmp_path: Path) -> None:
    save_weights(tmp_path / "m.safetensors", small_net(classes=10))
    done = mmard("eval", "m.safetensors", "data.name=digits", "threat.eps=0.1", "--attacks", ",")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "attacks ',' names none; expected such as fgsm,pgd-20" in done.stderr


def test_a_disk_without_a_byte_left_names_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.lock()
    (tmp_path / "full").symlink_to("/dev/full")
    lock = folder._lock
    assert lock is not None
    with (tmp_path / "full").open("w") as full:
        os.dup2(full.fileno(), lock.fileno())  # what was not flushed yet meets a full disk when it is closed
    lock.write("1")
    with pytest.raises(MmardError, match=r"cannot write .*/x\.json"), closing(folder):
        write_whole(tmp_path / "x.json", lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
