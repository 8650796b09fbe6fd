"""RobustBench's model zoo by name, through its package where that is installed."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from mmard.utils.errors import MmardError, first_line

PREFIX = "robustbench:"
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


def zoo() -> dict[tuple[str, str], dict[str, Callable[[], nn.Module]]]:
    """List the models of the zoo: (data set, threat) → name → what builds it, untrained where its file is loaded later.

    Raises:
        MmardError: where the package is not installed.
    """
    import timm

    found: dict[tuple[str, str], dict[str, Callable[[], nn.Module]]] = {}
    for data, threats in _package("robustbench.model_zoo").model_dicts.items():
        for threat, models in threats.items():
            own = {name: spec["model"] for name, spec in models.items()}
            for name in own:
                registered = f"{name}_{data.value}_{threat.value}".lower().replace("-", "_")
                if timm.is_model(registered):
                    own[name] = lambda at=registered, k=CLASSES[data.value]: timm.create_model(at, num_classes=k)
            found[data.value, threat.value] = own
    return found


def _package(module: str) -> Any:
    """Import a module of the package.

    It asks for AutoAttack under the name of its repository, which no package index has; pyautoattack is the same code.
    """
    import pyautoattack

    for name in ("autoattack", "autoattack.state"):
        if name not in sys.modules:
            sys.modules[name] = importlib.import_module(name.replace("autoattack", pyautoattack.__name__, 1))
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise MmardError(
            f"{PREFIX} names a model of RobustBench, whose package is not whole here ({first_line(e)}): "
            "pip install robustbench 'setuptools<81'"
        ) from e
