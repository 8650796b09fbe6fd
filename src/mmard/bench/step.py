"""Measurement of one step: ours, the plain one, and the base method's."""

import statistics
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmard.api.build import build_threat, engine_of, method_of, must_be_trainable
from mmard.api.networks import student_architecture
from mmard.api.registry import spec_of
from mmard.api.settings import Settings
from mmard.bench.measure import Ratio, Step, forward_flops, matrix_peak, paired_seconds
from mmard.bench.plain import plain_step
from mmard.core.method import Method
from mmard.models.architectures import Architecture, Classifier, build
from mmard.training.engine import Engine
from mmard.training.learned import watch_features
from mmard.training.micro_batch import free_bytes, need_of, peak_bytes
from mmard.training.passes import LOSS, PassCounter, cost_of
from mmard.training.update import Update
from mmard.utils.errors import MmardError, first_line, is_out_of_memory
from mmard.utils.precision import tf32


@dataclass(frozen=True, kw_only=True)
class Case:
    """The case to measure: the settings' method, student, threat and precision, on random images.

    Args:
        settings: as for training; its teacher is replaced by a fresh network of ``teacher``.
        teacher: architecture of the teacher.
        batch, size, classes: shape of the batch, (batch, 3, size, size).
        repeats: turns that are counted.
    """

    settings: Settings
    teacher: str = "wrn-16-4"
    batch: int = 8
    size: int = 32
    classes: int = 10
    repeats: int = 3

    def student(self) -> Classifier:
        """Build a fresh student, which may be a network from elsewhere."""
        torch.manual_seed(0)
        return build(student_architecture(self.settings, self.classes), fresh=False)

    def network(self, name: str) -> Classifier:
        """Build a fresh network; speed does not depend on trained weights."""
        torch.manual_seed(0)
        return build(Architecture(name=name, classes=self.classes))


WRAPPERS = {
    "mmard": "rslad",
    "igdm": "rslad",
    "fair": "ard",
    "rpat": "pgd_at",
    "waypoints": "rslad",
}  # and the base that each has unless given one


def base_of(settings: Settings) -> Method | None:
    """Build the base of a method that is given one, with the same attack."""
    spec = spec_of(settings.method)
    if spec.get("name") not in WRAPPERS:
        return None
    return method_of(settings.model_copy(update={"method": spec.get("base", WRAPPERS[spec["name"]])}))


@dataclass(frozen=True)
class Subject:
    """The steps to compare, the plain one's networks, and our update."""

    steps: dict[str, Step]
    plain: dict[str, nn.Module]
    update: Update

    @staticmethod
    def of(case: Case, engine: Engine, x: Tensor, y: Tensor) -> "Subject":
        """Make our step, the plain one and, where the method has a base, the base's."""
        settings, index = case.settings, torch.arange(len(y), device=engine.device)
        method, threat = method_of(settings), build_threat(settings)
        averages = {name for name, companion in method.companions.items() if companion.average is not None}
        if method.companions.keys() - averages or method.perturbation is not None or method.learned():
            raise MmardError(
                "bench's plain step trains the student alone and moves no weights up; give a method that does no more"
            )
        names = {"teacher"}
        with suppress(MmardError):  # a user's term may not take the small images on which passes are counted
            names |= cost_of(method).keys() - {"student"} - averages

        def update(method: Method) -> Update:
            student, teachers = case.student(), {name: case.network(case.teacher) for name in names}
            return Update(
                method=method, threat=threat, student=student, teachers=teachers, plan=settings.train,
                engine=engine, compile=settings.engine.compile,
            )  # fmt: skip

        def step(update: Update) -> Step:
            logits = torch.zeros(len(y), case.classes, device=engine.device)
            known = dict.fromkeys(update.constant, logits) if settings.data.variants else {}
            return lambda: update(laid_out(x), y, index, 0.5, known=known)

        plain: dict[str, nn.Module] = {name: case.network(case.teacher).eval().requires_grad_(False) for name in names}
        plain |= {name: case.student().eval().requires_grad_(False) for name in averages}
        plain["student"] = case.student()
        for network in plain.values():
            network.to(engine.device)
        watch_features(method, *plain.values())
        optimizer, base = settings.train.optimizer_for(plain["student"], fused=False), base_of(settings)

        def as_scripts_do() -> None:
            with tf32(convolutions=True, products=False):  # PyTorch's default
                plain_step(method, plain, optimizer, threat, x, y)

        ours = update(method)
        steps: dict[str, Step] = {"ours": step(ours), "plain": as_scripts_do}
        return Subject(steps | ({"base": step(update(base))} if base is not None else {}), plain, ours)


def measure(case: Case) -> dict[str, Any]:
    """Measure time, memory, operations and passes of a step; ratios to the plain step and to the base method's.

    Raises:
        MmardError: for several processes or parts of a batch, for what training refuses, or when a step does not fit in memory.
    """
    engine = case.settings.engine
    if engine.devices * engine.nodes > 1 or engine.micro_batch is not None:
        raise MmardError(
            "bench measures one process with its whole batch; leave out engine.devices and engine.micro_batch"
        )
    must_be_trainable(case.settings, method_of(case.settings))
    try:
        return _measured(case)
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        what = f"{case.batch} images of {case.size}×{case.size}"
        raise MmardError(
            f"a step on {what} does not fit in memory ({first_line(e)}); give a smaller --batch or --size"
        ) from e


def _measured(case: Case) -> dict[str, Any]:
    settings, engine = case.settings, engine_of(case.settings)
    torch.manual_seed(0)
    x = torch.rand(case.batch, 3, case.size, case.size, device=engine.device)
    y = torch.randint(0, case.classes, (case.batch,), device=engine.device)
    subject = Subject.of(case, engine, x, y)
    with PassCounter(subject.plain) as counter:
        subject.steps["plain"]()
    counted = {name: by_phase[LOSS] for name, by_phase in counter.counts.items()}  # a plain step has no phases
    work = sum(count.in_forwards * forward_flops(subject.plain[name], x) for name, count in counted.items())
    seconds = paired_seconds(subject.steps, engine.device, case.repeats)
    number = torch.bfloat16 if engine.precision == "bf16-mixed" else torch.float32
    peak, median = matrix_peak(engine.device, number), {name: statistics.median(v) for name, v in seconds.items()}
    about: dict[str, Any] = {"method": str(method_of(settings)), "student": settings.student, "teacher": case.teacher}
    about |= {"batch": case.batch, "size": case.size, "repeats": case.repeats, "precision": engine.precision}
    about |= {"device": str(engine.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    ratios = {"faster_than_plain": Ratio.of(seconds["plain"], seconds["ours"])}
    if "base" in seconds:
        ratios["cost_over_base"] = Ratio.of(seconds["ours"], seconds["base"])
    return {
        **about,
        "gflop": work / 1e9,
        "matrix_peak_gflops": peak / 1e9,
        "passes": {name: vars(count) for name, count in counted.items()},
        "milliseconds": {name: 1000 * value for name, value in median.items()},
        "images_per_second": {name: case.batch / value for name, value in median.items()},
        "share_of_peak": {name: work / value / peak for name, value in median.items() if name != "base"},
        "peak_mib": {name: _mib(peak_bytes(step, engine.device)) for name, step in subject.steps.items()},
        "teacher_forward": teacher_forward(subject, laid_out(x), peak),
        "memory": memory_of(subject.update, x.shape[1:]),
        **{name: vars(ratio) for name, ratio in ratios.items()},
    }


def teacher_forward(subject: Subject, x: Tensor, peak: float) -> dict[str, float]:
    """Measure the teacher's forward pass in an update, in milliseconds and as a share of the matrix peak."""
    device, teacher = subject.update.engine.device, subject.update.predictors["teacher"]
    with torch.no_grad():
        seconds = statistics.median(paired_seconds({"teacher": lambda: teacher(x)}, device, 5)["teacher"])
    work = forward_flops(subject.plain["teacher"], x)
    return {"milliseconds": 1000 * seconds, "share_of_peak": work / seconds / peak}


def laid_out(x: Tensor) -> Tensor:
    """Convert images to channels-last memory, as the trainer's batches are."""
    return x.to(memory_format=torch.channels_last)


def memory_of(update: Update, shape: torch.Size) -> dict[str, float | int | None]:
    """Measure the MiB of a step, linear in its images, and how many images fit on the device."""
    free = free_bytes(update.engine.device)
    need = need_of(update, shape)
    if need is None or free is None:
        return {"fixed_mib": None, "mib_an_image": None, "images_that_fit": None}
    return {
        "fixed_mib": _mib(need.fixed),
        "mib_an_image": _mib(need.each),
        "images_that_fit": need.images_in(free),
    }


def _mib(number: float | None) -> float | None:
    return None if number is None else number / 2**20
