"""Checkpoints of other projects: finding the weights in them, and loading them without running code.

Nothing in such a file is run. Of what lies beside the weights, numpy's scalars and a few plain containers are let through.
"""

import argparse
import pickle
import re
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmard.models.architectures import Classifier
from mmard.models.tensor_files import load_tensors
from mmard.utils.errors import MmardError, Note, first_line
from mmard.utils.files import load_safely

SAVE = "save the weights alone: torch.save(model.state_dict(), 'weights.pt')"
# A block that the TRADES code builds and never calls; torch's count of the models in an average.
UNUSED = ("sub_block1.", "n_averaged")
COMPILED = "_orig_mod."  # what torch.compile puts before the names of whatever it compiles
DEEPEST = 4  # dictionaries within each other
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
"""NumPy's, of the numbers that may lie beside the weights."""
MEANS, STDS = ("mean", "mu"), ("std", "sigma")


class Ignored:
    """A stand-in for a pickled object beside the weights; it stores nothing and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


def _allowed() -> list[Any]:
    """List what a file may hold beside tensors and plain values, by the name under which it is pickled."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]  # of numbers alone: a dtype of objects is not among these kinds
    makers = {"scalar": multiarray.scalar, "_reconstruct": multiarray._reconstruct}
    strangers = (argparse.Namespace, types.SimpleNamespace, PosixPath, WindowsPath)
    return [
        np.dtype,
        np.ndarray,
        *(type(np.dtype(kind)) for kind in KINDS),
        *((make, f"numpy.{core}.multiarray.{name}") for name, make in makers.items() for core in ("core", "_core")),
        *((Ignored, f"{stranger.__module__}.{stranger.__qualname__}") for stranger in strangers),
    ]


def read_checkpoint(path: Path) -> Any:
    """Read a safetensors or a PyTorch file; the latter with ``weights_only``, so that it can run no code.

    Raises:
        MmardError: for a file that is broken, or holds objects whose loading could run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_tensors(path)[0]
        with torch.serialization.safe_globals(_allowed()):
            return load_safely(path)
    except MmardError:  # it is damaged
        raise
    except pickle.UnpicklingError as e:
        kind = re.search(r"GLOBAL (\S+)", str(e))
        more = f"more than weights ({kind[1]})" if kind else "more than weights"
        raise MmardError(
            f"{path} refused: it is no file of weights, or holds {more} and could run code when loaded; {SAVE}"
        ) from e
    except Exception as e:  # whatever a file that is no weights makes the readers say
        if (script := "torchscript" in str(e).lower()) or path.suffix == ".pt2":
            made_by = "TorchScript" if script else "torch.export"
            raise MmardError(f"{path} is a network of {made_by}, and weights are expected; {SAVE}") from e
        raise MmardError(f"{path} cannot be read as weights; is it truncated? ({first_line(e)})") from e


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Weights for one network within a checkpoint.

    Attributes:
        key: keys on the way to it, joined by dots, and the prefix of its names, such as ``state_dict.model_ema``.
        prefix: what its names begin with, ``"model."``; or nothing.
        state: the network's names with their tensors.
        rest: other names of the same dictionary.
    """

    key: str
    prefix: str
    state: dict[str, Tensor]
    rest: dict[str, Tensor]

    def strangers(self, fitting: "list[WeightSet]") -> set[str]:
        """Return names with this prefix that belong to none of the sets that fit: of another network, where there are any."""
        taken = {f"{each.prefix}{name}" for each in fitting for name in each.state}
        return {name for name in set(self.rest) - taken if name.startswith(self.prefix) and not is_normalisation(name)}

    def same_as(self, other: "WeightSet") -> bool:
        return all(torch.equal(t, other.state[name]) for name, t in self.state.items())


def weights_for(model: Classifier, raw: Any, source: Path, key: str | None = None) -> dict[str, Tensor]:
    """Find the one set of weights in a checkpoint that fits a model's network; else the nearest, for `fit` to report.

    Args:
        raw: what `read_checkpoint` gave.
        key: which of several sets, as the error names them; a beginning of the name is enough.

    Raises:
        MmardError: where there are no weights, several sets that fit, none of this key, or weights that bring a
            normalisation that the card does not have.
    """
    groups = groups_of(raw, source)
    own = model.net.state_dict()
    fitting = sets_for(model.net, groups)
    if not fitting:
        return _nearest(own, groups)
    found = _one(fitting, source, key)
    strange = found.strangers(fitting)
    _must_agree({name: t for name, t in found.rest.items() if is_normalisation(name)}, model, source)
    beside = [name for name in found.rest if not name.startswith(found.prefix) and not is_normalisation(name)]
    if found.prefix not in ("", "module."):
        also = f"; {len(beside)} others beside them are left out, such as {beside[0]}" if beside else ""
        warnings.warn(
            Note(f"{source}: the names of the weights begin with {found.prefix!r}, which is taken off{also}"),
            stacklevel=2,
        )
    return found.state | {name: t for name, t in found.rest.items() if name in strange}


def is_normalisation(name: str) -> bool:
    """Tell whether weights of this name are a mean or a standard deviation of the pixels."""
    return name.rpartition(".")[2] in MEANS + STDS


def groups_of(raw: Any, source: Path) -> dict[str, dict[str, Tensor]]:
    """List every dictionary with tensors in a checkpoint, by the keys on the way there.

    Raises:
        MmardError: where there is none.
    """
    if not (groups := dict(_groups(raw))):
        raise MmardError(f"{source} holds no weights; expected names with tensors; {SAVE}")
    return groups


def sets_for(net: nn.Module, groups: Mapping[str, dict[str, Tensor]]) -> list[WeightSet]:
    """List the sets of weights among these that fit a network."""
    return [found for at, tensors in groups.items() for found in _fitting(net, at, tensors)]


def _groups(value: Any, at: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dictionary with tensors in it, with the keys on the way there."""
    if not isinstance(value, Mapping) or depth > DEEPEST:
        return
    named = {str(k): v for k, v in value.items() if isinstance(k, str)}
    if tensors := {k: v for k, v in named.items() if isinstance(v, Tensor)}:
        yield at, tensors
    for k, v in named.items():
        yield from _groups(v, f"{at}.{k}" if at else k, depth + 1)


def _needed(own: Mapping[str, Tensor]) -> list[str]:
    return [k for k in own if not k.endswith("num_batches_tracked")]


def _fitting(net: nn.Module, at: str, tensors: dict[str, Tensor]) -> Iterator[WeightSet]:
    """Yield the sets in a dictionary that have all the names of a network, in its shapes, after a common prefix."""
    own = net.state_dict()
    for named in _namings(net, tensors):
        found = False
        for prefix in _prefixes(own, named):
            state = {k: named[prefix + k] for k in own if prefix + k in named}
            if all(k in state and state[k].shape == own[k].shape for k in _needed(own)):
                taken = {prefix + k for k in state}
                rest = {
                    k: t for k, t in named.items() if k not in taken and not k.removeprefix(prefix).startswith(UNUSED)
                }
                key = ".".join(part for part in (at, prefix.rstrip(".")) if part)
                found = True
                yield WeightSet(key or "the file itself", prefix, state, rest)
        if found:
            return


def _namings(net: nn.Module, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary as it stands, and by other names that the network's checkpoints are known to have."""
    yield tensors
    plain = _renamed(tensors, (COMPILED, ""))
    yield plain
    if other := getattr(net, "OTHER_NAMES", ()):
        yield _renamed(plain, *other)
    older = getattr(
        sys.modules.get(type(net).__module__), "checkpoint_filter_fn", None
    )  # timm's, of its former versions
    if older is not None:
        for prefix in ("", "module.", "model.", "module.model."):
            begun = {name.removeprefix(prefix): t for name, t in plain.items() if name.startswith(prefix)}
            with suppress(Exception):  # it is not made for what is no such checkpoint
                yield dict(older(begun, net))


def _renamed(tensors: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    """Replace parts of names."""
    found = tensors
    for old, new in pairs:
        found = {name.replace(old, new): t for name, t in found.items()}
    return found


def _prefixes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """List prefixes of the network's names, the most frequent first: nothing, or something that ends with a dot."""
    names = set(tensors)
    first = next(iter(_needed(own)), "")
    seen = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    votes = Counter({prefix: sum(prefix + k in names for k in own) for prefix in seen})
    return [prefix for prefix, _ in votes.most_common()]


def _one(fitting: list[WeightSet], source: Path, key: str | None) -> WeightSet:
    names = ", ".join(found.key for found in fitting)
    if key is not None:
        fitting = [f for f in fitting if f.key == key or f.key.startswith(f"{key}.")]
        if not fitting:
            raise MmardError(f"{source} has no weights under the card's key {key!r} that fit; there are: {names}")
    if any(not found.same_as(fitting[0]) for found in fitting[1:]):
        cure = f'say in the card which, such as "key": "{fitting[-1].key}"'
        raise MmardError(f"{source} holds {len(fitting)} different sets of weights that fit: {names}; {cure}")
    return fitting[0]


def _nearest(own: Mapping[str, Tensor], groups: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the largest dictionary without its likeliest prefix, though it does not fit."""
    tensors = max(groups.values(), key=len)
    prefix = next(iter(_prefixes(own, tensors)), "")
    if not prefix and all(name.startswith("module.") for name in tensors):
        prefix = "module."
    named = {name.removeprefix(prefix): t for name, t in tensors.items()}
    beside = {name for name in named if name not in own and is_normalisation(name)}  # no misfit of theirs
    return {name: t for name, t in named.items() if name not in beside and not name.startswith(UNUSED)}


def _must_agree(brought: Mapping[str, Tensor], model: Classifier, source: Path) -> None:
    """Raise MmardError where weights bring a mean and a std by which the card does not normalise."""
    architecture = model.architecture
    for name, tensor in brought.items():
        is_mean = name.rpartition(".")[2] in MEANS
        known = architecture.mean if is_mean else architecture.std
        values = tensor.flatten().tolist()
        known = known or (0.0 if is_mean else 1.0,) * len(values)  # a card without them: raw pixels
        if len(values) != len(known) or any(abs(a - b) > 1e-3 for a, b in zip(values, known, strict=True)):
            said = {n: [round(v, 4) for v in t.flatten().tolist()[:4]] for n, t in brought.items()}
            raise MmardError(
                f"{source} brings a normalisation of its own, {said}, and its card says mean {list(architecture.mean)}, "
                f"std {list(architecture.std)}; write the file's into the card"
            )


def fit(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load ``state`` into ``model``.

    Raises:
        MmardError: for what does not fit, naming the first misfit.
    """
    own = model.state_dict()
    missing = [k for k in _needed(own) if k not in state]
    foreign = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    for fault, names in (("lacks", missing), ("has the unknown", foreign)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise MmardError(f"{source} {fault} {names[0]}{more}; is it another architecture?")
    if shapes:
        k = shapes[0]
        raise MmardError(
            f"{source}: {k} has shape {tuple(state[k].shape)}, expected {tuple(own[k].shape)}; "
            "another width, or another number of classes?"
        )
    model.load_state_dict(state, strict=False)
