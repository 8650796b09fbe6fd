"""Measurement of exported files: speed, size, memory and accuracy, beside the network and its teacher."""

import copy
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

import mmard
from mmard.api.artifacts import keep_card
from mmard.api.build import engine_of
from mmard.api.evaluation_target import EvalModel, EvalTarget, images_in
from mmard.api.exported import not_made_from
from mmard.api.unused_settings import MEASUREMENT
from mmard.core.threat import Threat
from mmard.data.images import Images
from mmard.evaluation.checks.surrogate import check_surrogate
from mmard.evaluation.exported import choose_exported, exported_suite
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.scores import CLEAN, WORST
from mmard.evaluation.suite import AttackSpec, choose_attacks, suite
from mmard.models.cards import find_model, weights_file
from mmard.models.formats import open_exported, size_of
from mmard.models.runtimes import all_threads, latencies
from mmard.runs.exports import Accuracy, ExportRecord, ExportRow, Timing, keep_exports
from mmard.runs.folder import RunFolder
from mmard.runs.record import data_name_of, is_run
from mmard.utils.argument_types import public
from mmard.utils.files import must_be_same, sha256

ATTACK = "pgd-20"
PACKAGES = {".onnx": "onnxruntime", ".xml": "openvino", ".pte": "executorch", ".pt2": "torch"}
AT_ONCE = 128
LONGEST = 600
"""Seconds after which a measurement of speed is given up."""
Tell = Callable[[str], None]


@public
def measure(
    source: str | Path | InstanceOf[RunFolder], exported: str | Path, *,
    images: int = 128, module: InstanceOf[nn.Module] | None = None, trust: bool = False,
    on_progress: Tell = lambda _: None, **overrides: Any,
) -> ExportRecord:  # fmt: skip
    """Measure an exported file, the network that it was made from, and the network's teacher where that is at hand.

    Latency of batches of 1 and 32, on one thread and on all; size; the most memory of a process that runs it; accuracy, clean
    and under PGD-20 (of the file by transfer and straight through, see `mmard.evaluation.exported`). A run folder keeps it in
    exports.json and in its card.

    Args:
        source: run folder, weights or card that it was made from.
        exported: the file.
        images: accuracies are of about so many test images, every class in proportion.
        module: for a run whose network was given in Python: one like it.
        trust: read and fetch the data that the weights name, though this user has never used them.
        on_progress: hears what is being measured.
        **overrides: settings, dots as double underscores; ``data`` may be images, as of `mmard.distill`.

    Raises:
        MmardError: for any mistake in the input.
    """
    path, words = Path(exported).expanduser(), {key.replace("__", "."): value for key, value in overrides.items()}
    source = source.path if isinstance(source, RunFolder) else source
    known = EvalTarget.of(source, None, module, images=images_in(words), trust=trust)
    settings = known.settings(words, MEASUREMENT, trust=trust)
    subject = EvalModel.of(known, settings, images, engine_of(settings).device)
    threat = known.threat(settings, words, needed=False) if known.says("threat", words) else None
    bench = _Bench(subject, source, threat, on_progress)
    rows = [bench.network("network", subject.model, source), bench.file(path)]
    if settings.teacher and (teacher := subject.others(settings).get("the teacher")):
        rows.append(bench.network("teacher", teacher, settings.teacher))
    record = bench.record(rows).changed(data=data_name_of(settings.resolved(), "test"))
    return _kept(record, known.path.parent, path)


def _kept(record: ExportRecord, folder: Path, path: Path) -> ExportRecord:
    """Write the record and the card, where the file lies in a run folder; returns the record with what was there."""
    if is_run(folder) and path.resolve().parent == folder.resolve():
        record = keep_exports(folder, record)
        keep_card(folder)
    return record


class _Bench:
    """A bench for models on the same images."""

    def __init__(self, subject: EvalModel, source: str | Path, threat: Threat | None, tell: Tell) -> None:
        self.source = source
        self.subject, self.images, self.threat, self.tell = subject, subject.images, threat, tell
        self.specs = choose_attacks(ATTACK if threat else "none", suite(AT_ONCE))
        self.attack = "".join(f"{name}: {spec.detail(threat)}" for name, spec in self.specs.items()) if threat else ""

    def record(self, rows: list[ExportRow]) -> ExportRecord:
        """Make the record of these rows."""
        return ExportRecord(
            mmard=version("mmard"), cpu=processor(), threads=all_threads(), images=len(self.images),
            test_images=self.subject.digest(), attack=self.attack, rows=rows,
            threat="" if self.threat is None else str(self.threat),
        )  # fmt: skip

    def network(self, name: str, model: nn.Module, source: str | Path) -> ExportRow:
        """Measure a network in PyTorch, which was loaded from ``source``."""
        self.tell(f"{name}: speed")
        times = _in_torch(model, tuple(self.images.shape))
        found = self._accuracies(name, model, self.specs)
        size = weights_file(find_model(source)).stat().st_size / 1e6
        runtime = f"torch {torch.__version__}"
        return ExportRow(name=name, runtime=runtime, precision="float32", megabytes=size, latency=times, **found)

    def file(self, path: Path) -> ExportRow:
        """Measure an exported file."""
        self.tell(f"{path.name}: speed")
        digest = sha256(path)
        model = open_exported(path, str(path))
        told: Any = model.metadata
        specs, against = self._exported_specs(), not_made_from(told, find_model(self.source))
        found_out = [
            f"was hardly made from {self.source}: {c.said}; {c.means}"
            for c in check_surrogate(model, self.images, specs)
        ]
        for fault in found_out or filter(None, [against]):
            warnings.warn(f"{path} {fault}", stacklevel=2)
        found = self._accuracies(path.name, model, specs)
        package, speed = PACKAGES[path.suffix], _in_processes(path, tuple(self.images.shape))
        must_be_same(str(path), digest, sha256(path) if path.is_file() else None, "the measurement")
        return ExportRow(
            name=path.name, file=path.name, sha256=digest, weights=told.get("sha256"),
            runtime=f"{package} {version(package)}", megabytes=size_of(path) / 1e6, **speed, **found,
        )  # fmt: skip

    def _exported_specs(self) -> Mapping[str, AttackSpec]:
        if self.threat is None:
            return {}
        held = copy.deepcopy(self.subject.model).eval().requires_grad_(False)
        return choose_exported(ATTACK, exported_suite(held, AT_ONCE))

    def _accuracies(self, name: str, model: nn.Module, specs: Mapping[str, AttackSpec]) -> dict[str, Any]:
        self.tell(f"{name}: accuracy on {len(self.images)} images")
        images: Images = self.images
        execution = Execution(batch_size=min(len(images), AT_ONCE))
        rows = {row["attack"]: row for row in run_attacks(model, images, self.threat or NONE, specs, execution).rows()}
        kinds = {"clean": CLEAN} | ({"robust": WORST} if specs else {})
        return {
            kind: Accuracy(value=rows[at]["accuracy"], low=rows[at]["low"], high=rows[at]["high"])
            for kind, at in kinds.items()
        }


NONE = Threat(eps=1 / 255)
"""Of an evaluation without attacks."""


def _in_torch(model: nn.Module, shape: tuple[int, ...]) -> dict[str, dict[str, Timing]]:
    """Time a network on the CPU in this process: threads → batch → time."""
    here, before = copy.deepcopy(model).to("cpu").eval(), torch.get_num_threads()

    def run(x: Any) -> Tensor:
        with torch.no_grad():
            return here(torch.from_numpy(x))  # type: ignore[no-any-return]

    found = {}
    try:
        for threads in dict.fromkeys((1, all_threads())):
            torch.set_num_threads(threads)
            found[str(threads)] = {n: Timing(**time) for n, time in latencies(run, shape).items()}
    finally:
        torch.set_num_threads(before)
    return found


def _in_processes(path: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """Time a file and take the most memory, each number of threads in a process of its own."""
    latency, peak = {}, []
    for threads in dict.fromkeys((1, all_threads())):
        words = [sys.executable, "-m", "mmard.models.runtimes", str(path), *map(str, shape), str(threads)]
        home = os.pathsep.join(filter(None, [str(Path(mmard.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": home}
        try:
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, timeout=LONGEST, check=True
            ).stdout
            found = json.loads(done.strip().splitlines()[-1])
        except (subprocess.SubprocessError, OSError, ValueError, IndexError) as e:
            said = (getattr(e, "stderr", None) or str(e)).strip().splitlines()[-1:]
            warnings.warn(f"the speed of {path.name} on {threads} threads is not known: {''.join(said)}", stacklevel=2)
            continue
        latency[str(threads)] = {n: Timing(**time) for n, time in found["latency"].items()}
        peak.append(found["peak_mib"])
    return {"latency": latency, "peak_mib": max(peak, default=None)}


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "an unknown processor"
