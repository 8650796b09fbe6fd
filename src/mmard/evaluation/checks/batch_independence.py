"""Check of batch independence: the same logits for an image alone and among others, in any order, at any batch size."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmard.core.threat import Threat
from mmard.data.images import Images
from mmard.evaluation.checks.messages import Check, CheckError
from mmard.evaluation.predict import logits_of
from mmard.utils.errors import MmardError, is_out_of_memory

SAME = 1e-3  # of the spread of an image's logits: so much may they differ between batch sizes
ROUNDED = 4 * torch.finfo(torch.float32).eps  # and of the largest logit: what float32 rounds
ALONE, MOVED, AT_ONCE = 12, 40, 100  # images


@dataclass(frozen=True, eq=False)
class Sample:
    """The model and the images of the pre-flight checks: x (N, C, H, W) in [0, 1], y (N,), N ≤ 100."""

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int

    def logits(self, x: Tensor) -> Tensor:
        """Compute the model's logits (B, K), without gradient.

        Raises:
            CheckError: when it gives none.
        """
        try:
            with torch.no_grad():
                logits = logits_of(self.model, x, self.classes)
        except MmardError:
            raise
        except Exception as e:
            if is_out_of_memory(e):
                raise MmardError(
                    f"{len(x)} images at once do not fit in memory; give a smaller batch_size (--batch-size)"
                ) from e
            raise
        if not logits.isfinite().all():
            raise CheckError("finite", "the model's logits are not finite (NaN or infinity)")
        return logits


def tolerance_of(logits: Tensor, share: float = SAME) -> Tensor:
    """Return by how much logits (N, K) may differ between batches: this share of their spread, and a rounding."""
    return share * (logits.amax(1) - logits.amin(1)).mean() + ROUNDED * logits.abs().max()


def check_batches(
    sample: Sample, images: Images, threat: Threat, whole: Tensor, tolerance: Tensor, batch_size: int
) -> list[Check]:
    """Compare logits across batches, of natural images ((N, K), ``whole``) and of random points in their balls.

    Returns:
        A finding that the model is randomised, where the same question gets several answers.

    Raises:
        CheckError: where they depend on the other images, or on their order.
    """
    torch.manual_seed(0)
    moved = threat.uniform(sample.x)[:MOVED]
    for what, x, known in (("", sample.x, whole), (" of moved images", moved, sample.logits(moved))):
        for size, parts in _ways(len(x), x.device).items():
            apart = torch.stack([(sample.logits(x[rows]) - known[rows]).abs().max() for rows in parts]).max()
            if apart > 2 * tolerance:
                said = f"logits{what} in batches of {size} differ by {apart:.3g} from those of {len(x)} together"
                return _changing_or_stop(sample, x, known, tolerance, said)
    return _check_size(sample, images, threat, tolerance, batch_size)


def _ways(n: int, device: torch.device) -> dict[str, list[Tensor]]:
    """Group rows into batches: each alone, in pairs of strangers, in another order."""
    few = torch.linspace(0, n - 1, min(n, ALONE), device=device).long()
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    ways = {"1": [row[None] for row in few], "2": [torch.stack([row, (row + n // 2) % n]) for row in few]}
    return {**ways, f"{n}, in another order": [shuffled]}


def _check_size(sample: Sample, images: Images, threat: Threat, tolerance: Tensor, batch_size: int) -> list[Check]:
    """Compare batches of the sizes that attacks use with smaller ones in another order; every other image is moved."""
    n = len(images)
    for size, first in {min(batch_size, n): 0, n % batch_size: n - n % batch_size}.items():
        if size <= AT_ONCE:
            continue
        x, _, _ = images.batch(slice(first, first + size))
        x = torch.where((torch.arange(size, device=x.device) % 2 == 1).view(-1, 1, 1, 1), threat.uniform(x), x)
        together = sample.logits(x)
        rows = torch.randperm(size, generator=torch.Generator().manual_seed(1)).to(x.device)
        apart = (
            torch.cat([sample.logits(x[part]) - together[part] for part in torch.split(rows, AT_ONCE // 2)]).abs().max()
        )
        if apart > 2 * tolerance:
            said = f"logits in batches of {size} differ by {apart:.3g} from those of {AT_ONCE // 2}, in another order"
            return _changing_or_stop(sample, x, together, tolerance, said)
    return []


def _changing_or_stop(sample: Sample, x: Tensor, then: Tensor, tolerance: Tensor, said: str) -> list[Check]:
    """Tell a randomised model from one whose logits depend on the other images of the batch, which is an error."""
    runs = torch.stack([then, *(sample.logits(x) for _ in range(3))])
    if (runs - then).abs().max() > 2 * tolerance:
        return [randomised_by(runs)]
    raise CheckError("batch", said)


def randomised_by(runs: Tensor) -> Check:
    """Describe a randomised model's spread over runs (R, N, K) of the same images."""
    changing = (runs.argmax(2) != runs[0].argmax(1)).any(0).float().mean()
    said = f"{len(runs)} runs give other logits, and other classes for {changing:.0%} of {runs.shape[1]} images"
    return Check("randomised", "warning", said)
