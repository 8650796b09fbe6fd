"""``engine.precision=auto``: what it chooses, where the choice is kept, and what a run goes on in on another machine."""

import warnings
from pathlib import Path

import pytest
import torch
from test_training import Stops, assert_same_runs, trainer

from mmard import MmardError, train
from mmard.api.recipe_files import recipes
from mmard.api.settings import read_settings
from mmard.data.images import DataSet
from mmard.report.card import write_card
from mmard.report.setup_tables import setups_table
from mmard.runs.folder import RunFolder
from mmard.runs.groups import Group
from mmard.runs.record import read_run
from mmard.training.callbacks import Watcher
from mmard.training.engine import Engine
from mmard.utils import precision
from mmard.utils.precision import computes_in_bf16, slowdown_of_bf16

pytestmark = pytest.mark.figures

CPU = torch.device("cpu")
TINY = {
    "method": "pgd_at", "student": "cnn-4-2", "data.limit": 200, "data.held_out": 0.3, "threat.eps": 0.1, "attack.steps": 1,
    "train.epochs": 2, "train.batch_size": 70, "validation.steps": 1, "engine.accelerator": "cpu", "engine.precision": "auto",
}  # fmt: skip


def machine(monkeypatch: pytest.MonkeyPatch, *sets: str) -> None:
    """A CPU with these instruction sets."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(("avx2", *sets), True), raising=False)


class Heard(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def told(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("sets", "native"),
    [
        ((), False),
        (("avx512_f", "avx512_bw", "avx512_vl"), False),
        (("avx512_bf16",), True),
        (("amx_bf16",), True),
        (("bf16",), True),
    ],
)
def test_auto_is_bf16_on_cpus_with_bf16_arithmetic_and_float32_on_others(
    sets: tuple[str, ...], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *sets)
    assert computes_in_bf16(CPU) is native
    engine = Engine(accelerator="cpu", precision="auto")
    assert engine.precision == ("bf16-mixed" if native else "32-true")
    product = engine.predictor(lambda x: torch.mm(x, x))
    x = torch.full((4, 4), 1 + 2**-12)  # which bf16 rounds to 1
    assert bool((product(x) == 4).all()) is native
    assert engine.choice.startswith(f"engine.precision=auto: {engine.precision} (cpu ")


def test_auto_is_float32_where_pytorch_was_built_without_the_library_that_knows_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, "bf16")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not computes_in_bf16(CPU)


def test_auto_is_bf16_on_gpus_from_ampere_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for capability, native in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, has=capability: has)
        assert computes_in_bf16(gpu) is native


@pytest.mark.parametrize("named", ["32-true", "bf16-mixed"])
def test_auto_trains_as_the_precision_that_it_chose_does(
    named: str, tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *(["avx512_bf16"] if named == "bf16-mixed" else []))
    for asked in ("auto", named):
        trainer(tiny, tmp_path / asked, engine=Engine(accelerator="cpu", precision=asked)).fit()
    assert_same_runs(tmp_path / "auto", tmp_path / named)
    assert {r["precision"] for r in RunFolder(tmp_path / "auto").metrics()} == {named}


def test_bf16_by_name_on_a_cpu_that_emulates_it_warns_with_the_measured_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.warns(UserWarning, match=f"took {slowdown_of_bf16():.1f} times as long in bf16 as in float32"):
        Engine(accelerator="cpu", precision="bf16-mixed")
    state = torch.get_rng_state()
    slowdown_of_bf16.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)
    machine(monkeypatch, "avx512_bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(accelerator="cpu", precision="bf16-mixed")


def test_the_ratio_is_of_the_times_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 6, 6, 11, 11, 18, 20, 22, 22, 23, 23, 25])  # 6, 5, 7 in bf16; 2, 1, 2 in float32
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(ticks))
    assert slowdown_of_bf16.__wrapped__() == 5


@pytest.mark.parametrize(("first", "then"), [("avx512_bf16", ""), ("", "avx512_bf16")])
def test_a_run_goes_on_in_its_own_precision_where_the_next_machine_computes_in_it_else_a_line_says_so(
    first: str, then: str, tiny: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, *filter(None, [first]))
    with pytest.raises(KeyboardInterrupt):
        trainer(
            tiny, tmp_path, engine=Engine(accelerator="cpu", precision="auto"), watcher=Stops(6), checkpoint_every=2
        ).fit()
    machine(monkeypatch, *filter(None, [then]))
    heard = Heard()
    again = trainer(
        tiny, tmp_path, engine=Engine(accelerator="cpu", precision="auto"), watcher=heard, checkpoint_every=2
    )
    if first:
        with pytest.warns(
            UserWarning, match="the run began in bf16-mixed, and cpu has no bf16 .* it goes on in 32-true"
        ):
            again.fit()
        expected = ["bf16-mixed", "32-true", "32-true"]
    else:
        again.fit()
        expected = ["32-true"] * 3
        assert heard.lines == ["engine.precision=auto: 32-true, in which the run began"]
    assert [r["precision"] for r in RunFolder(tmp_path).metrics()] == expected


def test_a_run_that_named_its_precision_is_gone_on_with_by_a_recipe_that_says_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, "avx512_bf16")
    named = {**TINY, "out": str(tmp_path / "run"), "engine.precision": "bf16-mixed", "train.epochs": 1}
    train(read_settings(None, named))
    folder = train(read_settings(None, {**named, "engine.precision": "auto"}), resume=True)
    assert read_settings(folder.path).engine.precision == "bf16-mixed"
    with pytest.raises(MmardError, match=r"engine\.precision: bf16-mixed → 32-true"):
        train(read_settings(None, {**named, "engine.precision": "32-true"}), resume=True)


def test_the_report_and_the_card_say_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    heard = Heard()
    folder = train(read_settings(None, {**TINY, "out": str(tmp_path / "run")}), watch=lambda _: heard)
    assert heard.lines == ["engine.precision=auto: 32-true (cpu has no bf16 arithmetic that PyTorch uses)"]
    assert read_settings(folder.path).engine.precision == "auto"
    run = read_run(folder.path, "run")
    assert run.precision == "32-true"
    assert "32-true" in setups_table([Group("run", (run,))]).markdown()
    write_card(folder.path)
    assert "**Precision**: 32-true in training" in (folder.path / "README.md").read_text(encoding="utf-8")
    run.metrics[1]["precision"] = "bf16-mixed"
    assert run.precision == "32-true, bf16-mixed from epoch 2"


def test_no_recipe_asks_for_bf16_by_name_and_the_default_is_float32() -> None:
    assert {read_settings(name).engine.precision for name in recipes()} == {"auto", "32-true"}
    assert read_settings(None).engine.precision == "32-true"
    assert Engine(accelerator="cpu").choice == ""
