"""The inner attack from the settings: the method's own PGD with changes."""

import warnings
from dataclasses import replace
from typing import Literal

from mmard.attacks.inner.adaptive import EarlyStop, StopAt, WarmStart
from mmard.attacks.inner.one_step import N_FGSM, RS_FGSM, OneStep
from mmard.attacks.inner.switching import CollapseGuard, StepSwitch
from mmard.attacks.pgd import IterativeAttack, Pgd, Start
from mmard.core.method import Maximizer, Method
from mmard.core.threat import Threat
from mmard.utils.errors import MmardError, Note
from mmard.utils.validation import Count, Number, Positive, Section

SINGLE: dict[str, OneStep] = {"rs-fgsm": RS_FGSM, "n-fgsm": N_FGSM}
OF_SEVERAL_STEPS = ("steps", "step_size", "start", "stop_at", "warm_start")
"""Settings of `Inner` that mean nothing to one step."""
PARTS = {
    "kind: pgd": "the method's own PGD, with steps, step_size, start",
    **{f"kind: {name}": str(process) for name, process in SINGLE.items()},
    "eps: 10/255": "x' is made in a ball of this radius; the checkpoint is chosen, and evaluated, in the threat's",
    "stop_at: teacher": "a sample rests once T(x') is of another class than T(x)",
    "stop_at: student": "a sample rests once S(x') is not y",
    "warm_start: true": "each attack of a sample starts where its last one ended",
    "late: {after: 0.75, steps: 10}": "from that share of the run on so many steps of eps/4; eps and step_size may be given",
    "guard: 10": "the same from the epoch on in which held-out robust accuracy collapses",
}


class Late(Section):
    """More steps later: from the share ``after`` of the run on the inner attack takes ``steps`` steps.

    Args:
        after: share of the run from which on.
        steps: of the attack from then on.
        eps: radius of its ball from then on; None: as before.
        step_size: length of those steps; None: the method's own, a quarter of the radius.
    """

    after: Number
    steps: Count
    eps: Positive | None = None
    step_size: Positive | None = None


class Inner(Section):
    """Changes to a method's PGD; None leaves its own.

    Args:
        kind: ``pgd``, or an attack of one step: ``rs-fgsm``, ``n-fgsm``.
        eps: radius of the ball in training, where it is not the threat's.
        steps: gradient steps of the PGD.
        step_size: length of a step in the threat's norm; None: a quarter of the radius, the whole of it for one step.
        start: where the PGD begins: at the image, beside it (``gaussian``), or anywhere in the ball (``uniform``).
        stop_at: a sample rests once the ``student`` gets it wrong, or once the ``teacher`` names another class than for the image.
        warm_start: each attack of a sample starts where its last one ended.
        late: more steps later.
        guard: steps from the epoch on in which held-out robust accuracy collapses; see `CollapseGuard`.
    """

    kind: Literal["pgd", "rs-fgsm", "n-fgsm"] | None = None
    eps: Positive | None = None
    steps: Count | None = None
    step_size: Positive | None = None
    start: Start | None = None
    stop_at: StopAt | None = None
    warm_start: bool = False
    late: Late | None = None
    guard: Count | None = None

    def changes(self) -> list[str]:
        """Name the settings that change the method's PGD."""
        return [name for name, value in self if value is not None and value is not False]

    def applied_to(self, method: Method, threat: Threat) -> Method:
        """Change a method's PGD, and the radius of its ball.

        Raises:
            MmardError: as of `of`, for a method that attacks otherwise, and for a radius that is none under this norm.
        """
        if isinstance(method.maximizer, Pgd):
            changed = replace(method, eps=self.eps or method.eps)
            return replace(changed, maximizer=self.of(method.maximizer, changed.ball(threat)))
        if (changes := self.changes()) and method.maximizer is not None:
            raise MmardError(f"attack.{changes[0]} changes a PGD, and this method attacks by {method.maximizer}")
        if changes:  # a recipe's may stand beside any method
            named = method.name or "this method"
            warnings.warn(Note(f"{named} attacks nothing, so attack.{changes[0]} changes nothing"), stacklevel=2)
        return method

    def of(self, own: Pgd, threat: Threat) -> Maximizer:
        """Build the inner attack from a method's own PGD.

        Raises:
            MmardError: for parts that do not go together, and whatever the PGD and the threat do not allow.
        """
        process: IterativeAttack = self._single(threat) if self.kind in SINGLE else self._few(own, threat)
        if self.late is not None:
            late = self.late
            ball = threat if late.eps is None else replace(threat, eps=late.eps)
            then = self._many(replace(own, step_size=late.step_size or own.step_size), late.steps, ball)
            process = StepSwitch(first=process, then=then, after=late.after, eps=late.eps)
        if self.guard is not None:
            process = CollapseGuard(process, self._many(own, self.guard, threat))
        return WarmStart(process) if self.warm_start else process

    def _few(self, own: Pgd, threat: Threat) -> IterativeAttack:
        steps = own.steps if self.steps is None else self.steps
        step_size = own.step_size if self.step_size is None else self.step_size
        return self._stopping(Pgd(steps=steps, step_size=step_size, start=self.start or own.start), threat)

    def _many(self, own: Pgd, steps: int, threat: Threat) -> IterativeAttack:
        """Build the PGD of many steps; step length and one-step noise of the few-step attack do not apply to it."""
        return self._stopping(replace(own, steps=steps, start=self.start or own.start), threat)

    def _stopping(self, pgd: Pgd, threat: Threat) -> IterativeAttack:
        if threat.eps > 0:
            pgd.step_for(threat)
        return pgd if self.stop_at is None else EarlyStop(pgd=pgd, at=self.stop_at)

    def _single(self, threat: Threat) -> IterativeAttack:
        process = SINGLE[str(self.kind)]
        for name in OF_SEVERAL_STEPS:
            if getattr(self, name) not in (None, False):
                raise MmardError(
                    f"attack.{name} does not go with attack.kind={self.kind}, which has one step and a start of its own; "
                    "leave it out, or choose attack.kind=pgd"
                )
        if threat.norm != "linf":
            raise MmardError(
                f"attack.kind={self.kind} is for linf, the threat is {threat.norm}; choose attack.kind=pgd"
            )
        return process
