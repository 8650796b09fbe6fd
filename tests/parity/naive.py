"""Every loss and term once more, in plain Python and float64: slow, one formula a line, nothing from mmard.

S student, T teacher, x natural, x' adversarial; rows of logits are lists of floats. Where a term is one number for
the batch (`joint`, `mapping`) it is that number; elsewhere it is a list with one number per sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np

Row = list[float]
Rows = list[Row]


@dataclass(frozen=True)
class Seen:
    """What the two networks say at the two points, and the labels."""

    s_nat: Rows
    s_adv: Rows
    t_nat: Rows
    t_adv: Rows
    y: list[int]

    @staticmethod
    def of(s_nat: Any, s_adv: Any, t_nat: Any, t_adv: Any, y: Any) -> "Seen":
        """From anything numpy understands."""
        return Seen(
            *(np.asarray(rows, dtype=np.float64).tolist() for rows in (s_nat, s_adv, t_nat, t_adv)), list(map(int, y))
        )


# ---- one row of logits, or two --------------------------------------------------------------------------------


def softmax(row: Row, tau: float = 1.0) -> Row:
    """exp(z/τ) over its sum."""
    greatest = max(row)
    e = [exp((z - greatest) / tau) for z in row]
    total = sum(e)
    return [v / total for v in e]


def ce(row: Row, y: int) -> float:
    """−log p_y."""
    return -log(softmax(row)[y])


def kl(target: Row, student: Row, tau: float = 1.0) -> float:
    """Σ p log(p/q), nats."""
    return kl_of(softmax(target, tau), softmax(student, tau))


def kl_of(p: Sequence[float], q: Sequence[float]) -> float:
    """Σ p log(p/q) of two distributions; 0 log 0 = 0."""
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def entropy(row: Row) -> float:
    """−Σ p log p."""
    return -sum(a * log(a) for a in softmax(row) if a > 0)


def js(a: Row, b: Row) -> float:
    """Half of KL(p‖m) plus half of KL(q‖m), m halfway between p and q."""
    p, q = softmax(a), softmax(b)
    m = [(u + v) / 2 for u, v in zip(p, q, strict=True)]
    return (kl_of(p, m) + kl_of(q, m)) / 2


def margin(row: Row, y: int) -> float:
    """Logit of y less the greatest of the others."""
    return row[y] - max(z for k, z in enumerate(row) if k != y)


def centred(row: Row) -> Row:
    """Logits less their mean."""
    mean = sum(row) / len(row)
    return [z - mean for z in row]


def minus(a: Row, b: Row) -> Row:
    """a − b."""
    return [u - v for u, v in zip(a, b, strict=True)]


def cosine(a: Row, b: Row) -> float:
    """a·b / (‖a‖ ‖b‖)."""
    dot = sum(u * v for u, v in zip(a, b, strict=True))
    return dot / (sqrt(sum(u * u for u in a)) * sqrt(sum(v * v for v in b)))


def angle_at(vertex: Row, a: Row, b: Row) -> float:
    """Cosine of the angle that ``vertex`` sees between a and b."""
    return cosine(minus(a, vertex), minus(b, vertex))


# ---- two batches ----------------------------------------------------------------------------------------------


def joint_distribution(a: Rows, b: Rows) -> Rows:
    """P_jk = mean over samples of p_j q_k."""
    classes, n = range(len(a[0])), len(a)
    p, q = [softmax(row) for row in a], [softmax(row) for row in b]
    return [[sum(p[i][j] * q[i][k] for i in range(n)) / n for k in classes] for j in classes]


def mutual_information(a: Rows, b: Rows) -> float:
    """Σ P log(P / (P_row P_col)) of the joint distribution made symmetric."""
    j = joint_distribution(a, b)
    classes = range(len(j))
    p = [[(j[r][c] + j[c][r]) / 2 for c in classes] for r in classes]
    of_row = [sum(p[r][c] for c in classes) for r in classes]
    of_column = [sum(p[r][c] for r in classes) for c in classes]
    return sum(p[r][c] * log(p[r][c] / (of_row[r] * of_column[c])) for r in classes for c in classes if p[r][c] > 0)


def info_nce(a: Rows, b: Rows, tau: float) -> Row:
    """−log of how sample i's own partner stands out by cosine/τ, from a to b and from b to a, averaged."""
    u, v = [centred(row) for row in a], [centred(row) for row in b]
    there = [ce([cosine(u[i], other) / tau for other in v], i) for i in range(len(u))]
    back = [ce([cosine(v[i], other) / tau for other in u], i) for i in range(len(v))]
    return [(p + q) / 2 for p, q in zip(there, back, strict=True)]


def triangle_angles(nat: Row, adv: Row) -> Row:
    """Cosines of the triangle (origin, natural, adversarial), centred logits, at its three vertices."""
    origin, n, a = [0.0] * len(nat), centred(nat), centred(adv)
    return [angle_at(origin, n, a), angle_at(n, origin, a), angle_at(a, origin, n)]


def relation_angles(rows: Rows, neighbours: int = 16) -> list[Rows]:
    """For sample i: cosines of the angles at i between any two of the samples i+1 ... i+M, counted round the batch."""
    e, n = [centred(row) for row in rows], len(rows)
    near = [[e[(i + step) % n] for step in range(1, min(neighbours, n - 1) + 1)] for i in range(n)]
    return [[[angle_at(e[i], a, b) for a in near[i]] for b in near[i]] for i in range(n)]


def relation_gaps(a: Rows, b: Rows) -> Row:
    """Mean square difference of the angles of two batches, per sample."""
    gaps = [np.array(p) - np.array(q) for p, q in zip(relation_angles(a), relation_angles(b), strict=True)]
    return [float((g * g).mean()) for g in gaps]


# ---- terms ----------------------------------------------------------------------------------------------------


def over_edges(edge: Callable[[Rows, Rows], Any], v: Seen) -> Any:
    """Mean over the triangle's edges: student with itself, and with the teacher on each side."""
    edges = [(v.s_nat, v.s_adv), (v.s_nat, v.t_nat), (v.s_adv, v.t_adv)]
    mean = sum(np.array(edge(a, b)) for a, b in edges) / 3
    return mean.tolist()


def each(function: Callable[..., float], *columns: Sequence[Any]) -> Row:
    """One number per sample."""
    return [function(*values) for values in zip(*columns, strict=True)]


def hot(v: Seen, tau: float = 30.0) -> Row:
    """ARD: τ² KL at temperature τ."""
    return [tau * tau * kl(t, s, tau) for t, s in zip(v.t_nat, v.s_adv, strict=True)]


def minus_margin(v: Seen) -> Row:
    """How far x' is from where T leaves the class it gives to x: 0 on the boundary, negative on either side."""
    return [-abs(margin(adv, nat.index(max(nat)))) for nat, adv in zip(v.t_nat, v.t_adv, strict=True)]


def angle(v: Seen) -> Row:
    """Square distance of the student's triangle angles from the teacher's."""
    gaps = [
        minus(triangle_angles(s, s2), triangle_angles(t, t2))
        for s, s2, t, t2 in zip(v.s_nat, v.s_adv, v.t_nat, v.t_adv, strict=True)
    ]
    return [sum(g * g for g in gap) for gap in gaps]


def mapping(v: Seen) -> float:
    """KL from the teacher's joint of natural and robust predictions to the student's."""
    of_teacher, of_student = joint_distribution(v.t_nat, v.t_adv), joint_distribution(v.s_nat, v.s_adv)
    return sum(kl_of(p, q) for p, q in zip(of_teacher, of_student, strict=True))


def contrast(v: Seen, tau: float = 0.5) -> Row:
    """InfoNCE of the three edges."""
    return over_edges(lambda a, b: info_nce(a, b, tau), v)


def anchored(v: Seen, tau: float = 0.5) -> Row:
    """InfoNCE of the three edges of S(x), S(x') and T(x)."""
    edges = [info_nce(a, b, tau) for a, b in ((v.s_nat, v.s_adv), (v.s_nat, v.t_nat), (v.s_adv, v.t_nat))]
    return [sum(values) / 3 for values in zip(*edges, strict=True)]


TERMS: dict[str, Callable[..., Any]] = {
    "hard_nat": lambda v: each(ce, v.s_nat, v.y),
    "hard_adv": lambda v: each(ce, v.s_adv, v.y),
    "soft_nat": lambda v: each(kl, v.t_nat, v.s_nat),
    "soft_adv": lambda v: each(kl, v.t_nat, v.s_adv),
    "soft_adv_hot": hot,
    "soft_nat_hot": lambda v, tau=4.0: [tau * tau * kl(t, s, tau) for t, s in zip(v.t_nat, v.s_nat, strict=True)],
    "soft_moved_hot": lambda v, tau=30.0: [tau * tau * kl(t, s, tau) for t, s in zip(v.t_adv, v.s_adv, strict=True)],
    "soft_moved": lambda v: each(kl, v.t_adv, v.s_adv),
    "smooth": lambda v: each(kl, v.s_nat, v.s_adv),
    "smooth_again": lambda v: each(kl, v.s_nat, v.s_adv),
    "drift": lambda v: each(kl, v.t_nat, v.t_adv),
    "entropy": lambda v: each(entropy, v.t_adv),
    "label": lambda v: each(ce, v.t_adv, v.y),
    "margin": minus_margin,
    "joint": lambda v: -over_edges(mutual_information, v),
    "contrast": contrast,
    "anchored": anchored,
    "mapping": mapping,
    "angle": angle,
    "relational": lambda v: over_edges(relation_gaps, v),
    "js": lambda v: over_edges(lambda a, b: each(js, a, b), v),
}


def mean(name: str, v: Seen, **params: float) -> float:
    """Batch mean of a term."""
    return float(np.mean(TERMS[name](v, **params)))
