"""Check of a teacher before training: its accuracies on held-out images against its card's claims and against chance."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.logits import says_no_logits
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images, some
from mmard.evaluation.class_order import reordered
from mmard.evaluation.scores import MUCH, SURE, is_far_better
from mmard.models.architectures import Classifier
from mmard.utils.errors import MmardError
from mmard.utils.numbers import is_number, parse_number, seed_of
from mmard.utils.precision import full_precision

MOST, ENOUGH, FEW = 500, 50, 20  # images: evaluated at most; for a robust accuracy; for a verdict
STEPS = 10
TRUST = "teacher_check=none teaches with it all the same"
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
USUAL: dict[int, dict[str, Normalisation]] = {
    3: {
        "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        "CIFAR-100's": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    },
    1: {"MNIST's": ((0.1307,), (0.3081,))},
}


@dataclass(frozen=True, kw_only=True)
class TeacherCheck:
    """The requirements that a teacher is checked against.

    Args:
        images: held-out; at most ``most`` of them are evaluated, classes in proportion; None: all.
        threat: of the run; PGD-10 attacks under it.
        seed: of the attack's starts. The generators of training are left as they are.
        part: images at once.
        claimed: of the teacher's card: percent by attack, and the threat that they are of.
        robust: whether it has to be robust. Of a natural teacher the clean accuracy alone is checked.
        foreign: whether the weights come without their own normalisation, so that a card may give a wrong one.
    """

    images: Images
    threat: Threat
    seed: int = 0
    part: int = 250
    claimed: Mapping[str, Any] = field(default_factory=dict)
    robust: bool = True
    foreign: bool = True
    most: int | None = MOST

    def __call__(self, teacher: Classifier, who: str) -> dict[str, Any]:
        """Measure a teacher; see `measured`.

        Raises:
            MmardError: when it is far below what is claimed, near chance, or far better with another normalisation; with
                the likeliest cause. On fewer than 20 images nothing is said.
        """
        found, fault = self.measured(teacher)
        if fault is not None:
            raise MmardError(f"{who} {fault}; {TRUST}")
        return found

    def measured(self, teacher: Classifier) -> tuple[dict[str, Any], str | None]:
        """Measure ``clean`` and, on 50 images or more, ``pgd_10`` in percent; ``images``; ``threat``; ``claimed``.

        Returns:
            These, and what is wrong with the teacher, with the likeliest cause; None: nothing.
        """
        few = some(self.images, self.most, seed=0)
        found: dict[str, Any] = {"images": len(few), "threat": str(self.threat), "claimed": dict(self.claimed)}
        devices = [few.labels.device] if few.labels.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), held_still(teacher), full_precision():
            logits = self._logits(teacher, few)
            said = logits.argmax(1)
            right = torch.eq(said, few.labels)
            found["clean"] = 100 * right.float().mean().item()
            if no_logits := says_no_logits(logits, "held-out images"):
                return found, no_logits
            better = self.better(teacher, few, right) if self.foreign else None
            renumbered = None if better else reordered(said, few.labels)
            fault = self._fault(right, few, better is not None or renumbered is not None)
            if fault is None and self.robust and len(few) >= ENOUGH:
                attacked = torch.eq(self._classes(teacher, few, attacked=True), few.labels)
                found["pgd_10"] = 100 * attacked.float().mean().item()
                fault = self._below("PGD-10", attacked, robust_claim(self.claimed, self.threat))
        if fault is None:
            return found, None
        return found, f"{fault}; {better.said() if better else _cause(renumbered)}"

    def _fault(self, right: Tensor, few: Images, otherwise: bool) -> str | None:
        """Describe a wrong clean accuracy: far below its claim, near chance, or far better in another way; None: none."""
        n, share = len(right), right.float().mean().item()
        if n < FEW:
            return None
        if below := self._below("clean", right, _number(self.claimed.get("clean"))):
            return below
        usual = _most_frequent(few)
        at = f"is right on {share:.1%} of {n} held-out images"
        if share < (1 + usual) / 2 and share - usual <= 3 * (usual * (1 - usual) / n) ** 0.5:
            return f"{at}, no better than chance"
        return f"{at} as it stands" if otherwise else None

    def _below(self, what: str, right: Tensor, claim: float | None) -> str | None:
        """Describe an accuracy far below a claim in percent: by many points, and by more than chance; None: it is not."""
        n, share = len(right), right.float().mean().item()
        if claim is None or n < FEW or not 0 <= claim <= 100:
            return None
        expected = claim / 100
        if expected - share <= max(MUCH, SURE * (expected * (1 - expected) / n) ** 0.5):
            return None
        return f"is right on {share:.1%} of {n} held-out images ({what}), where its card claims {claim:g} %"

    def _classes(self, teacher: Classifier, few: Images, attacked: bool = False) -> Tensor:
        """Predict classes (N,), under PGD-10 if ``attacked``."""
        return self._logits(teacher, few, attacked).argmax(1)

    def _logits(self, teacher: Classifier, few: Images, attacked: bool = False) -> Tensor:
        """Compute logits (N, K), under PGD-10 if ``attacked``."""
        attack, parts = untargeted(Pgd(steps=STEPS, start="uniform")), []
        for start in range(0, len(few), self.part):
            x, y, _ = few.batch(slice(start, start + self.part))
            torch.manual_seed(seed_of(self.seed, "teacher", start))
            x = attack(teacher, x, y, self.threat) if attacked else x
            with torch.no_grad():
                parts.append(teacher(x))
        return torch.cat(parts)

    def better(self, teacher: Classifier, few: Images, right: Tensor) -> "Better | None":
        """Find the usual normalisation that suits the teacher far better than its own, which is ``right`` (N,); None: none does."""
        best, found, usual = right, None, _most_frequent(few)
        for name, (mean, std) in _usual(few):
            other = replace(teacher.architecture, mean=mean, std=std)
            then = torch.eq(self._classes(Classifier(teacher.net, other).to(few.labels.device), few), few.labels)
            share = then.float().mean().item()
            if share >= (1 + usual) / 2 and is_far_better(then, right) and then.sum() > best.sum():
                best, found = then, Better(name, mean, std, share)
        return found

    def normalisation(self, teacher: Classifier) -> "Better | None":
        """Find the usual normalisation that suits a teacher far better than its own; None: there is none."""
        few = some(self.images, self.most, seed=0)
        with held_still(teacher), full_precision():
            return self.better(teacher, few, torch.eq(self._classes(teacher, few), few.labels))


@dataclass(frozen=True)
class Better:
    """A normalisation that suits a teacher better than its own.

    Attributes:
        name: whose it is.
        mean, std: by channel; empty: none.
        share: of the images that the teacher is right on with it.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    share: float

    def said(self) -> str:
        """Say it, and what belongs into the card."""
        shown = f'"mean": {list(self.mean)}, "std": {list(self.std)}' if self.mean else "no mean and std"
        return f"with {self.name} ({shown} in its card) it is right on {self.share:.1%}"


def _most_frequent(few: Images) -> float:
    """Return the share of the most frequent class: the accuracy of a constant answer."""
    return torch.bincount(few.labels).max().item() / len(few)


def _usual(few: Images) -> Iterator[tuple[str, Normalisation]]:
    c = few.channels
    yield "no normalisation", ((), ())
    yield from ((f"{whose} mean and std", known) for whose, known in USUAL.get(c, {}).items())
    yield "0.5 and 0.5", ((0.5,) * c, (0.5,) * c)
    yield "pixels from 0 to 255", ((0.0,) * c, (1 / 255,) * c)


def _cause(renumbered: float | None) -> str:
    """Describe the likeliest cause, where it is not the normalisation."""
    if renumbered is None:
        return "are the weights of another architecture or of other data, or its mean and std wrong?"
    return (
        f"most of what it calls one class is another: its classes are in another order than the data's, and in theirs it is right "
        f"on {renumbered:.1%}; give its order as class_names in its card, or put its outputs in the data's order"
    )


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def robust_claim(claimed: Mapping[str, Any], threat: Threat) -> float | None:
    """Find the robust accuracy in percent that a card claims under this threat or a wider one of its norm; None: no claim."""
    text = str(claimed.get("threat", ""))
    radius = re.search(r"(\d[\d.]*(?:/\d+)?)\s*$", text)
    if radius is None or ("2" in text.partition(radius[0])[0]) != (threat.norm == "l2"):
        return None
    try:
        wide_enough = parse_number(radius[1]) >= threat.eps * (1 - 1e-6)
    except ValueError:
        return None
    values = [_number(value) for key, value in claimed.items() if key not in ("clean", "threat")]
    known = [value for value in values if value is not None]
    return min(known) if known and wide_enough else None
