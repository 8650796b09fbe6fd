"""RobustBench's model zoo by name, ``robustbench:cifar10/Linf/NAME``, through its package where that is installed.

The package says what a network is, where its weights lie and what accuracy is claimed for it. The weights are fetched and read by
this package: resumed, kept, and without running code of theirs.
"""

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmard.utils.download import download_folder
from mmard.utils.errors import MmardError, first_line, unknown
from mmard.utils.files import read_json, write_json

PREFIX = "robustbench:"
INSTALL = "pip install 'mmard[robustbench]' (it pins timm, so best in an environment of its own)"
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}


BY_LAST = ("Kireev2021Effectiveness", "Andriushchenko2020Understanding")
"""Models whose files also hold the weights of their best epoch; the zoo evaluates the last."""
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
HEADING, ROW, PERCENT = re.compile(r"#{3,4} (.*)"), re.compile(r"\*\*([\w.+-]+)\*\*</sup>"), re.compile(r">([\d.]+)%<")
SECTIONS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet": "imagenet"}


def zoo() -> dict[tuple[str, str], dict[str, Callable[[], nn.Module]]]:
    """List the models of the zoo: (data set, threat) → name → what builds it, untrained where its file is loaded later.

    Raises:
        MmardError: where the package is not installed.
    """
    found: dict[tuple[str, str], dict[str, Callable[[], nn.Module]]] = {}
    for data, threats in _package("robustbench.model_zoo").model_dicts.items():
        for threat, models in threats.items():
            own = {name: spec["model"] for name, spec in models.items()}
            for name in own:
                if registered := _in_timm(data.value, threat.value, name):
                    own[name] = lambda at=registered, k=CLASSES[data.value]: _timm().create_model(at, num_classes=k)
            found[data.value, threat.value] = own
    return found


def card_of(source: str) -> Path:
    """Write the card of a model of the zoo among the downloads, and return its place.

    Args:
        source: ``robustbench:cifar10/Linf/Chen2021LTD_WRN34_10``.

    Raises:
        MmardError: for a name that the zoo does not have, with the nearest names; where the package is not installed; and for
            ensembles and networks whose weights are not a single file.
    """
    data, threat, name = parts_of(source)
    facts: dict[str, Any] = {
        "architecture": source,
        "classes": CLASSES[data],
        "url": _address(data, threat, name),
        "claimed": claims(str(metadata("robustbench")), data, threat).get(name, {}),
        "source": f"RobustBench {version('robustbench')}, https://robustbench.github.io",
        "licence": "its authors'; see the package's LICENSE",
    }
    facts |= {"key": "last"} if name.startswith(BY_LAST) else {}
    path = download_folder().parent / "robustbench" / data / threat / f"{name}.json"
    written = read_json(path) if path.is_file() else {}
    if {key: value for key, value in written.items() if key not in ("mean", "std")} != facts:
        mean, std = network(source)[1]  # which takes a moment
        write_json(path, facts | {"mean": mean, "std": std})
    return path


def parts_of(source: str) -> tuple[str, str, str]:
    """Split a name into data set, threat and model, each of which the zoo has; raise MmardError with the nearest names."""
    parts = source.removeprefix(PREFIX).split("/")
    if len(parts) != 3:
        raise MmardError(
            f"{source} is no model of RobustBench; expected data, threat and name, such as "
            f"{PREFIX}cifar10/Linf/Chen2021LTD_WRN34_10"
        )
    models, (data, threat, name) = zoo(), parts
    if (data, threat) not in models:
        raise unknown("zoo of RobustBench", f"{data}/{threat}", [f"{d}/{t}" for d, t in models])
    if name not in models[data, threat]:
        near = get_close_matches(name, models[data, threat], n=4, cutoff=0.3)
        raise MmardError(
            f"RobustBench has no model {name!r} for {data}/{threat}; did you mean {' or '.join(near) or 'another zoo'}? it has "
            f"{len(models[data, threat])}"
        )
    return data, threat, name


def network(source: str) -> tuple[nn.Module, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Build a model of the zoo, untrained: the network, and the mean and std that its code puts before it.

    Most networks of the zoo normalise inside; their mean and std are empty here.
    """
    data, threat, name = parts_of(source)
    with _quiet():
        net = zoo()[data, threat][name]()
    outer = dict(net.named_children())
    if isinstance(net, nn.Sequential) and outer.keys() == {"normalize", "model"}:
        have = dict(outer["normalize"].named_buffers())
        mean, std = (tuple(round(v, 6) for v in have[key].flatten().tolist()) for key in ("mean", "std"))
        return outer["model"], (mean, std)
    return net, ((), ())


def claims(readme: str, data: str, threat: str) -> dict[str, dict[str, Any]]:
    """Read the claimed accuracies of one leaderboard from the package's description: name → a card's ``claimed``."""
    found: dict[str, dict[str, Any]] = {}
    section = kind = radius = ""
    for line in readme.splitlines():
        if heading := HEADING.match(line):
            words = heading[1].split(",")
            section = SECTIONS.get(words[0].strip(), section if line.startswith("####") else "")
            kind, radius = words[0].strip(), words[-1].partition("eps=")[2].strip()
        row, percents = ROW.search(line), PERCENT.findall(line)
        if row and len(percents) == 2 and (section, kind) == (data, threat):
            clean, robust = map(float, percents)
            found[row[1]] = {"clean": clean, "autoattack": robust, "threat": f"{threat} {radius}"}
    return found


def _address(data: str, threat: str, name: str) -> str:
    """Return where the weights lie."""
    if registered := _in_timm(data, threat, name):
        return str(_timm().get_pretrained_cfg(registered).url)
    zoos = _package("robustbench.model_zoo").model_dicts
    place = next(m for d, t in zoos.items() if d.value == data for k, m in t.items() if k.value == threat)[name]
    key = place.get("gdrive_id")
    if not isinstance(key, str) or not key:
        what = "an ensemble of several files" if isinstance(key, list) else "not kept in a file of its own"
        raise MmardError(
            f"{PREFIX}{data}/{threat}/{name} is {what}, which cannot be a teacher here; choose another model"
        )
    return DRIVE + key


def _in_timm(data: str, threat: str, name: str) -> str | None:
    """Return the name under which the package registers a model with timm; None where it does not."""
    registered = f"{name}_{data}_{threat}".lower().replace("-", "_")
    return registered if _timm().is_model(registered) else None


def _timm() -> Any:
    return _package("timm")


def _package(module: str) -> Any:
    """Import a module of the package.

    It asks for AutoAttack under the name of its repository, which no package index has; pyautoattack is the same code.
    """
    import pyautoattack

    for name in ("autoattack", "autoattack.state"):
        if name not in sys.modules:
            sys.modules[name] = importlib.import_module(name.replace("autoattack", pyautoattack.__name__, 1))
    try:
        with _quiet():
            return importlib.import_module(module)
    except ImportError as e:
        raise MmardError(f"{PREFIX} needs the package of RobustBench ({first_line(e)}): {INSTALL}") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the package's imports warn of, and leave the generator as it was."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield
