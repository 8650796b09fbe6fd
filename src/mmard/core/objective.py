"""Terms and their weighted sums, the objectives: the inner one is ascended by an attack, the outer one descended."""

import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, overload

from torch import Tensor, nn

from mmard.core.views import Views
from mmard.utils.errors import MmardError, failing_in_one_line
from mmard.utils.numbers import is_number

TermFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Term:
    """A loss term: a function from views to one number per sample, with its name, formula and bound parameters.

    Attributes:
        divergence: a KL between distributions over the classes, which some released scripts average over them: a run's
            ``scale`` is for these terms alone.
        features: it asks for features (`mmard.core.views.Point.features`), which networks then record.
        scale_free: it stays the same whatever its logits are multiplied by, as a cosine does: a temperature changes nothing in it.
    """

    name: str
    formula: str
    function: TermFunction
    params: tuple[tuple[str, Any], ...] = ()
    divergence: bool = False
    features: bool = False
    scale_free: bool = False

    def __call__(self, views: Views) -> Tensor:
        with failing_in_one_line(f"term {self.name!r}"):
            value = self.function(views, **dict(self.params))
        if not isinstance(value, Tensor) or value.shape != views.y.shape:
            raise MmardError(
                f"term {self.name!r} gave {_shape(value)}, expected one number per sample "
                f"{tuple(views.y.shape)}: use reduction='none' and no mean over the batch"
            )
        return value

    def within(self) -> "Iterator[Term]":
        """Yield this term and the terms that it is made of, such as the one inside a weighed term."""
        yield self
        for part in getattr(self.function, "parts", ()):
            yield from part.within()

    def __str__(self) -> str:
        params = {k: p.default for k, p in inspect.signature(self.function).parameters.items()} | dict(self.params)
        shown = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in params.items()}
        return re.sub(r"\{(\w+)\}", lambda m: shown.get(m[1], m[0]), self.formula)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. Terms run in written order, which is part of a method (BatchNorm sees it)."""

    terms: tuple[tuple[float, Term], ...] = ()

    def __post_init__(self) -> None:
        pairs = self.terms if isinstance(self.terms, tuple) else (self.terms,)
        if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Term) for pair in pairs):
            raise MmardError(
                f"terms are {self.terms!r}, expected pairs of a weight and a term; decorate a function with @term"
            )

    def __call__(self, views: Views) -> dict[str, Tensor]:
        """Compute every term's weighted value, one number per sample: name → (B,)."""
        values: dict[str, Tensor] = {}
        for weight, term in self.terms:
            value = weight * term(views)
            values[term.name] = values[term.name] + value if term.name in values else value
        return values

    def total(self, views: Views) -> Tensor:
        """Sum the weighted terms, (B,)."""
        return reduce(Tensor.add, self(views).values())

    def given(self, **params: Any) -> "Objective":
        """Bind parameters of the terms, for instance ``soft_adv.given(tau=30)``."""
        taken = {k for _, t in self.terms for k in inspect.signature(t.function).parameters}
        if wrong := sorted(set(params) - taken):
            raise MmardError(f"no term of '{self}' takes {', '.join(wrong)}")
        return Objective(tuple((w, _bind(t, params)) for w, t in self.terms))

    def within(self) -> Iterator[Term]:
        """Yield the terms and all that they are made of."""
        for _, t in self.terms:
            yield from t.within()

    def modules(self) -> Iterator[nn.Module]:
        """Yield the modules that hold state for these terms: those of which the terms are methods."""
        owners = (getattr(t.function, "__self__", None) for t in self.within())
        yield from dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module))

    def weighed(self, by: "Objective") -> "Objective":
        """Multiply each term by the weight per sample that ``by`` gives."""
        factor = str(by) if len(by.terms) == 1 else f"({by})"
        still = all(t.scale_free for _, t in by.terms)

        def one(t: Term) -> Term:
            free = t.scale_free and still
            return replace(t, formula=f"{factor}·{t}", function=Weighed(by, t), params=(), scale_free=free)

        return Objective(tuple((w, one(t)) for w, t in self.terms))

    def scale_divergences(self, factor: float) -> "Objective":
        """Multiply the weights of its KL terms; the others, such as cross-entropies, keep theirs."""
        return Objective(tuple((factor * w if t.divergence else w, t) for w, t in self.terms))

    def __add__(self, other: "Objective") -> "Objective":
        if not isinstance(other, Objective):
            raise MmardError(f"'{self}' plus {other!r}: expected another Objective; decorate a function with @term")
        return Objective(self.terms + other.terms)

    __radd__ = __add__

    def __mul__(self, factor: float) -> "Objective":
        if not is_number(factor) or not math.isfinite(factor):
            raise MmardError(f"'{self}' times {factor!r}: expected a finite number")
        return Objective(tuple((factor * w, t) for w, t in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return -1.0 * self

    def __sub__(self, other: "Objective") -> "Objective":
        return self + (-other if isinstance(other, Objective) else other)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        text = ""
        for weight, term in self.terms:
            sign = (" − " if text else "−") if weight < 0 else (" + " if text else "")
            shown = f"({term})" if str(term).startswith("−") and (sign or abs(weight) != 1) else str(term)
            text += sign + ("" if abs(weight) == 1 else f"{abs(weight):.4g}·") + shown
        return text or "nothing"


nothing = Objective()


@dataclass(frozen=True)
class Weighed:
    """A term multiplied by a weight per sample."""

    by: Objective
    term: Term

    @property
    def parts(self) -> tuple[Term, ...]:
        """Return the terms that this one is made of."""
        return (self.term, *(t for _, t in self.by.terms))

    def __call__(self, v: Views) -> Tensor:
        value = self.term(v)  # first: the order of the networks' forward passes is the method's, not the weight's
        return self.by.total(v) * value


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _bind(term: Term, params: dict[str, Any]) -> Term:
    taken = inspect.signature(term.function).parameters
    return replace(term, params=tuple({**dict(term.params), **{k: v for k, v in params.items() if k in taken}}.items()))


@overload
def term(
    formula: str, *, divergence: bool = False, features: bool = False, scale_free: bool = False
) -> Callable[[TermFunction], Objective]: ...
@overload
def term(formula: TermFunction) -> Objective: ...
def term(formula: str | TermFunction, **facts: Any) -> Objective | Callable[[TermFunction], Objective]:
    """Make an `Objective` of one term out of a function ``(views, **params) -> (B,)``.

    ``@term`` takes the function's name as its formula; ``@term("KL(T(x)‖S(x'))")`` prints as the paper does, and
    ``{tau}`` in it shows the parameter's value. ``divergence`` marks a KL, summed over classes, ``features`` a term that
    asks for features, ``scale_free`` one that no temperature changes: see `Term`.
    """
    if callable(formula):
        return _make(formula, getattr(formula, "__name__", "term"), **facts)
    if not isinstance(formula, str):
        raise MmardError(f"term is given {formula!r}, expected a formula or a function of views")
    return lambda function: _make(function, formula, **facts)


def _make(function: TermFunction, formula: str, **facts: Any) -> Objective:
    if not callable(function):
        raise MmardError(f"term({formula!r}) is given {function!r}, expected a function of views")
    return Objective(((1.0, replace(Term(getattr(function, "__name__", "term"), formula, function), **facts)),))
