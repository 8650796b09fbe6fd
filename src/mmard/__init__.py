"""Adversarial robustness distillation: small image classifiers that resist attack, distilled from large robust ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmard.utils.moved import install

if TYPE_CHECKING:
    from mmard import losses, methods
    from mmard.api.diagnose import diagnose
    from mmard.api.distill import distill
    from mmard.api.distiller import Distiller
    from mmard.api.evaluate_images import evaluate
    from mmard.api.train import train
    from mmard.attacks.pgd import Pgd
    from mmard.core.method import Method
    from mmard.core.objective import Objective, term
    from mmard.core.threat import Threat
    from mmard.core.views import Point, Views
    from mmard.evaluation.scores import Scores
    from mmard.models.cards import load_model
    from mmard.utils.errors import MmardError

__version__ = "0.2.0"
__all__ = [
    "Distiller",
    "Method",
    "MmardError",
    "Objective",
    "Pgd",
    "Point",
    "Scores",
    "Threat",
    "Views",
    "diagnose",
    "distill",
    "evaluate",
    "load_model",
    "losses",
    "methods",
    "term",
    "train",
]
_HOME = {
    "api.diagnose": ("diagnose",),
    "api.distill": ("distill",),
    "api.distiller": ("Distiller",),
    "api.evaluate_images": ("evaluate",),
    "api.train": ("train",),
    "attacks.pgd": ("Pgd",),
    "core.method": ("Method",),
    "core.objective": ("Objective", "term"),
    "core.threat": ("Threat",),
    "core.views": ("Point", "Views"),
    "evaluation.scores": ("Scores",),
    "models.cards": ("load_model",),
    "utils.errors": ("MmardError",),
}
install()
_HOME_OF = {name: f"mmard.{module}" for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, and ``mmard --help`` needs none of it."""
    if name in ("losses", "methods"):
        return import_module(f"mmard.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mmard' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
