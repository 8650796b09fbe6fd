"""Memory against the kernel's own word, energy against a counter that is known."""

import math
import re
from pathlib import Path

import pytest
import torch

from mmard.training import resources
from mmard.training.engine import Engine

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
