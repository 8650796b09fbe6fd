"""How far off each estimator of mutual information is, where the value is known in closed form.

    python benchmarks/mi_bias.py > table.md      # under a minute on one core; docs/mmard.md holds it

Predictions of the discrete cases: a class z, uniform over K, seen through a symmetric channel twice (z' agrees with z with
probability ``agree``); each prediction is one-hot ("hard"), or a draw of a Dirichlet distribution of concentration 4 whose mean
gives 0.9 to its class ("soft": what networks give). Symmetric channels in a row make a symmetric channel, so that
I = log K + c log c + (1 − c) log((1 − c) / (K − 1)) with c the probability that both ends agree.
"""

import math
import sys
import time
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from mmard import losses

KEEP, CONCENTRATION = 0.9, 4.0
SIZES, CLASSES = (32, 64, 128, 256, 512, 2048), (10, 50, 100)
AGREE = {"strangers": None, "agree 0.5": 0.5, "agree 0.9": 0.9}
Estimator = Callable[[Tensor, Tensor], Tensor]


def known(k: int, *agrees: float) -> float:
    """I in nats of a uniform class and what symmetric channels in a row leave of it."""
    c = (1 + (k - 1) * math.prod((k * a - 1) / (k - 1) for a in agrees)) / k
    return math.log(k) + sum(n * p * math.log(p) for n, p in ((1, c), (k - 1, (1 - c) / (k - 1))) if p > 0)


def draw(b: int, k: int, agree: float | None, soft: bool) -> tuple[Tensor, Tensor, float]:
    """Two batches of probabilities (b, k), and their mutual information."""
    agree = 1 / k if agree is None else agree
    z = torch.randint(k, (b,))
    other = torch.where(torch.rand(b) < agree, z, (z + torch.randint(1, k, (b,))) % k)
    eye = torch.eye(k, dtype=torch.float64)
    if not soft:
        return eye[z], eye[other], known(k, agree)
    mean = KEEP * eye + (1 - KEEP) / (k - 1) * (1 - eye)
    p, q = (torch.distributions.Dirichlet(CONCENTRATION * mean[c]).sample() for c in (z, other))
    return p, q, known(k, agree, KEEP, KEEP)


def information(joint: Tensor) -> Tensor:
    """I of joint distributions (..., K, K)."""
    j = joint.clamp_min(1e-300)
    return (j * (j.log() - j.sum(-1, keepdim=True).log() - j.sum(-2, keepdim=True).log())).sum((-1, -2))


def plain(p: Tensor, q: Tensor) -> Tensor:
    """The plug-in estimate."""
    return losses.mutual_information(p.log(), q.log()).mean()


def constant(p: Tensor, q: Tensor) -> Tensor:
    """Less the bias of one-hot strangers."""
    k = p.shape[1]
    return plain(p, q) - k * (k - 1) / (4 * len(p))


def second_order(p: Tensor, q: Tensor) -> Tensor:
    """Less half the trace of Hessian times covariance, (Σ Var w_ab / P_ab − 2 Σ Var m_a / P_a) / 2B: exact as B grows."""
    b, j = len(p), _pairs(p, q).mean(0)
    own = _pairs(p, q).var(0) / j.clamp_min(1e-300)
    m = (p + q) / 2
    return information(j) - (own.sum() - 2 * (m.var(0) / m.mean(0).clamp_min(1e-300)).sum()) / (2 * b)


def jackknife(p: Tensor, q: Tensor) -> Tensor:
    """B·I less B − 1 times the mean of I without one sample."""
    b, w = len(p), _pairs(p, q)
    without = ((w.sum(0) - w) / (b - 1)).clamp_min(0)
    return b * information(w.mean(0)) - (b - 1) * information(without).mean()


def crossed(p: Tensor, q: Tensor) -> Tensor:
    """Half of I, and half of it with each sample's log-ratio from the others alone: their biases are opposite."""
    b, w = len(p), _pairs(p, q)
    j = ((w.sum(0) - w) / (b - 1)).clamp_min(1e-4 / p.shape[1] ** 2)
    ratio = j.log() - j.sum(-1, keepdim=True).log() - j.sum(-2, keepdim=True).log()
    return (information(w.mean(0)) + (w * ratio).sum((-1, -2)).mean()) / 2


def halves(p: Tensor, q: Tensor) -> Tensor:
    """Twice I less the mean of I on each half."""
    h = len(p) // 2
    return 2 * plain(p, q) - (plain(p[:h], q[:h]) + plain(p[h:], q[h:])) / 2


def shuffled(p: Tensor, q: Tensor) -> Tensor:
    """Less the mean of I over 16 shuffles."""
    return plain(p, q) - torch.stack([plain(p, q[torch.randperm(len(q))]) for _ in range(16)]).mean()


def adjusted(p: Tensor, q: Tensor) -> Tensor:
    """The one in the package: shuffled, scaled so that the ceiling stays."""
    return losses.mutual_information(p.log(), q.log(), corrected=True).mean()


def _pairs(p: Tensor, q: Tensor) -> Tensor:
    w = p[:, :, None] * q[:, None, :]
    return (w + w.transpose(1, 2)) / 2


ESTIMATORS: dict[str, Estimator] = {
    "plug-in": plain, "− K(K−1)/4B": constant, "second order": second_order, "jackknife": jackknife,
    "cross-fitted": crossed, "halves": halves, "− shuffled": shuffled, "adjusted": adjusted,
}  # fmt: skip


def error(estimator: Estimator, b: int, k: int, agree: float | None, soft: bool) -> tuple[float, float]:
    """Bias and standard deviation over repeated draws; the same draws for every estimator."""
    torch.manual_seed(0)
    off = []
    for _ in range(12 if b * k * k < 1e6 else 4):
        p, q, truth = draw(b, k, agree, soft)
        with torch.random.fork_rng():
            off.append(estimator(p, q).item() - truth)
    values = torch.tensor(off, dtype=torch.float64)
    return values.mean().item(), values.std().item()


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print Markdown."""
    for cells in (head, ["---"] + ["---:"] * (len(head) - 1), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


def gaussians() -> None:
    """InfoNCE with the optimal critic, log p(b|a)/p(b), and with the cosine, of ten pairs of normal numbers."""
    d, rows = 10, []
    for truth in (1.0, 2.0, 4.0, 8.0):
        rho = math.sqrt(1 - math.exp(-2 * truth / d))
        for b in SIZES:
            torch.manual_seed(0)
            best, cosine = [], []
            for _ in range(10):
                x = torch.randn(b, d, dtype=torch.float64)
                y = rho * x + math.sqrt(1 - rho**2) * torch.randn(b, d, dtype=torch.float64)
                gap = torch.cdist(rho * x, y).square()
                scores = y.square().sum(1) / 2 - gap / (2 * (1 - rho**2)) - d / 2 * math.log(1 - rho**2)
                best.append(math.log(b) - losses.info_nce(scores).mean().item())
                cosine.append(math.log(b) - losses.contrast(x, y, 0.5).mean().item())
            rows.append([f"{truth:g}", str(b), f"{math.log(b):.2f}"])
            rows[-1] += [f"{torch.tensor(v).mean():.2f} ± {torch.tensor(v).std():.2f}" for v in (best, cosine)]
    table(["I known", "B", "log B", "InfoNCE, optimal critic", "`contrast`, cosine at τ = 0.5"], rows)


def main() -> None:
    """Print all the tables."""
    begun = time.perf_counter()
    print("### Bias ± standard deviation of each estimator, B = 128, in nats\n")
    rows = []
    for soft, k, (name, agree) in product((False, True), CLASSES, AGREE.items()):
        truth = draw(2, k, agree, soft)[2]
        found = [error(f, 128, k, agree, soft) for f in ESTIMATORS.values()]
        rows.append([f"{'soft' if soft else 'hard'}, K = {k}, {name}", f"{truth:.2f}"])
        rows[-1] += [f"{bias:+.2f} ± {spread:.2f}" for bias, spread in found]
    table(["predictions", "I known", *ESTIMATORS], rows)
    print("### Bias of plug-in → adjusted by batch size, in nats\n")
    rows = []
    for soft, k, (name, agree) in product((False, True), CLASSES, AGREE.items()):
        pairs = [[error(f, b, k, agree, soft)[0] for f in (plain, adjusted)] for b in SIZES]
        rows.append([f"{'soft' if soft else 'hard'}, K = {k}, {name}"] + [f"{a:+.2f} → {c:+.2f}" for a, c in pairs])
    table(["predictions", *[f"B = {b}" for b in SIZES]], rows)
    print("### InfoNCE on ten pairs of correlated normal numbers, I = −5 log(1 − ρ²)\n")
    gaussians()
    print(f"{time.perf_counter() - begun:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
