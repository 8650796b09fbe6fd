"""A study on a Ray cluster of two workers, one of which is killed in the middle: nothing is lost, and nothing differs."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import command

from mmard.models.weights import read_state
from mmard.runs.folder import RunFolder

pytestmark = pytest.mark.extra
RAY = Path(sys.executable).parent / "ray"
START = [RAY, "start", "--block", "--disable-usage-stats"]
CELLS = [f"{student}/seed-{seed}" for student in ("cnn-2-1", "cnn-4-2") for seed in (0, 1)]


def write(path: Path, out: str) -> None:
    base = {"method": "standard", "data.limit": 300, "train.epochs": 30, "train.batch_size": 50}
    settings = {"validation.steps": 2, "threat.eps": 0.1, "checkpoint_every": 2}
    grid = {"student": ["cnn-2-1", "cnn-4-2"]}
    study: dict[str, Any] = {"out": out, "base": base, "settings": settings, "grid": grid, "seeds": [0, 1]}
    path.write_text(yaml.safe_dump({**study, "evaluate": {"attacks": "fgsm", "limit": 40}}))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head without work and two workers of one core; yields the environment of a process that joins it."""
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "RAY_ADDRESS": address}
    host, port = address.split(":")
    temporary = Path("/tmp") / f"mmard-ray-{port}"  # the paths of Ray's sockets must stay short
    head = [f"--node-ip-address={host}", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    nodes = [subprocess.Popen([*START, "--head", *head, f"--temp-dir={temporary}"], **quiet())]
    wait_for(lambda: listens(int(port)), nodes)
    worker = [f"--address={address}", f"--node-ip-address={host}", "--num-cpus=1", "--num-gpus=0"]
    for i in (1, 2):  # one after the other: two that start together choose the same socket
        nodes.append(joined([*START, *worker], temporary / f"session_latest/sockets/raylet.{i}", nodes))
    yield environment
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        with suppress(subprocess.TimeoutExpired):
            node.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)


def joined(words: list[Any], socket: Path, nodes: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a worker until it stays: Ray's gives up where the head, which listens already, is slow to answer."""
    for _ in range(5):
        node = subprocess.Popen(words, **quiet())
        wait_for(lambda node=node: socket.exists() or node.poll() is not None, nodes)
        if node.poll() is None:
            return node
    raise AssertionError("no worker joined the cluster")


def quiet() -> dict[str, Any]:
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Any, alive: list[subprocess.Popen[bytes]], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert all(process.poll() is None for process in alive), "ended too early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def parent_of(pid: int) -> int:
    """The raylet of a Ray worker."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("PPid:")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds Ray's processes in /proc")
def test_a_killed_worker_loses_nothing(cluster: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "many.yaml", "runs/many")
    write(tmp_path / "one.yaml", "runs/one")
    log = (tmp_path / "many.txt").open("w")
    words = command("study", "many.yaml", "--engine", "ray")
    study = subprocess.Popen(words, cwd=tmp_path, env=cluster, stdout=log, stderr=log)
    cut = RunFolder(tmp_path / "runs/many" / CELLS[0])
    wait_for(lambda: len(cut.metrics()) >= 3, [study])  # type: ignore[list-item]
    worker = int((cut.path / ".lock").read_text())
    raylet = parent_of(worker)
    for pid in (raylet, worker):  # the whole machine, as it were
        os.kill(pid, signal.SIGKILL)
    assert len(cut.metrics()) < 30
    assert study.wait(timeout=300) == 0, (tmp_path / "many.txt").read_text()
    assert (cut.path / "log.txt").read_text().count("training: step") == 2
    local = command("study", "one.yaml", "--jobs", "1", "--threads", "1")
    subprocess.run(local, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    for cell in CELLS:
        one, many = (read_state(tmp_path / "runs" / out / cell / "last.safetensors") for out in ("one", "many"))
        assert all(torch.equal(one[k], many[k]) for k in one)
        verdicts = "eval/best_FGSM_40-images/verdicts.safetensors"
        one, many = (read_state(tmp_path / "runs" / out / cell / verdicts) for out in ("one", "many"))
        assert torch.equal(one["correct"], many["correct"])


def test_without_a_cluster_it_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write(tmp_path / "s.yaml", "runs/s")
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    words = command("study", "s.yaml", "--engine", "ray")
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "no Ray cluster to join" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
