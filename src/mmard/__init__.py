"""Adversarial robustness distillation: small image classifiers that resist attack, learnt from large robust ones."""

from mmard import losses, methods
from mmard.api import evaluate, train
from mmard.attacks.pgd import Pgd
from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.objective import Objective, term
from mmard.core.threat import Threat
from mmard.core.views import Point, Views
from mmard.diagnosing import diagnose
from mmard.evaluation.scores import Scores
from mmard.models.teachers import load_model

__version__ = "0.1.0"
__all__ = [
    "Method",
    "MmardError",
    "Objective",
    "Pgd",
    "Point",
    "Scores",
    "Threat",
    "Views",
    "diagnose",
    "evaluate",
    "load_model",
    "losses",
    "methods",
    "term",
    "train",
]
