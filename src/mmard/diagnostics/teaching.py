"""What a teacher has to teach: its accuracy, softness and transfer at a few images, before a student is trained.

x' is made by PGD: by a direct attack on the teacher, or on a small network that stands for a student. H is an entropy in nats.
The thresholds of `advice` are rules of thumb; each says where it comes from.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmard import losses
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.data.images import Images
from mmard.utils.numbers import seed_of

STEPS = 20
SOFT = 0.35
"""The share of log(classes) to which a mean entropy is sharpened: .8 nats of ten classes (docs/results/cifar10-pays)."""
LITTLE = 0.15
"""The share of a direct attack's effect below which a student's examples hardly reach a teacher. That such teachers teach badly is
SAAD's finding (arXiv 2512.10275); the number is ours."""
SURE = 0.5
"""Of the entropy that is aimed at: below this a teacher is confident (arXiv 2605.21999 gives no number)."""
ENOUGH = 20
"""Held-out images below which nothing is said with confidence."""
HARDEST = 0.25
"""The share of the images of which `Lessons.unlearnable` takes the hardest."""
Row = dict[str, float | int | None]


@dataclass(frozen=True, eq=False)
class Small:
    """A small network in a student's place: on the images, and on examples made against it.

    Attributes:
        right, robust: (N,) is its class the label at x, and at its own x'?
        label_adv: (N,) the probability that it gives the label at its x'.
        teacher_right: (N,) is the teacher's class the label at this network's x'?
        teacher_label: (N,) the probability that the teacher gives the label there.
        teacher_entropy: (N,) H(T(x')) there.
    """

    right: Tensor
    robust: Tensor
    label_adv: Tensor
    teacher_right: Tensor
    teacher_label: Tensor
    teacher_entropy: Tensor


@dataclass(frozen=True, eq=False)
class Lessons:
    """A teacher's answers to N images, and what small networks make of them.

    Attributes:
        labels: (N,).
        nat, adv: (N, K) its logits at x, and at the x' of a direct attack.
        natural: small networks that were trained on natural images, by name.
        robust: small networks that were trained adversarially.
    """

    labels: Tensor
    nat: Tensor
    adv: Tensor
    natural: Mapping[str, Small] = field(default_factory=dict)
    robust: Mapping[str, Small] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return each image's numbers by name, for a file."""
        small = {**self.natural, **self.robust}
        found = {f"{name}/{key}": value for name, one in small.items() for key, value in vars(one).items()}
        return {"labels": self.labels, "nat": self.nat, "adv": self.adv, **found}

    @property
    def unlearnable(self) -> Tensor | None:
        """Return the images (N,) that are the hardest for students; None without an adversarially trained small network.

        They are those that all these networks get wrong at their x', and of these the `HARDEST` of all images by the probability
        that they give the label there. It stands for the robustly unlearnable set of arXiv 2605.21999, the training images that
        students of every method fail on; several networks that were trained long come nearer to it than one of some minutes.
        """
        if not self.robust:
            return None
        wrong = torch.stack([~one.robust for one in self.robust.values()]).all(0)
        label = torch.stack([one.label_adv for one in self.robust.values()]).mean(0)
        return wrong & (label <= label.quantile(HARDEST))

    def row(self) -> Row:
        """Average over the images; None where there is nothing to average. Shares are of 1, entropies in nats.

        ``transfer_K``: of the ``fooling_K`` images that both have right at x and whose x' fools the small network K, the share that
        fools the teacher too. ``effect_K``: the teacher's loss of the label's probability there, as a share of the loss under a
        direct attack. ``small_K``: the small network's accuracy under its own attack.
        """
        p, p_adv = (label_of(logits, self.labels) for logits in (self.nat, self.adv))
        h, h_adv = losses.entropy(self.nat), losses.entropy(self.adv)
        row: Row = {"images": len(self.labels), "classes": self.nat.shape[1]}
        row |= {"clean": _mean(self._right(self.nat)), "robust": _mean(self._right(self.adv))}
        row |= {"entropy": _mean(h), "entropy_adv": _mean(h_adv), "entropy_range": _mean(h_adv - h)}
        row |= {"label": _mean(p), "label_adv": _mean(p_adv)}
        for kind, small in (("natural", self.natural), ("robust", self.robust)):
            fooling = [self._transfer(one) for one in small.values()]
            row |= {f"transfer_{kind}": _averaged([_mean(one) for one in fooling])}
            row |= {f"fooling_{kind}": sum(map(len, fooling))}
            effect = [(p - one.teacher_label).mean() / (p - p_adv).mean().clamp_min(1e-3) for one in small.values()]
            row |= {f"effect_{kind}": _averaged([one.item() for one in effect])}
            row |= {f"small_{kind}": _averaged([_mean(one.robust) for one in small.values()])}
        hard = self.unlearnable
        if hard is not None:
            row |= {"unlearnable": _mean(hard), "entropy_unlearnable": _mean(h[hard])}
            row |= {"entropy_learnable": _mean(h[~hard]), "label_unlearnable": _mean(p[hard])}
        return row

    def _right(self, logits: Tensor) -> Tensor:
        return torch.eq(logits.argmax(1), self.labels)

    def _transfer(self, small: Small) -> Tensor:
        """Of the images that both have right and whose x' fools the small network: does it fool the teacher too?"""
        fooled = small.right & ~small.robust & self._right(self.nat)
        return ~small.teacher_right[fooled]


def label_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability (N,) of the label."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def _mean(values: Tensor) -> float | None:
    return values.double().mean().item() if len(values) else None


def _averaged(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def attack(net: Predict, images: Images, threat: Threat, seed: int, part: int) -> list[Tensor]:
    """Make an example of every image against a network, by PGD-20 on the cross-entropy; a tensor a batch."""
    pgd, found = untargeted(Pgd(steps=STEPS, start="uniform")), []
    for start in range(0, len(images), part):
        x, y, _ = images.batch(slice(start, start + part))
        torch.manual_seed(seed_of(seed, "teacher", start))
        found.append(pgd(net, x, y, threat))
    return found


@torch.no_grad()
def answers(net: Predict, batches: list[Tensor]) -> Tensor:
    """Compute logits (N, K) on the CPU."""
    return torch.cat([net(x).float().cpu() for x in batches])


def lessons(
    teacher: Predict,
    images: Images,
    threat: Threat,
    small: Mapping[str, Mapping[str, Predict]],
    *,
    seed: int = 0,
    part: int = 100,
    on_part: Callable[[str], None] = lambda _: None,
) -> Lessons:
    """Ask a teacher about images, about examples made against it, and about those made against small networks.

    Args:
        small: ``natural`` and ``robust`` → small networks by name; both may be empty.
        part: images attacked at once.
        on_part: hears of what is attacked next.
    """
    natural, labels = [images.batch(slice(i, i + part))[0] for i in range(0, len(images), part)], images.labels.cpu()
    on_part("attack on the teacher")
    nat, adv = answers(teacher, natural), answers(teacher, attack(teacher, images, threat, seed, part))
    found: dict[str, dict[str, Small]] = {}
    for kind, networks in small.items():
        for name, net in networks.items():
            on_part(f"attack on {name}")
            examples = attack(net, images, threat, seed, part)
            said = answers(teacher, examples)
            at_x, at_adv = answers(net, natural), answers(net, examples)
            right = [torch.eq(logits.argmax(1), labels) for logits in (at_x, at_adv, said)]
            sure = [label_of(logits, labels) for logits in (at_adv, said)]
            one = Small(right[0], right[1], sure[0], right[2], sure[1], losses.entropy(said))
            found.setdefault(kind, {})[name] = one
    return Lessons(labels, nat, adv, found.get("natural", {}), found.get("robust", {}))


def temperature(logits: Tensor, target: float) -> float:
    """Find τ ≤ 1 at which the mean entropy of softmax(logits / τ) is ``target`` nats; 1 where it is no higher as it is.

    Raises:
        ValueError: for a target of 0 or below, which no τ reaches.
    """
    if target <= 0:
        raise ValueError(f"an entropy of {target} nats is reached by no temperature")
    low, high = 0.01, 1.0
    if losses.entropy(logits).mean().item() <= target:
        return 1.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        soft = losses.entropy(logits / middle).mean().item() > target
        low, high = (low, middle) if soft else (middle, high)
    return high


@dataclass(frozen=True)
class Advice:
    """An advice on a teacher.

    Attributes:
        verdict: ``good``, ``with care`` or ``poor``.
        reasons: why, the gravest first; one sentence each.
        temperature: τ of T(x)^(τ) = softmax(t(x)/τ) for its targets; 1: as they are.
        target: the mean entropy that this τ aims at, in nats.
    """

    verdict: str
    reasons: tuple[str, ...]
    temperature: float
    target: float

    def sentence(self) -> str:
        """Say it in one sentence."""
        begin = {"good": "Teach with it", "with care": "Teach with it, with care", "poor": "Choose another teacher"}
        return f"{begin[self.verdict]}: {'; '.join(self.reasons)}."

    def record(self) -> dict[str, Any]:
        """Return plain values, for a file."""
        return {**vars(self), "reasons": list(self.reasons), "sentence": self.sentence()}


def advice(row: Row, logits: Tensor, target: float | None = None, below: str | None = None) -> Advice:
    """Predict how well a teacher teaches from what `Lessons.row` says. These are rules of thumb, not measurements.

    Args:
        logits: (N, K) the teacher's at x.
        target: the mean entropy to sharpen to, in nats; None: `SOFT` of the entropy of a guess.
        below: how its accuracy falls short of its card's claim, if it does.
    """
    aim = SOFT * math.log(logits.shape[1]) if target is None else target
    tau = temperature(logits, aim)
    poor = [f"it does not hold its claim ({below})"] if below else []
    robust, small = row["robust"] or 0.0, row.get("small_robust")
    if small is not None and robust <= small:
        poor.append(
            f"under attack it is right on {robust:.0%}, and a small network trained without any teacher on {small:.0%}: there "
            "is nothing to gain"
        )
    care = _few(len(logits)) + _cares(row, aim, tau)
    reasons = (*poor, *care) or (_praise(row),)
    return Advice("poor" if poor else "with care" if care else "good", reasons, tau, aim)


def _few(images: int) -> list[str]:
    if images >= ENOUGH:
        return []
    return [f"{images} held-out images say next to nothing: hold out more (data.held_out=0.5), or bring more pictures"]


def _cares(row: Row, aim: float, tau: float) -> list[str]:
    """List what has to be minded."""
    found = []
    effect, hard = row.get("effect_robust"), row.get("entropy_unlearnable")
    if effect is not None and effect < LITTLE:
        found.append(
            f"a small network's examples move its answer by {max(effect, 0):.0%} of what a direct attack does, so a student's "
            "attack shows little of what it knows: try saad, which weighs samples by this, or a weaker teacher"
        )
    if hard is not None and hard < SURE * aim:
        found.append(
            f"it is sure (entropy {hard:.2f} nats) of images that a small network cannot learn, which leads students to learn "
            "them by heart: stop early, by held-out robust accuracy"
        )
    if tau < 1:
        found.append(
            f"its targets are soft (entropy {row['entropy']:.2f} nats), which learns slowly: sharpen them by a temperature of "
            f"{tau:.2f} (method.tau={tau:.2g}, or auto)"
        )
    return found


def _praise(row: Row) -> str:
    effect = row.get("effect_robust")
    reach = (
        f", and a student's examples reach it ({effect:.0%} of a direct attack's effect)" if effect is not None else ""
    )
    return f"its targets are sharp enough (entropy {row['entropy']:.2f} nats){reach}"
