"""Temperature of a teacher: its logits are divided by τ, T^τ = softmax(t/τ), wherever a method's terms use them."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mmard.core.method import Method
from mmard.core.objective import Objective, Term
from mmard.core.views import Views
from mmard.utils.errors import MmardError, Note
from mmard.utils.numbers import parse_number, shortened

Tau = float | Sequence[float] | str | Mapping[str, float]
"""A temperature: a number, two of them (in the first and towards the last step), ``"auto"``, or ``{"auto": what that gave}``."""
AUTO = "auto"
COLDEST, HOTTEST = 0.01, 100.0
ABOUT = "expected a number such as 0.5, two such as [0.25, 1] for a run that goes from one to the other, or auto"
AT_ONE_POINT = re.compile(r"\bT\u0303?\(x'?\)(?!\^)")  # T̃: a teacher whose logits are corrected
HOT = re.compile(r"\bT\(x'?\)(?=\^)")
OTHERWISE = re.compile(r"\bT\(x_|\bt\(x|Δt|\bt_|,T\b|~T\b|P_T|∠\(T|\bT;")


class UnknownTemperatureError(MmardError):
    """The temperature ``auto`` stands where nobody has measured it."""

    def __init__(self) -> None:
        super().__init__(
            "tau=auto is measured on a run's training images, where mmard.train or mmard.distill begins it; give a number here, "
            "such as tau=0.5"
        )


@dataclass(frozen=True)
class Temperature:
    """A teacher's temperature τ over a run: from ``first`` in the first step linearly to ``last`` at the end; None: unknown yet."""

    first: float | None
    last: float | None

    @staticmethod
    def of(tau: Any, name: str = "tau") -> "Temperature":
        """Read a `Tau`; ``name`` is the parameter's.

        Raises:
            MmardError: for what is none, and for a temperature outside of [0.01, 100].
        """
        if isinstance(tau, str) and tau == AUTO:
            return Temperature(None, None)
        given = [tau[AUTO]] if isinstance(tau, Mapping) and list(tau) == [AUTO] else tau
        pair = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        try:
            ends = [parse_number(end) for end in pair if not isinstance(end, Mapping)]
        except ValueError as e:
            raise MmardError(f"{name} is {shortened(tau)}, {ABOUT}") from e
        if len(ends) != len(pair) or len(ends) not in (1, 2):
            raise MmardError(f"{name} is {shortened(tau)}, {ABOUT}")
        if wrong := [end for end in ends if not COLDEST <= end <= HOTTEST]:
            raise MmardError(
                f"{name} is {wrong[0]:g}, expected a temperature from {COLDEST:g} to {HOTTEST:g}: below 1 the teacher's "
                "targets are sharper than they are, above softer"
            )
        return Temperature(ends[0], ends[-1])

    def at(self, v: Views) -> float:
        """Return the temperature of this step.

        Raises:
            MmardError: for one that is not known yet.
        """
        if self.first is None or self.last is None:
            _ = v.nat.teacher  # a method without its teacher says so first
            raise UnknownTemperatureError
        return self.first if self.first == self.last else self.first + (self.last - self.first) * v.progress

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            return AUTO
        return f"{self.first:g}" if self.first == self.last else f"({self.first:g}→{self.last:g})"


@dataclass(frozen=True)
class AtTemperature:
    """A term with the teacher's logits divided by τ."""

    term: Term
    temperature: Temperature

    @property
    def parts(self) -> tuple[Term, ...]:
        """Name the terms that it is made of."""
        return (self.term,)

    def __call__(self, v: Views) -> Tensor:
        return self.term(v.at_temperature(self.temperature.at(v)))


def at_temperature(objective: Objective, tau: Tau, name: str = "tau") -> Objective:
    """Divide the teacher's logits by τ in an objective's terms; at τ = 1 it is the objective itself.

    Only the network named ``teacher`` has it: the student's temperature stays 1, a natural teacher's its own. A term that no
    temperature changes, such as MMARD's contrast, which is of cosines, stays as it is.

    Args:
        name: the parameter's, for errors.

    Raises:
        MmardError: for a τ that is none, and where one of the terms has a τ already.
    """
    temperature = Temperature.of(tau, name)
    if temperature == Temperature(1.0, 1.0):
        return objective
    if any(isinstance(t.function, AtTemperature) for t in objective.within()):
        raise MmardError(f"{name} stands in this method and in its base too, and a teacher has one; give it once")
    return Objective(tuple((w, t if t.scale_free else _at(t, temperature)) for w, t in objective.terms))


def _at(t: Term, temperature: Temperature) -> Term:
    return replace(t, formula=_marked(str(t), temperature), function=AtTemperature(t, temperature), params=())


def method_at_temperature(method: Method, tau: Tau) -> Method:
    """Divide the teacher's logits by τ in all that the student and its examples are made by; see `at_temperature`.

    Warns where that changes nothing in the whole method.
    """
    changed = replace(method, inner=at_temperature(method.inner, tau), outer=at_temperature(method.outer, tau))
    if Temperature.of(tau) != Temperature(1.0, 1.0) and str(changed) == str(method):
        warnings.warn(
            Note(f"tau={shortened(tau)} divides a teacher's logits, and no term of this method depends on their size"),
            stacklevel=2,
        )
    return changed


def is_unknown(method: Method) -> bool:
    """Tell whether a temperature of the method is ``auto`` and not known yet."""
    terms = (*method.inner.within(), *method.outer.within())
    return any(t.function.temperature.first is None for t in terms if isinstance(t.function, AtTemperature))


def _marked(formula: str, temperature: Temperature) -> str:
    """Write τ at each T of a formula, or behind it where T stands otherwise; one without a teacher stays."""
    marked = AT_ONE_POINT.sub(lambda t: f"{t[0]}^{temperature}", HOT.sub(lambda t: f"({t[0]}^{temperature})", formula))
    if OTHERWISE.search(formula) or (marked == formula and "S(x" not in formula):
        return f"{formula} [T^{temperature}]"
    return marked
