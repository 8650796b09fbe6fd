"""The options of an evaluation, and the result folder that they give it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmard.evaluation.checks.run import how_to_check
from mmard.evaluation.scores import SCORES
from mmard.evaluation.suite import AttackSpec
from mmard.models.cards import is_of_another, results_folder
from mmard.utils.errors import MmardError
from mmard.utils.numbers import shortened
from mmard.utils.portable_paths import portable


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The options of `mmard eval`; see `mmard.api.evaluate.evaluate_run`.

    Attributes:
        overrides: settings by dotted key.
        curve, examples: further files; see `mmard.api.artifacts.Artifacts`.

    Raises:
        MmardError: for a batch or a part of the test set without images.
    """

    attacks: str | None = None
    protocol: str = "standard"
    limit: int | None = None
    batch_size: int = 500
    seed: int = 0
    checks: str | None = None
    surrogate: str | None = None
    curve: bool = False
    examples: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise MmardError(f"batch_size {self.batch_size} and limit {self.limit} are at least 1")
        if not self.seed < 2**31:
            raise MmardError(f"seed is {shortened(self.seed)}, expected a whole number below 2^31")

    def metadata(self, specs: Mapping[str, AttackSpec]) -> dict[str, Any]:
        """Return the options for the record, by which a study finds its evaluations; later options only where not usual."""
        own = {key: value for key, value in self.overrides.items() if not key.startswith("engine.")}  # no verdict's
        special = {"protocol": self.protocol} if self.protocol != "standard" else {}
        how = how_to_check(self.checks, specs)
        special |= {"checks": how} if how != how_to_check(None, specs) else {}
        common = {"attacks": self.attacks, "limit": self.limit, "batch_size": self.batch_size, "seed": self.seed}
        return {**common, **special, "overrides": portable(own | ({"twin": self.surrogate} if self.surrogate else {}))}

    def folder(self, path: Path, specs: Mapping[str, AttackSpec], count: int, network: str = "") -> Path:
        """Return the folder of the results on ``count`` images: one for each kind, so that none replaces another.

        Args:
            network: the words of a network from elsewhere; several may go with one file of weights.
        """
        whole, first = (
            results_folder(path) / "eval" / self._named(name, specs, count, network) for name in (path.name, path.stem)
        )
        return whole if path.suffix == ".onnx" or is_of_another(first / SCORES, "model", path) else first

    def _named(self, model: str, specs: Mapping[str, AttackSpec], count: int, network: str) -> str:
        """Name a folder of results, of a model that is called so."""
        metadata = self.metadata(specs)
        usual = self.attacks is None and self.protocol == "standard"
        parts = [model]
        parts += [f"{_last(network)}-{hashlib.sha256(network.encode()).hexdigest()[:8]}"] if network else []
        parts += [] if usual else [*specs] or ["clean"]
        parts += [f"{count}-images"] if self.limit else []
        parts += [f"batch-{self.batch_size}"] if self.batch_size != EvaluationRequest.batch_size else []
        parts += [f"{key}-{metadata[key]}" for key in ("seed", "checks") if metadata.get(key)]
        given = {**self.overrides, "twin": self.surrogate}
        parts += [f"{key}-{value}{_told_apart(given[key], value)}" for key, value in metadata["overrides"].items()]
        name = re.sub(r"[^\w.+-]", "-", "_".join(parts))
        return name if len(name) <= 100 else f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _last(network: str) -> str:
    """Return the name of a network without its folder and parameters: ``net.py:build``."""
    return re.split(r"[(@]", network, maxsplit=1)[0].rpartition("/")[2]


def _told_apart(given: Any, shown: Any) -> str:
    """Return a suffix that distinguishes files of one name in different folders, without naming the folders."""
    return "" if given == shown else f"-{hashlib.sha256(str(given).encode()).hexdigest()[:8]}"
