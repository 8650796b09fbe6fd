"""Old names of modules: importing one warns with the new name, and works until version 0.3."""

import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mmard.utils.errors import Note

MOVED = {
    "attacks.adaptive": "attacks.inner.adaptive",
    "attacks.auto": "attacks.autoattack",
    "attacks.single": "attacks.inner.one_step",
    "attacks.stages": "attacks.inner.switching",
    "catalogue": "api.catalogue",
    "config": "api.settings",
    "costs": "training.passes",
    "core.balance": "terms.normalised_gradient",
    "core.errors": "utils.errors",
    "core.files": "utils.files",
    "core.held": "terms.held_gradient",
    "core.numbers": "utils.numbers",
    "core.processes": "utils.distributed",
    "core.validate": "utils.validation",
    "delivering": "api.export",
    "evaluation.checked": "evaluation.checks.run",
    "evaluation.evaluate": "evaluation.run",
    "diagnosing": "api.diagnose",
    "locate": "api.registry",
    "models.students": "models.architectures",
    "models.teachers": "models.cards",
    "objects": "api.build",
    "papers": "methods.papers",
    "scene": "api.comparison",
    "training.progress": "training.callbacks",
    "terms.classes": "methods.absld",
    "terms.fairness": "methods.fair",
    "terms.gradient": "terms.gradient_matching",
    "terms.push": "methods.ciard",
    "terms.softness": "terms.temperature",
    "terms.transfer": "methods.saad",
    "terms.two_teachers": "terms.multi_teacher",
}
"""Where modules of version 0.1 are now that a page of the documentation named, or that one's own code is likely to import."""
RENAMED = {
    "AttackSettings": "Inner",
    "AveragingSettings": "Averaging",
    "Balanced": "NormalisedGradient",
    "Fairness": "ClassWeights",
    "Guard": "CollapseGuard",
    "Held": "ReusedGradient",
    "Late": "StepSwitch",
    "Push": "PushLoss",
    "Scene": "Comparison",
    "Softness": "Temperature",
    "Stop": "StopAt",
    "Temperatures": "TeacherTemperatures",
    "Tick": "OnProgress",
    "TrainSettings": "Plan",
    "ValidationSettings": "Validation",
    "Weights": "TeacherWeights",
    "balanced": "normalise_gradient",
    "checked": "evaluate_with_checks",
    "choose": "choose_attacks",
    "evaluate": "run_attacks",
    "held": "reuse_gradient",
    "in_our_words": "expectation",
    "soften": "at_temperature",
    "soften_method": "method_at_temperature",
}
"""What names of the moved modules are called now."""
ARGUMENTS = {"tick": "on_progress", "twin": "surrogate"}
"""What keyword arguments of public functions are called now."""


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        return ModuleSpec(name, self) if name.removeprefix("mmard.") in MOVED and name.startswith("mmard.") else None

    def exec_module(self, module: ModuleType) -> None:
        new = f"mmard.{MOVED[module.__name__.removeprefix('mmard.')]}"
        warnings.warn(Note(f"{module.__name__} is {new} now; the old name goes with version 0.3"), stacklevel=2)
        names = {k: v for k, v in vars(import_module(new)).items() if not k.startswith("__")}
        module.__dict__.update(
            names | {old: names[now] for old, now in RENAMED.items() if now in names and old not in names}
        )


def install() -> None:
    """Make the old names importable."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def forward(package: str, module: str, names: Collection[str] | None = None) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package that was a module: its old names (None: all) are those of one of its modules."""

    def get(name: str) -> Any:
        found = None
        if not name.startswith("__") and (names is None or name in names):
            found = getattr(import_module(module), name, None)
        if found is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(
            Note(f"{package}.{name} is {module}.{name} now; the old name goes with version 0.3"), stacklevel=2
        )
        return found

    return get


def renamed_arguments(given: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return keyword arguments by their names of today, with a note for each old one; ``known`` are the function's own."""
    now = dict(given)
    for old in ARGUMENTS.keys() & given.keys() - set(known):
        if ARGUMENTS[old] in known:
            warnings.warn(Note(f"{old}= is {ARGUMENTS[old]}= now; the old name goes with version 0.3"), stacklevel=3)
            now[ARGUMENTS[old]] = now.pop(old)
    return now
