"""Diagnosis of examples against the teacher's decision boundary: margins, distances, crossings, transfer.

c is the teacher's class at the natural image, t its logits: m(x') = t_c(x') − max_{k≠c} t_k(x'). So m(x) ≥ 0, and
m(x') < 0 where the teacher's class has changed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial, reduce

import torch
from torch import Tensor

from mmard import losses
from mmard.attacks.cw import cw_loss
from mmard.attacks.minimal import Minimal
from mmard.attacks.pgd import Pgd, Start
from mmard.core.threat import Threat, per_sample
from mmard.core.views import Predict

STARTS: tuple[Start, ...] = ("uniform", "gaussian")
SHARES_FROM = 1e-3  # the possible drop, in logits, from which a sample's own share is spoken of


@dataclass(frozen=True, eq=False)
class BoundaryRecord:
    """Student and teacher at one kind of point of N images: margins, entropies, distances; all (N,).

    Attributes:
        margin: the teacher's, m(x'), in logits.
        entropy: H(T(x')) in nats.
        linf, l2: distance from x' to the nearest point found where the teacher's class is not c; 0 where x' has
            crossed, inf where nothing was found. Upper bounds of the true distances.
        teacher_right, student_right: is the class the label?
    """

    margin: Tensor
    entropy: Tensor
    linf: Tensor
    l2: Tensor
    teacher_right: Tensor
    student_right: Tensor

    @staticmethod
    def joined(parts: Iterable["BoundaryRecord"]) -> "BoundaryRecord":
        """Concatenate the records of batches."""
        columns = zip(*(p.columns().values() for p in parts), strict=True)
        return BoundaryRecord(*(torch.cat(column) for column in columns))

    def columns(self) -> dict[str, Tensor]:
        """Return the columns by name, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def look(
    student: Predict, teacher: Predict, x_adv: Tensor, y: Tensor, own: Tensor, searches: Sequence[Minimal]
) -> BoundaryRecord:
    """Measure margin, entropy, boundary distances and correctness at x' (B, C, H, W).

    Args:
        own: the teacher's class at the natural image, c.
        searches: the one for L∞ and the one for L2; `searches_of` makes them.
    """
    with torch.no_grad():
        t, s = teacher(x_adv), student(x_adv)
    distances = [search(teacher, x_adv, own)[1] for search in searches]
    right = [torch.eq(logits.argmax(1), y) for logits in (t, s)]
    parts = (losses.margin(t, own), losses.entropy(t), *distances, *right)
    return BoundaryRecord(*(p.detach().cpu() for p in parts))


def searches_of(classes: int, at_once: int = 1000) -> tuple[Minimal, Minimal]:
    """Make the minimal attacks of `look`, L∞ then L2, to at most five classes, which find what nine do within 1 %."""
    targets = min(5, classes - 1)
    return Minimal(norm="linf", targets=targets, at_once=at_once), Minimal(norm="l2", targets=targets, at_once=at_once)


def direct(teacher: Predict, x: Tensor, own: Tensor, threat: Threat) -> Tensor:
    """Attack the teacher itself in the same ball, strongly: x*, the point of the least margin.

    Forty steps on the margin from five starts, long steps and short ones, and forty towards each of the three likeliest
    other classes; each sample keeps the point of the least margin, the natural one included.
    """
    with torch.no_grad():
        logits = teacher(x)
    others = logits.scatter(1, own[:, None], float("-inf")).argsort(1, descending=True)[
        :, : min(3, logits.shape[1] - 1)
    ]
    best, least = x.clone(), losses.margin(logits, own)
    runs: list[tuple[Pgd, Tensor | None]] = [(Pgd(steps=40, start=start), None) for start in STARTS]
    if threat.eps > 0:
        short = Pgd(steps=40, step_size=threat.eps / 10, start="uniform")
        runs += [(short, None)] * 3 + [(short, target) for target in others.unbind(1)]
    for pgd, target in runs:
        with torch.enable_grad():
            x_adv = pgd(partial(_push, teacher, own, target), x, threat)
        with torch.no_grad():
            margin = losses.margin(teacher(x_adv), own)
        lower = margin < least
        best, least = torch.where(per_sample(lower, x), x_adv, best), torch.where(lower, margin, least)
    return best


def _push(teacher: Predict, own: Tensor, target: Tensor | None, z: Tensor) -> Tensor:
    logits = teacher(z)
    if target is None:
        return cw_loss(logits, own)
    return (logits.gather(1, target[:, None]) - logits.gather(1, own[:, None]))[:, 0]


@dataclass(frozen=True)
class Drop:
    """The possible drop of the teacher's margin: from the natural image to the least margin known in the ball, (N,) each."""

    natural: Tensor
    least: Tensor

    @staticmethod
    def of(natural: BoundaryRecord, candidates: Iterable[BoundaryRecord]) -> "Drop":
        """Take the least margin over all the points compared, so that no share passes 1."""
        margins = [natural.margin, *(c.margin for c in candidates)]
        return Drop(natural.margin, reduce(torch.minimum, margins))

    def share(self, boundary_records: BoundaryRecord) -> Tensor:
        """Compute (m(x) − m(x')) / (m(x) − m(x*)) of each sample; nan where next to nothing is possible."""
        possible = self.natural - self.least
        return torch.where(possible > SHARES_FROM, (self.natural - boundary_records.margin) / possible, torch.nan)

    def mean_share(self, boundary_records: BoundaryRecord, than: BoundaryRecord | None = None) -> tuple[float, float]:
        """Compute mean numerator over mean denominator, and its standard error over samples (of a ratio, to first order).

        Args:
            than: subtract the share of these points, sample by sample: the paired difference.
        """
        top = (self.natural if than is None else than.margin) - boundary_records.margin
        possible = (self.natural - self.least).mean()
        share = top.mean() / possible.clamp_min(1e-12)
        spread = (top - share * (self.natural - self.least)).std() / possible.clamp_min(1e-12)
        return share.item(), spread.item() / math.sqrt(len(top))


Row = dict[str, float | int | None]


def summary(
    boundary_records: BoundaryRecord, natural: BoundaryRecord, drop: Drop, than: BoundaryRecord | None = None
) -> Row:
    """Average a record over the samples; None where there is nothing to average.

    ``transfer``: of the samples which both networks classify rightly at x and whose x' fools the student, the share that
    fools the teacher as well; ``fooled``: of the samples which the student classifies rightly at x, the share whose x' fools it.
    """
    share, error = drop.mean_share(boundary_records)
    fooled = natural.student_right & ~boundary_records.student_right
    both = fooled & natural.teacher_right
    row: Row = {
        "margin": mean(boundary_records.margin),
        "margin_error": boundary_records.margin.std().item() / math.sqrt(len(boundary_records.margin)),
    }
    row |= {"margin_median": boundary_records.margin.median().item(), "share": share, "share_error": error}
    row |= {"share_median": _none(drop.share(boundary_records).nanmedian().item())}
    for norm, distance in (("linf", boundary_records.linf), ("l2", boundary_records.l2)):
        near = distance[distance.isfinite()]
        row |= {f"distance_{norm}": mean(near), f"unreached_{norm}": len(distance) - len(near)}
    row |= {"crossed": mean((boundary_records.margin < 0).double()), "entropy": mean(boundary_records.entropy)}
    row |= {"fooled": mean(fooled[natural.student_right].double()), "fooling": int(both.sum())}
    row |= {"transfer": mean((~boundary_records.teacher_right[both]).double())}
    if than is not None:
        row["gain"], row["gain_error"] = drop.mean_share(boundary_records, than)
    return row


def mean(values: Tensor) -> float | None:
    """Compute the mean; None of no values."""
    return values.mean().item() if len(values) else None


def _none(value: float) -> float | None:
    return None if math.isnan(value) else value
