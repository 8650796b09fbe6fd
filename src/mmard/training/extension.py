"""Extension of a run by another plan: for more epochs, or at another learning rate.

Progress is the share of all steps that is done, and schedule, averaging and terms follow it. From the extension on it is the
share of the new plan: a run of 30 epochs that goes on to 60 is at one half, and a cosine there is at half its height.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmard.attacks.inner.adaptive import WarmStart
from mmard.attacks.inner.switching import CollapseGuard, StepSwitch
from mmard.core.method import Maximizer, Method
from mmard.data.augment import LateAugmentation
from mmard.training.averaging import Averaging
from mmard.training.schedule import Plan
from mmard.training.validation import Validation
from mmard.utils.errors import MmardError
from mmard.utils.numbers import beginning

EXTENDABLE = (
    *(f"train.{key}" for key in ("epochs", "lr", "schedule", "milestones", "decay", "hold", "warmup", "weight_decay", "clip")),
    *("averaging.start", "validation.every", "validation.patience", "checkpoint_every"),
)  # fmt: skip
"""Settings that may change. After a change of any other it would not be clear what the whole run is a run of."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """Another plan for a run that has begun.

    Args:
        changed: what changes, by dotted key: old and new value.
        before, averaging: those the run was made with until now.
        late: the augmentation from some time on, the same before and after.
    """

    changed: Mapping[str, tuple[Any, Any]]
    before: Plan
    averaging: Averaging
    late: LateAugmentation | None = None

    def entry(
        self,
        step: int,
        per_epoch: int,
        after: Plan,
        averaging: Averaging,
        validation: Validation,
        waited: int,
        method: Method,
    ) -> dict[str, Any]:
        """Describe the extension for the run's history, in plain values.

        Args:
            step, per_epoch: steps that are done, and those of an epoch.
            after, averaging, validation: the new ones.
            waited: validations in a row without improvement.

        Raises:
            MmardError: where nothing would be left to train, or what is to come is not clear.
        """
        done, total = step / per_epoch, after.epochs * per_epoch
        if step >= total:
            raise MmardError(
                f"{done:g} epochs are done, and train.epochs={after.epochs} leaves nothing to train; expected more than {done:g}"
            )
        if validation.ends(waited):
            raise MmardError(
                f"the run ended early: {waited} looks in a row found nothing better, and validation.patience is "
                f"{validation.patience}; name a larger one, or validation.patience=null"
            )
        then, now = step / (self.before.epochs * per_epoch), step / total
        self._keeps_what_has_begun(then, now, step / per_epoch, after, averaging, method)
        last = self.before.lr_at(max(0, step - 1) / (self.before.epochs * per_epoch))
        lr = last, after.lr_at(now)
        self._is_clear(then, now, lr, after)
        changed = {key: list(pair) for key, pair in self.changed.items()}
        return {"step": step, "epoch": done, "changed": changed, "lr": list(lr)}

    def _is_clear(self, then: float, now: float, lr: tuple[float, float], after: Plan) -> None:
        """Raise MmardError where the learning rate would rise or jump although nobody set it so."""
        if now < after.warmup and then >= self.before.warmup:
            raise MmardError(
                f"train.warmup={after.warmup:g} is a share of the run: it is over, and {after.epochs} epochs would warm up again; "
                f"name train.schedule=cosine train.warmup=0, or another"
            )
        asked_for = {"train.lr", "train.schedule"} & set(self.changed)
        if after.schedule == "one_cycle" and lr[1] > lr[0] and not asked_for:
            raise MmardError(
                f"a one_cycle rises once, and in {after.epochs} epochs its learning rate would rise again, from {lr[0]:.3g} "
                f"to {lr[1]:.3g}; say so by train.lr={after.lr:g}, or name train.schedule=constant train.lr={lr[0]:.3g}"
            )

    def _keeps_what_has_begun(
        self, then: float, now: float, done: float, after: Plan, averaging: Averaging, method: Method
    ) -> None:
        """Raise MmardError where a part of the run that has begun would pause."""
        old = beginnings(self.before.epochs, self.averaging, method, self.late)
        for name, share in beginnings(after.epochs, averaging, method, self.late).items():
            if then > old.get(name, 1) and now < share:
                cure = f", or averaging.start={done:g} (epochs)" if name == "averaging.start" else ""
                raise MmardError(
                    f"{name} has begun, and would pause until {share:.0%} of {after.epochs} epochs are done; expected at most "
                    f"train.epochs={int(done / share)}{cure}"
                )


def beginnings(
    epochs: int, averaging: Averaging, method: Method, late: LateAugmentation | None = None
) -> dict[str, float]:
    """Find the parts of a run that begin within it, as shares of so many epochs.

    Raises:
        MmardError: for one that would begin when the run is over.
    """
    found = {"averaging.start": averaging.in_run_of(epochs).start} if averaging.kind != "none" else {}
    for name, companion in method.companions.items():
        found[f"the training of {name!r}"] = beginning(f"the training of {name!r}", companion.begin, epochs)
    if method.perturbation is not None:
        found["awp"] = beginning("awp", method.perturbation.begin, epochs)
    if (switch := _switch_in(method.maximizer)) is not None:
        found["attack.late"] = switch.after
    if late is not None:
        found["data.augment_late"] = beginning("data.augment_late", late.after, epochs)
    return found


def _switch_in(maximizer: Maximizer | None) -> StepSwitch | None:
    """Find the change of the attack with time."""
    match maximizer:
        case StepSwitch():
            return maximizer
        case WarmStart():
            return _switch_in(maximizer.process)
        case CollapseGuard():
            return _switch_in(maximizer.first)
    return None
