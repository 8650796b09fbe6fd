"""A method of adversarial training: an inner objective, an outer objective, and the maximizer of the inner one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor, nn

from mmard.core.companion import Companion, Learned, WeightPerturbation, starting
from mmard.core.objective import Objective, nothing
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import Predict
from mmard.utils.errors import MmardError
from mmard.utils.numbers import is_number, shortened

Attack = Callable[[Predict, Tensor, Tensor, Threat], Tensor]
"""(predict, x, y, threat) → x_adv: what an evaluation runs."""


class Maximizer(Protocol):
    """An inner maximizer: it finds x' in the threat's ball around x with a large ``loss(x')``, without model or labels.

    In training the loss is a `mmard.core.ascent.Ascent`; one that adapts to the sample may use its views. One with state
    is an `nn.Module`.
    """

    def __call__(self, loss: Callable[[Tensor], Tensor], x: Tensor, threat: Threat) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method of adversarial training: the objective ascended to make an example, and the one descended to train.

    Args:
        outer: descended over the student's weights, in training mode.
        inner: ascended over x'. `nothing` trains on natural images.
        maximizer: the inner process; None only where there is nothing to ascend.
        attack_in_train_mode: keep the student in training mode during the attack, as some released scripts do.
        companions: networks that are trained beside the student, or are its average, by name.
        perturbation: how the student's weights move before they descend (`mmard.methods.awp`).
        eps: radius of the ball in which training examples are made, where it is not the threat's.
        name: of the paper's method at the bottom of all wrappers, by which they choose what was published for it.
    """

    outer: Objective
    inner: Objective = nothing
    maximizer: Maximizer | None = None
    attack_in_train_mode: bool = False
    companions: Mapping[str, Companion] = field(default_factory=dict)
    perturbation: WeightPerturbation | None = None
    eps: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        for name, objective in (("inner", self.inner), ("outer", self.outer)):
            if not isinstance(objective, Objective):
                raise MmardError(
                    f"{name} is a {type(objective).__name__}, expected an Objective; decorate it with @term"
                )
        self._check_parts()
        if self.inner and self.maximizer is None:
            raise MmardError("there is an inner objective and no maximizer; give one, such as Pgd(steps=10)")
        if not self.outer:
            raise MmardError("the outer objective has no terms: there is nothing to train the student by")

    def _check_parts(self) -> None:
        if self.maximizer is not None and not callable(self.maximizer):
            raise MmardError(f"maximizer is {self.maximizer!r}, expected one such as Pgd(steps=10)")
        beside = self.companions.values() if isinstance(self.companions, Mapping) else [None]
        if not all(isinstance(companion, Companion) for companion in beside):
            raise MmardError(f"companions is {self.companions!r}, expected names with a Companion each")
        if self.perturbation is not None and not isinstance(self.perturbation, WeightPerturbation):
            raise MmardError(f"perturbation is {self.perturbation!r}, expected a WeightPerturbation")
        if not isinstance(self.attack_in_train_mode, bool):
            raise MmardError(f"attack_in_train_mode is {self.attack_in_train_mode!r}, expected True or False")
        if not isinstance(self.name, str):
            raise MmardError(f"name is {self.name!r}, expected a word")
        if self.eps is not None and not (is_number(self.eps) and self.eps > 0):
            raise MmardError(f"eps is {shortened(self.eps)}, expected a radius above 0, such as 10/255, or None")

    def modules(self) -> Iterator[nn.Module]:
        """Yield the modules that carry the method's state; the trainer moves, averages and saves them."""
        own = [self.maximizer] if isinstance(self.maximizer, nn.Module) else []
        beside = (module for companion in self.companions.values() for module in companion.outer.modules())
        yield from dict.fromkeys([*self.inner.modules(), *self.outer.modules(), *beside, *own])

    def learned(self) -> list[Learned]:
        """Return the parts of terms that learn with the student."""
        return [module for module in self.modules() if isinstance(module, Learned)]

    def reads_features(self) -> bool:
        """Tell whether a term asks for networks' features, which are recorded then."""
        return any(t.features for objective in self._objectives() for t in objective.within())

    def term_names(self) -> list[str]:
        """Return the names of all terms, those within others too, in their order."""
        return [t.name for objective in self._objectives() for t in objective.within()]

    def _objectives(self) -> tuple[Objective, ...]:
        return (self.inner, self.outer, *(companion.outer for companion in self.companions.values()))

    def ball(self, threat: Threat) -> Threat:
        """Return the ball in which training examples are made: the threat's, or one of the method's own radius."""
        return threat if self.eps is None else replace(threat, eps=self.eps)

    def scale_divergences(self, factor: float) -> "Method":
        """Multiply the KL terms of the outer objectives, its companions' too: 1/K for scripts that average KL over K classes."""
        beside = {
            name: replace(companion, outer=companion.outer.scale_divergences(factor))
            for name, companion in self.companions.items()
        }
        return replace(self, outer=self.outer.scale_divergences(factor), companions=beside)

    def has_divergences(self) -> bool:
        """Tell whether an outer objective has a KL term, so that a scale would change anything."""
        outers = (self.outer, *(companion.outer for companion in self.companions.values()))
        return any(t.divergence for outer in outers for _, t in outer.terms)

    def __str__(self) -> str:
        within = "" if self.eps is None else f" within {in_255ths(self.eps)}"
        mode = ", the student in training mode" if self.attack_in_train_mode else ""
        inner = f"{self.inner}   by {self.maximizer}{within}{mode}" if self.inner else "nothing (natural images)"
        lines = [f"inner: max  {inner}", f"outer: min  {self.outer}"]
        lines += [f"{name}: {companion}" for name, companion in self.companions.items()]
        if self.perturbation is not None:
            moved, since = f"{self.perturbation.gamma:g}·‖w‖", starting(self.perturbation.begin)
            lines.append(f"weights: moved up the outer loss by {moved} before they descend{since}")
        return "\n".join(lines)


def as_method(base: Method | None, usual: Callable[[], Method]) -> Method:
    """Return the method that a wrapper stands on: the one given, or the usual one.

    Raises:
        MmardError: for what is no method.
    """
    if base is not None and not isinstance(base, Method):
        raise MmardError(f"base is {shortened(base)}, expected a Method, such as mmard.methods.{usual.__name__}()")
    return usual() if base is None else base
