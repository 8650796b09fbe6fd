"""What a step of each method costs, counted, against counts by hand; memory and energy."""

import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from mmard.bench.measure import synchronized
from mmard.core.method import Method
from mmard.methods import (
    METHODS,
    adaad,
    adr,
    ard,
    awp,
    ciard,
    fair,
    igdm,
    mmard,
    peeraid,
    pgd_at,
    rebat,
    rpat,
    rslad,
    standard,
    waypoints,
)
from mmard.methods.papers import paper_of
from mmard.training import resources
from mmard.training.engine import Engine
from mmard.training.passes import ATTACK, LOSS, PassCounter, Passes, cost_of
from mmard.utils.precision import full_precision, tf32

# network → forwards and backwards in the attack, in the loss
BY_HAND: dict[str, tuple[Method, dict[str, tuple[int, int, int, int]]]] = {
    "standard": (standard(), {"student": (0, 0, 1, 1)}),
    "pgd_at": (pgd_at(), {"student": (10, 10, 1, 1)}),
    "rslad": (rslad(), {"student": (10, 10, 2, 2), "teacher": (1, 0, 0, 0)}),
    "rslad at x' alone": (rslad(alpha=1.0), {"student": (10, 10, 1, 1), "teacher": (1, 0, 0, 0)}),
    "adaad": (adaad(), {"student": (10, 10, 2, 2), "teacher": (10, 10, 2, 0)}),
    "mmard, once": (mmard(inner="drift", every=10), {"student": (10, 10, 2, 2), "teacher": (2, 1, 1, 0)}),
    "mmard, ∇ every 3": (mmard(inner="drift", every=3), {"student": (10, 10, 2, 2), "teacher": (5, 4, 1, 0)}),
    "peeraid": (peeraid(), {"student": (10, 10, 3, 2), "peer": (1, 0, 1, 1)}),
    "ciard": (ciard(), {"student": (10, 10, 2, 2), "natural": (0, 0, 2, 0), "teacher": (0, 0, 1, 1)}),
    "igdm": (igdm(adaad()), {"student": (10, 10, 3, 3), "teacher": (10, 10, 3, 0)}),
    "fair": (fair(rslad()), {"student": (10, 10, 2, 2), "teacher": (1, 0, 0, 0)}),
    "adr": (adr(), {"student": (10, 10, 1, 1), "average": (1, 0, 0, 0)}),
    "rebat": (rebat(), {"student": (10, 10, 1, 1), "average": (0, 0, 1, 0)}),
    "ard in training mode": (ard(attack_in_train_mode=True), {"student": (10, 10, 2, 2), "teacher": (0, 0, 1, 0)}),
    "rpat": (rpat(), {"student": (10, 10, 3, 3)}),
    "waypoints": (waypoints(), {"student": (10, 10, 4, 4), "teacher": (1, 0, 2, 0)}),
    "awp": (awp(rslad(), begin=200), {"student": (10, 10, 4, 4), "teacher": (1, 0, 0, 0)}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_are_those_by_hand(name: str) -> None:
    method, expected = BY_HAND[name]
    cost = cost_of(method)
    found = {
        network: (of["attack"].forward, of["attack"].backward, of["loss"].forward, of["loss"].backward)
        for network, of in cost.items()
    }
    assert found == expected
    assert not any(of["attack"].weights for of in cost.values()), "an attack asks for no gradient of weights"


def test_a_teacher_whose_logits_at_x_are_known_is_asked_elsewhere_alone() -> None:
    """Of a method that asks at x' too; a network that is trained beside the student is asked as ever."""
    assert cost_of(rslad(), known_at_x=True)["teacher"] == {ATTACK: Passes(), LOSS: Passes()}
    assert cost_of(mmard(rslad()), known_at_x=True)["teacher"] == {ATTACK: Passes(), LOSS: Passes(1)}
    assert cost_of(peeraid(), known_at_x=True) == cost_of(peeraid())


def test_every_method_names_its_paper() -> None:
    """As its file cites it: authors, year, and a venue or a number."""
    papers = {name: paper_of(build) for name, build in METHODS.items()}
    assert papers.pop("standard") == ""
    assert all(
        re.fullmatch(r"[\w ]+( et al\.)?, (\w+ )?20\d\d(, arXiv \d{4}\.\d{5})?", paper) for paper in papers.values()
    )
    assert all(" 20" in paper.split(", ")[1] or "arXiv" in paper for paper in papers.values())
    assert papers["saad_c"] == "Lee and Chung, TMLR 2026, arXiv 2512.10275"
    assert papers["mtard"] == "Zhao et al., ECCV 2022"
    assert paper_of(test_every_method_names_its_paper) == ""  # type: ignore[arg-type]


def test_listing_everything_imports_nothing_slow() -> None:
    """What `mmard ls` shows is counted in the trainer's step, yet without what a run imports besides torch."""
    code = "import sys; from mmard.api.catalogue import catalogue; [made() for made in catalogue().values()]; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in found
    assert not {"lightning_fabric", "torch._dynamo", "sympy", "scipy", "matplotlib", "sklearn", "onnx"} & set(found)


def test_a_counter_tells_weights_from_images_and_leaves_no_hook() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    x = torch.rand(1, 3, requires_grad=True)
    with PassCounter({"net": net}) as counter:
        net.eval()(x).sum().backward()
        counter.phase = ATTACK
        net.train()(x).sum().backward()
        net(x)
    net(x).sum().backward()
    assert counter.counts == {"net": {LOSS: Passes(1, 1, 0), ATTACK: Passes(2, 1, 1)}}


def test_counting_leaves_method_and_flags_as_they_were() -> None:
    """A bench counts the passes of the very method that it times."""
    method = fair(rslad())
    before = {k: v.clone() for m in method.modules() for k, v in m.state_dict().items()}
    with tf32(convolutions=True, products=True):
        cost_of(method)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    after = {k: v for m in method.modules() for k, v in m.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says it there")
def test_peak_memory_is_what_the_kernel_says() -> None:
    held = torch.ones(32 * 2**20, dtype=torch.uint8)
    found, said = resources.peak_mib(torch.device("cpu")), re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert said is not None
    assert found == pytest.approx(int(said[1]) / 1024, rel=0.02)
    assert found > len(held) / 2**20


@pytest.mark.parametrize(("readings", "joules"), [((100.0, 130.5), 30.5), ((math.nan, math.nan), None)])
def test_energy_is_the_difference_of_the_counter(
    readings: tuple[float, float], joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(readings)
    monkeypatch.setattr(resources, "_counter", lambda device: lambda: next(said))
    meter = resources.ResourceMeter(Engine(accelerator="cpu"))
    meter.start()
    assert meter.spent().get("joules") == joules


def test_a_cpu_counts_no_energy() -> None:
    meter = resources.ResourceMeter(Engine(accelerator="cpu"))
    meter.start()
    assert set(meter.spent()) == {"peak_mib"}


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "cpu"])
def test_a_clock_is_read_after_the_device_has_done_its_work_whatever_its_kind(monkeypatch, kind):
    """Only cuda was waited for: on other devices a step took as long as its launching."""
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    device = torch.device(kind)
    synchronized(device)
    Engine.synchronize(cast(Engine, SimpleNamespace(device=device)))
    assert waited == ([] if kind == "cpu" else [device] * 2)


class ReadsFlags(nn.Module):
    """A network that switches cuDNN off around a layer, as some do: PyTorch reads its older settings then."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.backends.cudnn.flags(enabled=False):  # type: ignore[no-untyped-call]
            return self.fc(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("inside", [full_precision, lambda: tf32(convolutions=True, products=True)])
def test_tensor_float_32_can_be_read_inside_and_is_the_callers_after(before: str, inside: Any) -> None:
    torch.set_float32_matmul_precision(before)
    try:
        then = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        with inside():
            assert ReadsFlags()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
            torch.get_float32_matmul_precision()
            on = inside is not full_precision
            assert (torch.backends.cuda.matmul.fp32_precision == "tf32") == on
        assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == then
    finally:
        torch.set_float32_matmul_precision("highest")
