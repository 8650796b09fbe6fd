"""Losses on logits: each returns one number per sample, (B,), in nats; the trainer takes the one mean."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TINY_SIDE = 1e-2  # a side of a triangle shorter than this (in logits) has no direction; without it gradients explode


def log_probs(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Compute log softmax(logits / τ), (B, K)."""
    return F.log_softmax(logits / tau, dim=1)


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Compute the cross-entropy with labels: −log softmax(logits)_y."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(target: Tensor, student: Tensor, tau: float = 1.0) -> Tensor:
    """Compute KL(target ‖ student) of two batches of logits at temperature τ, summed over classes; ≥ 0.

    The gradient flows into both; a target is constant because its network is frozen, not because it is cut here.
    """
    log_t, log_s = log_probs(target, tau), log_probs(student, tau)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def entropy(logits: Tensor, order: float = 1.0) -> Tensor:
    """Compute the entropy H(softmax(logits)), in [0, log K]; of an order α other than 1 Rényi's, log Σ p^α / (1 − α)."""
    log_p = log_probs(logits)
    if order != 1:
        return (order * log_p).logsumexp(1) / (1 - order)
    return -(log_p.exp() * log_p).sum(1)


def js(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Jensen–Shannon divergence of two batches of logits, symmetric, in [0, log 2]."""
    log_a, log_b = log_probs(a), log_probs(b)
    log_m = torch.logaddexp(log_a, log_b) - math.log(2)
    return 0.5 * ((log_a.exp() * (log_a - log_m)).sum(1) + (log_b.exp() * (log_b - log_m)).sum(1))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Compute the margin logit_y − max_{k≠y} logit_k: positive where class y wins, 0 on the decision boundary."""
    own = logits.gather(1, y[:, None])
    best_other = logits.scatter(1, y[:, None], float("-inf")).amax(1)
    return own.squeeze(1) - best_other


def centred(logits: Tensor) -> Tensor:
    """Subtract from logits their mean over classes, which softmax does not see."""
    return logits - logits.mean(1, keepdim=True)


def joint(a: Tensor, b: Tensor) -> Tensor:
    """Compute the joint distribution of two batches of predictions: mean of softmax(a)_i softmax(b)_iᵀ, (K, K)."""
    return a.softmax(1).T @ b.softmax(1) / len(a)


def mutual_information(a: Tensor, b: Tensor, *, corrected: bool = False, shuffles: int = 16) -> Tensor:
    """Estimate each sample's share of the mutual information I of two batches of predictions; its mean is I.

    P = ½ (J + Jᵀ) with J the joint distribution, I = Σ P log(P / (P_row P_col)), in [0, log K]. Sample i's share is
    Σ_ab softmax(a_i)_a softmax(b_i)_b L_ab with L the log-ratio matrix, so the batch mean and its gradient are I's.
    A plug-in estimate: on B independent samples it is too large, by about K(K − 1) / 4B nats for confident predictions
    (0.2 measured for K = 10, B = 128).

    Args:
        corrected: take off what chance gives. C is the mean of I over ``shuffles`` fixed shuffles of b, H the entropy of
            P_row; the estimate I − C·(H − I)/(H − C) is 0 for strangers and H where I reaches its ceiling. (The adjusted
            mutual information of clusterings, Vinh et al., 2010, JMLR 11, eq. 5, times H, for soft predictions.)
            Bias and spread by K and B: docs/mmard.md. It can be a little below 0.
    """
    p, q = a.softmax(1), b.softmax(1)
    ratio = _log_ratio(p, q)
    shares = (p * (q @ ratio)).sum(1)
    if not corrected:
        return shares
    draw, found = torch.Generator().manual_seed(0), shares.mean()
    orders = [torch.randperm(len(b), generator=draw).to(b.device) for _ in range(shuffles)]
    chance = torch.stack([(p * (q[order] @ _log_ratio(p, q[order]))).sum(1).mean() for order in orders]).mean()
    row = 0.5 * (p + q).mean(0)
    ceiling = -(row * row.clamp_min(torch.finfo(row.dtype).tiny).log()).sum()
    room = (ceiling - chance).clamp_min(torch.finfo(row.dtype).eps)  # no room: all of one class, and nothing to correct
    return shares - chance * (ceiling - found) / room


def _log_ratio(p: Tensor, q: Tensor) -> Tensor:
    """Compute log(P / (P_row P_col)) of the symmetric joint of two batches of probabilities, (K, K)."""
    j = p.T @ q / len(p)
    j = (0.5 * (j + j.T)).clamp_min(torch.finfo(j.dtype).tiny)
    return j.log() - j.sum(1, keepdim=True).log() - j.sum(0, keepdim=True).log()


def info_nce(scores: Tensor) -> Tensor:
    """Compute InfoNCE of a critic's scores (B, B), row and column i of the same sample; log B − mean bounds I from below.

    The bound is tight for the critic log p(b|a)/p(b) as B grows, and never above log B.
    (van den Oord et al., 2018, arXiv 1807.03748, eq. 4)
    """
    same = torch.arange(len(scores), device=scores.device)
    return 0.5 * (ce(scores, same) + ce(scores.T, same))


def contrast(a: Tensor, b: Tensor, tau: float = 0.5) -> Tensor:
    """Compute `info_nce` of the centred logits of the same samples, scored by their cosine over the temperature ``tau``."""
    return info_nce(F.normalize(centred(a), dim=1) @ F.normalize(centred(b), dim=1).T / tau)


def scenario_mapping(t_nat: Tensor, t_adv: Tensor, s_nat: Tensor, s_adv: Tensor) -> Tensor:
    """Compute KL of the teacher's natural→robust joint to the student's: each sample's share, the mean is the KL."""
    tiny = torch.finfo(s_nat.dtype).tiny
    ratio = joint(t_nat, t_adv).clamp_min(tiny).log() - joint(s_nat, s_adv).clamp_min(tiny).log()
    return (t_nat.softmax(1) * (t_adv.softmax(1) @ ratio.T)).sum(1)


def triangle_angles(nat: Tensor, adv: Tensor) -> Tensor:
    """Compute the cosines (B, 3) at the vertices of the triangle (0, nat, adv) of centred logits."""
    a, b = centred(nat), centred(adv)
    sides = (a, b, b - a)
    unit = [F.normalize(s, dim=1, eps=TINY_SIDE) for s in sides]
    return torch.stack([(unit[0] * unit[1]).sum(1), -(unit[0] * unit[2]).sum(1), (unit[1] * unit[2]).sum(1)], 1)


def relation_angles(logits: Tensor, neighbours: int = 16) -> Tensor:
    """Compute cosines (B, M, M) of the angle that each sample sees between two others, its M next ones in the batch.

    Rows of a shuffled batch are random, so the next M are M random others and the cost is B·M²·K, not B³·K.
    (The angle of relational distillation, Park et al., 2019, arXiv 1904.05068, eq. 9)
    """
    e = centred(logits)
    m = min(neighbours, len(e) - 1)
    others = torch.stack([e.roll(-shift, 0) for shift in range(1, m + 1)], 1)
    unit = F.normalize(others - e[:, None], dim=2, eps=TINY_SIDE)
    return unit @ unit.transpose(1, 2)
