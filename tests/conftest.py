"""Things that many tests need: a tiny data set, a teacher, and the command line as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before torch looks, and for the processes that tests start: bit-equality is promised on the CPU, for one number of threads.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": os.environ.get("MMARD_TEST_THREADS", "1")}
import hypothesis
import torch
from helpers import SEED, Run, blobs, command, small_net
from rich.console import Console

from mmard.api.train import train
from mmard.cli import console, main
from mmard.data.images import DataSet, split
from mmard.data.sources import load
from mmard.models.weights import save_weights

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
hypothesis.settings.register_profile("untimed", deadline=None)  # no test hangs on how busy the machine is
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips", action="store_true", help="a test that skips fails: for CI, which has what tests need"
    )


def counted(report: Any, config: pytest.Config) -> Any:
    """Turn the report of a test, or of a file of tests, that skipped into a failure where ``--no-skips`` is given."""
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("no_skips"):
        report.outcome, report.longrepr = "failed", f"--no-skips: {report.longrepr[-1]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    return counted((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    return counted((yield), collector.config)


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the tests' runs use is remembered in a folder of the tests', for their processes too."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def tiny() -> DataSet:
    """Four easy classes."""
    return split("blobs", blobs(200), blobs(80, seed=1), held_out=0.2, seed=0)


@pytest.fixture(scope="session")
def digits_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know something of the digits: enough wherever a teacher is only needed to be there."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    net, (x, y, _) = small_net(classes=10, name="cnn-4-3"), load("digits").train.in_memory().batch(slice(None))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    save_weights(path, net.eval(), {"settings": {"data": {"name": "digits"}}})
    return path


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of nets on the digits that were trained adversarially, each for a few seconds; eps is 0.15."""
    base = tmp_path_factory.mktemp("honest")
    settings = {
        "student": "cnn-16-3", "normalize": "data", "threat__eps": 0.15, "attack__steps": 5, "attack__step_size": 0.05,
        "train__epochs": 6, "train__batch_size": 64, "train__weight_decay": 5e-4,
        "averaging__kind": "ema", "averaging__decay": 0.95, "validation__every": 9, "validation__steps": 2, "seed": SEED,
    }  # fmt: skip
    runs: dict[str, Path] = {}
    for method in ("pgd_at", "trades", "rslad", "mmard"):
        taught = {"teacher": str(runs["pgd_at"])} if method in ("rslad", "mmard") else {}
        runs[method] = train(method=method, out=str(base / method), **settings, **taught).path
    return runs


@pytest.fixture
def mmard_process(tmp_path: Path) -> Run:
    """Run ``mmard WORDS...`` as a process in an empty folder; gives exit code, standard output and standard error."""

    def run(*words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.run(
            command(*words), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def mmard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The same within this process, which saves the seconds that importing torch takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "out", Console(width=200))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["mmard", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return subprocess.CompletedProcess(sys.argv, code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
