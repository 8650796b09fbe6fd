"""Several CPU processes: equal weights on each, the same loss as one process with the whole batch, the same verdicts."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from helpers import QUICK, Run, small_net
from torch import nn

from mmard import Scores
from mmard.models.architectures import FAMILIES, Architecture
from mmard.models.weights import read_state, save_weights
from mmard.runs.folder import RunFolder
from mmard.training.engine import Engine
from mmard.utils.files import load_safely

# A net without BatchNorm, examples without a random start: then the number of processes can change nothing but rounding.
METHOD = """
import os, torch
from dataclasses import replace
from pathlib import Path
import mmard.models.architectures as students
from mmard import Pgd
from mmard.methods import mmard, rslad
from torch import nn

def plain(a):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, a.classes))

students.FAMILIES["plain"] = ("no BatchNorm", plain)

def build():
    return replace(rslad(), maximizer=Pgd(steps=2, start="none"))
"""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judged(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["clean"], line["robust"]) for line in lines]


@pytest.mark.parametrize("several", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_two_and_four_processes_train_as_one_with_the_whole_batch(
    several: int, mmard_process: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    words = [
        "train",
        *QUICK,
        "train.batch_size=60",
        "student=plain",
        "--method",
        "mine.py:build",
        "--teacher",
        digits_teacher,
    ]
    for count, parts in ((1, 60), (several, 15)):  # two processes with their halves in two parts
        devices = [f"engine.devices={count}", "engine.accelerator=cpu", f"engine.micro_batch={parts}"]
        done = mmard_process(*words, *devices, f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    one, other = (read_state(tmp_path / f"runs/{count}/last.safetensors") for count in (1, several))
    assert losses(tmp_path / f"runs/{several}") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-5)
    assert judged(tmp_path / f"runs/{several}") == judged(tmp_path / "runs/1")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_warm_starts_are_those_of_one_process_with_the_whole_batch(
    mmard_process: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    """Samples are shared out anew in each epoch: a process needs what another has made of them."""
    (tmp_path / "mine.py").write_text(METHOD)
    words = ["train", *QUICK, "train.batch_size=60", "train.epochs=3", "student=plain", "attack.warm_start=true"]
    words += ["--method", "mine.py:build", "--teacher", str(digits_teacher), "engine.accelerator=cpu"]
    kept, known = {}, {}
    for count in (1, 2):
        done = mmard_process(*words, f"engine.devices={count}", f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
        state = load_safely(tmp_path / f"runs/{count}/checkpoint.pt")
        kept[count] = state["terms"][0]["kept"].view(torch.float16).float()
        known[count] = state["terms"][0]["known"]
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-5)
    assert torch.equal(known[1], known[2])
    assert 260 <= known[1].sum() <= 270  # a last, smaller batch is left out of each epoch
    assert (kept[1] != 0).any()
    assert torch.isclose(kept[1], kept[2], atol=1e-3).float().mean() > 0.999  # a sign of rounding goes either way


STOPS = """
import os, signal
from dataclasses import replace
from pathlib import Path
from mmard import Pgd
from mmard.core.objective import term
from mmard.methods import rslad

sent = False

@term("0·S(x)")
def stop(v):
    global sent
    if not sent and 0.55 < v.progress < 0.9 and Path("stop").exists():
        sent = True
        os.kill(os.getpid(), signal.SIGTERM)
    return 0 * v.nat.student[:, 0]

def build():
    base = replace(rslad(), maximizer=Pgd(steps=2, start="none"))
    return replace(base, outer=base.outer + 1.0 * stop)
"""


@pytest.mark.slow
def test_processes_that_are_stopped_within_an_epoch_end_bit_equal(
    mmard_process: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    """Each has BatchNorm statistics of its own until the epoch ends; a mean of them at the stop made another run."""
    (tmp_path / "mine.py").write_text(STOPS)
    words = ["train", *QUICK, "train.batch_size=40", "student=cnn-4-2", "--method", "mine.py:build"]
    words += ["--teacher", str(digits_teacher), "engine.devices=2", "engine.accelerator=cpu"]
    (tmp_path / "stop").touch()
    done = mmard_process(*words, "out=runs/cut")
    assert done.returncode in (1, 143), done.stderr
    state = RunFolder(tmp_path / "runs/cut").load()
    assert state is not None
    assert state["clock"] is not None  # within an epoch
    assert any(not torch.equal(each[0], each[1]) for each in state["buffers"])
    (tmp_path / "stop").unlink()
    assert mmard_process(*words, "out=runs/cut", "--resume").returncode == 0
    assert mmard_process(*words, "out=runs/whole").returncode == 0
    whole, cut = (read_state(tmp_path / f"runs/{run}/last.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


STATES = """
from dataclasses import replace
from mine import Pgd, build as base
from mmard.methods import METHODS

def build():
    absld, b_mtard = METHODS["absld"](rate=0.4), METHODS["b_mtard"](tau_rate=0.05)
    return replace(absld, outer=absld.outer + b_mtard.outer, maximizer=Pgd(steps=2, start="none"))
"""


@pytest.mark.slow
def test_a_methods_state_is_that_of_the_whole_batch_in_every_process(
    mmard_process: Run, digits_teacher: Path, tmp_path: Path
) -> None:
    """Weights and temperatures that move in every step, and temperatures that move after an epoch."""
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "states.py").write_text(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{STATES}")
    save_weights(tmp_path / "natural.safetensors", small_net(classes=10, name="cnn-4-2", seed=3))
    words = ["train", *QUICK, "train.batch_size=60", "student=plain", "--method", "states.py:build"]
    words += ["--teacher", str(digits_teacher), "teachers.natural=natural.safetensors", "checkpoint_every=3"]
    for count, parts in ((1, 60), (2, 15)):
        devices = [f"engine.devices={count}", "engine.accelerator=cpu", f"engine.micro_batch={parts}"]
        done = mmard_process(*words, *devices, f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-3)
    one, two = (RunFolder(tmp_path / f"runs/{count}").load() or {} for count in (1, 2))
    states = [dict(enumerate(s["terms"])) for s in (one, two)]
    assert states[0].keys() == {0, 1}
    for which, saved in states[0].items():
        for name, value in saved.items():
            share = 2 if name == "sums" else 1  # each process's own, averaged
            torch.testing.assert_close(share * states[1][which][name], value, rtol=1e-3, atol=1e-4)
    assert states[0][0]["taus"].std() > 0.1
    assert states[0][1]["temperatures.taus"].max() > 1.2


COMPOSED = (
    METHOD
    + """
from mmard.methods import awp, ciard, fair, igdm

def composed():
    base = replace(ciard(begin=0.2), maximizer=Pgd(steps=2, start="none"))
    return awp(igdm(fair(base, beta=0.5), alpha=1.0), gamma=0.02)
"""
)


@pytest.mark.slow
def test_a_companion_state_and_awp_do_not_depend_on_the_number_of_processes(
    mmard_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIARD's teacher learns, classes are weighed, weights move up the loss: as in one process with the whole batch."""
    (tmp_path / "mine.py").write_text(COMPOSED)

    def plain(a: Architecture) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, a.classes))

    monkeypatch.setitem(FAMILIES, "plain", ("no BatchNorm", plain))
    for seed, name in enumerate(("teacher", "natural")):
        save_weights(tmp_path / f"{name}.safetensors", small_net(classes=10, name="plain", seed=seed))
    words = ["train", *QUICK, "train.batch_size=60", "student=plain", "--method", "mine.py:composed"]
    words += ["--teacher", "teacher.safetensors", "teachers.natural=natural.safetensors"]
    for count in (1, 2):
        done = mmard_process(*words, f"engine.devices={count}", "engine.accelerator=cpu", f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-4)
    for name in ("last", "teacher"):
        one, two = (read_state(tmp_path / f"runs/{count}/{name}.safetensors") for count in (1, 2))
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    carried = [(RunFolder(tmp_path / f"runs/{count}").load() or {})["terms"] for count in (1, 2)]
    for one, two in zip(*carried, strict=True):
        for key, value in one.items():
            share = 2 if key in ("right", "seen") else 1  # each process's own, averaged
            torch.testing.assert_close(share * two[key], value, rtol=1e-3, atol=1e-4)
    assert {"weights", "temperatures.taus"} <= {key for state in carried[0] for key in state}
    taught, given = read_state(tmp_path / "runs/1/teacher.safetensors"), read_state(tmp_path / "teacher.safetensors")
    assert any(not torch.equal(taught[key], given[key]) for key in given)


@pytest.mark.slow
def test_the_students_average_is_that_of_one_process(mmard_process: Run, tmp_path: Path) -> None:
    """ADR: the network that makes the labels, in two processes with halves in parts, and in one with the whole batch."""
    made = "replace(METHODS['adr'](decay=0.8), maximizer=Pgd(steps=2, start='none'))"
    adr = f"\nfrom mmard.methods import METHODS\ndef built():\n    return {made}\n"
    (tmp_path / "mine.py").write_text(METHOD + adr)
    words = ["train", *QUICK, "train.batch_size=60", "student=plain", "--method", "mine.py:built"]
    for count, parts in ((1, 60), (2, 15)):
        devices = [f"engine.devices={count}", "engine.accelerator=cpu", f"engine.micro_batch={parts}"]
        done = mmard_process(*words, *devices, f"out=runs/{count}")
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "runs/2") == pytest.approx(losses(tmp_path / "runs/1"), rel=1e-5)
    one, two, last = (
        read_state(tmp_path / f"runs/{name}.safetensors") for name in ("1/average", "2/average", "1/last")
    )
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(one[key], last[key]) for key in one)


@pytest.mark.parametrize(
    ("several", "attack"),
    [(2, "PGD-20"), pytest.param(4, "AutoAttack", marks=pytest.mark.slow)],
)
def test_processes_share_an_evaluation_and_give_the_same_verdicts(
    several: int, attack: str, mmard: Run, mmard_process: Run, tmp_path: Path
) -> None:
    mmard("train", *QUICK, "train.batch_size=10", "--method", "pgd_at", "student=cnn-8-2", "out=run")
    words = ["eval", "run", "--attacks", f"fgsm,{attack.lower()}", "--limit", 18, "--batch-size", 7, "threat.eps=0.04"]
    words += ["--checks", "quick"]
    scores = {}
    for count in (1, several):
        done = mmard_process(*words, f"engine.devices={count}", "engine.accelerator=cpu")
        assert done.returncode == 0, done.stderr
        assert len([row for row in done.stdout.splitlines() if row.startswith(f"│ {attack}")]) == 1
        (folder,) = tmp_path.glob("run/eval/*")  # the same folder, however many processes
        scores[count] = Scores.load(folder).correct
        shutil.rmtree(folder)
    assert 0 < scores[1][:, 2].sum() < scores[1][:, 0].sum()  # some fall and some stand
    assert torch.equal(scores[several], scores[1])


WITNESS = """
import torch, torch.distributed as dist
from mmard.api.overrides import parse_overrides
from mmard.api.settings import read_settings
from mmard.api.train import train
from mmard.training import trainer

old = trainer.Trainer.fit
def fit(self):  # looks here and keeps nothing: a process group that is held outlives the interpreter, and may abort it
    found = old(self)
    nets = [self.student, *self.beside.values(), *self.terms]
    state = torch.cat([t.double().flatten() for net in nets for t in (*net.parameters(), *net.buffers())])
    both = [torch.zeros_like(state) for _ in range(2)]
    dist.all_gather(both, state)
    print("EQUAL" if torch.equal(both[0], both[1]) else f"DIFFER {(both[0] - both[1]).abs().max()}")
    return found
trainer.Trainer.fit = fit
train(read_settings(None, parse_overrides(__import__("sys").argv[1:])))
"""


@pytest.mark.parametrize("method", ["mmard", pytest.param("peeraid", marks=pytest.mark.slow)])
def test_every_process_ends_with_the_same_weights_and_statistics(
    method: str, digits_teacher: Path, tmp_path: Path
) -> None:
    import subprocess
    import sys

    (tmp_path / "witness.py").write_text(WITNESS)
    words = [
        *QUICK,
        "student=cnn-4-3",
        f"method={method}",
        f"teacher={digits_teacher}",
        "engine.devices=2",
        "engine.accelerator=cpu",
    ]
    done = subprocess.run(
        [sys.executable, "witness.py", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("EQUAL") == 2, done.stdout


def test_a_batch_that_does_not_divide_is_one_line(mmard_process: Run) -> None:
    done = mmard_process(
        "train", *QUICK, "train.batch_size=51", "--method", "pgd_at", "engine.devices=2", "engine.accelerator=cpu"
    )
    assert done.returncode == 2
    assert "batch_size 51 does not divide by 2 processes" in done.stderr
    assert "Traceback" not in done.stderr


DYING = """
import os, signal
from dataclasses import replace
from mmard import term
from mmard.methods import pgd_at

calls = []

@term("0")
def mortal(v):
    calls.append(1)
    if len(calls) == 4 and os.environ.get("LOCAL_RANK") == os.environ["DIES"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0 * v.adv.student.sum(1)

def build():
    return replace(pgd_at(), outer=pgd_at().outer + mortal)
"""


@pytest.mark.parametrize("which", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_run_with_a_line_and_no_hang(
    which: str, mmard_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(DYING)
    monkeypatch.setenv("DIES", which)
    words = ["train", *QUICK, "--method", "mine.py:build", "engine.devices=2", "engine.accelerator=cpu", "out=run"]
    done = mmard_process(*words, timeout=300)
    assert done.returncode not in (0, None)
    assert "another of the run's 2 processes died" in done.stderr
    assert "Traceback" not in done.stderr


TWO_HEADS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
        self.head, self.other = nn.Linear(8, classes), nn.Linear(8, classes)

    def forward(self, x):
        features = self.body(x)
        return self.head(features), self.other(features)

def build(classes, channels):
    return Net(classes)
"""


@pytest.mark.slow
def test_weights_without_a_gradient_are_one_line_in_several_processes(mmard_process: Run, tmp_path: Path) -> None:
    """The logits are the first of a tuple; the rest has no loss, and torch told of it in a page."""
    (tmp_path / "net.py").write_text(TWO_HEADS)
    words = ["train", "--method", "pgd_at", "student=net.py:build", "engine.devices=2", "engine.accelerator=cpu"]
    done = mmard_process(*words, *QUICK, "out=run", timeout=300)
    assert done.returncode not in (0, None)
    assert "weights take no part in the loss" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_dies_while_it_starts_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Engine(accelerator="cpu")
    launcher = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    launcher.info(
        "[rank: 1] Child process with PID 7 terminated with code -9. Forcefully terminating all other processes"
    )
    assert "error: a process of the run ended with code -9, and the run with it" in capsys.readouterr().err
