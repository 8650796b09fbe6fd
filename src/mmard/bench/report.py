"""The whole measurement of one step: ours, the plain one, and the base method's."""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmard.api import method_of, plan_of
from mmard.bench.measure import Passes, Ratio, Step, forward_flops, matrix_peak, paired_seconds, peak_memory
from mmard.bench.plain import plain_step
from mmard.config import Settings
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.models.students import Architecture, Classifier, build
from mmard.training.engine import Engine
from mmard.training.update import Update


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: the settings' method, student, threat and precision, on random images.

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

    def network(self, name: str) -> Classifier:
        """A fresh network; speed does not ask what it has learnt."""
        torch.manual_seed(0)
        return build(Architecture(name=name, classes=self.classes))


def base_of(settings: Settings) -> Method | None:
    """The base of a method that is given one, with the same attack."""
    spec = settings.method if isinstance(settings.method, dict) else {"name": settings.method}
    if spec["name"] != "mmard":
        return None
    return method_of(settings.model_copy(update={"method": spec.get("base", "rslad")}))


@dataclass(frozen=True)
class Subject:
    """The steps that are compared, and the plain one's networks."""

    steps: dict[str, Step]
    plain: dict[str, nn.Module]

    @staticmethod
    def of(case: Case, engine: Engine, x: Tensor, y: Tensor) -> "Subject":
        """Ours, the plain one and, where the method has a base, the base's."""
        settings, index = case.settings, torch.arange(len(y), device=engine.device)
        method, threat = method_of(settings), Threat(**settings.threat.model_dump())
        laid_out = x.to(memory_format=torch.channels_last)

        def ours(method: Method) -> Step:
            student, teachers = case.network(settings.student), {"teacher": case.network(case.teacher)}
            update = Update(
                method=method, threat=threat, student=student, teachers=teachers, plan=plan_of(settings), engine=engine
            )
            return lambda: update(laid_out, y, index, 0.5)

        plain: dict[str, nn.Module] = {"student": case.network(settings.student), "teacher": case.network(case.teacher)}
        plain["teacher"].eval().requires_grad_(False)
        for network in plain.values():
            network.to(engine.device)
        optimizer, base = plan_of(settings).optimizer_for(plain["student"]), base_of(settings)
        steps = {"ours": ours(method), "plain": lambda: plain_step(method, plain, optimizer, threat, x, y)}
        return Subject(steps | ({"base": ours(base)} if base is not None else {}), plain)


def measure(case: Case) -> dict[str, Any]:
    """Time, memory, operations and passes of a step; ratios to the plain step and to the base method's."""
    settings, engine = case.settings, Engine(**case.settings.engine.model_dump())
    torch.manual_seed(0)
    x = torch.rand(case.batch, 3, case.size, case.size, device=engine.device)
    y = torch.randint(0, case.classes, (case.batch,), device=engine.device)
    subject = Subject.of(case, engine, x, y)
    passes = Passes(subject.plain)
    subject.steps["plain"]()
    counted = passes.close()
    work = sum(count.in_forwards * forward_flops(subject.plain[name], x) for name, count in counted.items())
    seconds = paired_seconds(subject.steps, engine.device, case.repeats)
    peak, median = matrix_peak(engine.device), {name: statistics.median(values) for name, values in seconds.items()}
    about: dict[str, Any] = {"method": str(method_of(settings)), "student": settings.student, "teacher": case.teacher}
    about |= {"batch": case.batch, "size": case.size, "repeats": case.repeats, "precision": settings.engine.precision}
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
        "peak_mib": {name: peak_memory(step, engine.device) for name, step in subject.steps.items()},
        **{name: vars(ratio) for name, ratio in ratios.items()},
    }
