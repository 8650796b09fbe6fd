"""The triangle natural – robust – teacher: mutual informations on a whole evaluation set."""

import math

from torch import Tensor

from mmard import losses

EDGES = {
    "nat_adv": "I(S(x), S(x'))", "nat_teacher": "I(S(x), T(x))", "adv_teacher": "I(S(x'), T(x'))", "teacher": "I(T(x), T(x'))",
}  # fmt: skip


def information(a: Tensor, b: Tensor) -> dict[str, float]:
    """Estimate the mutual information of two sets of logits (N, K) of the same images, in nats.

    ``adjusted`` is less what chance gives (`losses.mutual_information`), ``plain`` the plug-in estimate, ``error`` the
    standard error over samples, ``contrast`` the lower bound log N − InfoNCE of the cosine critic.
    """
    shares = losses.mutual_information(a.double(), b.double())
    adjusted = losses.mutual_information(a.double(), b.double(), corrected=True).mean().item()
    error = shares.std().item() / math.sqrt(len(a))
    bound = math.log(len(a)) - losses.contrast(a.double(), b.double()).mean().item()
    return {"adjusted": adjusted, "error": error, "plain": shares.mean().item(), "contrast": bound}


def triangle(s_nat: Tensor, s_adv: Tensor, t_nat: Tensor, t_adv: Tensor) -> dict[str, dict[str, float]]:
    """Estimate the mutual information of the student's three edges and of the teacher's (x, x'): `EDGES`. Logits (N, K)."""
    pairs = ((s_nat, s_adv), (s_nat, t_nat), (s_adv, t_adv), (t_nat, t_adv))
    return {name: information(*pair) for name, pair in zip(EDGES, pairs, strict=True)}
