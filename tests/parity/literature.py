"""The literature once more: what each paper's x' ascends and what its weights descend, in plain torch, nothing from mmard.

S student, T robust teacher, N natural teacher, x natural, a adversarial; p probabilities. The student is asked in the order
in which the papers' programs ask it. What moves from step to step is a Python number.
"""
# ruff: noqa: N803

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

Net = Callable[[Tensor], Tensor]
Attack = Callable[..., Tensor]


def p(z: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Softmax by hand."""
    e = (z / tau).exp()
    return e / e.sum(1, keepdim=True)


def kl(target: Tensor, student: Tensor) -> Tensor:
    """KL of two batches of distributions, one number per sample."""
    return (target * (target / student).log()).sum(1)


def of_label(q: Tensor, y: Tensor) -> Tensor:
    """What each row gives to its label."""
    return torch.stack([row[k] for row, k in zip(q, y.tolist(), strict=True)])


def ce(z: Tensor, y: Tensor) -> Tensor:
    """−log p_y."""
    return -of_label(p(z), y).log()


def entropy(q: Tensor) -> Tensor:
    """−Σ q log q."""
    return -(q * q.log()).sum(1)


class Paper:
    """One method: `ascend` gives one number per sample, `descend` the loss of a batch; subclasses hold what moves."""

    start = "gaussian"

    def __init__(self, **wrong: bool) -> None:
        self.wrong = wrong  # a deliberate mistake, to see that the comparison would notice it

    def hold(self, z: Tensor, mistake: str) -> Tensor:
        """Cut off from the graph where that mistake is asked for."""
        return z.detach() if self.wrong.get(mistake) else z

    def ascend(self, S: Net, T: Net, x: Tensor, a: Tensor, y: Tensor) -> Tensor:
        return ce(S(a), y)

    def descend(self, S: Net, T: Net, N: Net, x: Tensor, a: Tensor, y: Tensor, epoch: int, epochs: int) -> Tensor:
        raise NotImplementedError


class Mart(Paper):
    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        c, r = p(S(x)), p(S(a))
        wrong = torch.stack(
            [max(row[k] for k in range(len(row)) if k != j) for row, j in zip(r, y.tolist(), strict=True)]
        )
        boosted = -of_label(r, y).log() - (1.0001 - wrong).log()
        unsure = self.hold(1 - of_label(c, y), "constant weight")
        return (boosted + 6 * unsure * kl(self.hold(c, "constant S(x)"), r)).mean()


class Kd(Paper):
    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        s = S(x)
        return (0.9 * 16 * kl(p(T(x), 4.0), p(s, 4.0)) + 0.1 * ce(s, y)).mean()


class Introspective(Paper):
    begin = 1

    def trust(self, T: Net, a: Tensor, y: Tensor, epoch: int) -> Tensor:
        return of_label(p(T(a)), y) ** 0.1 if epoch >= self.begin else torch.ones(len(y))


class Iad(Introspective):
    start = "uniform"

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        sa, sc = S(a), S(x)
        rest = 1 - self.trust(T, a, y, epoch)
        return (kl(p(T(x)), p(sa)) + rest * kl(self.hold(p(sc), "constant S(x)"), p(sa))).mean()


class Iad2(Introspective):
    start = "uniform"

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        sa, sc = S(a), S(x)
        trust = self.trust(T, a, y, epoch)
        own = trust * kl(p(T(a)), p(sa)) + (1 - trust) * kl(self.hold(p(sc), "constant S(x)"), p(sa))
        return (ce(sa, y) / 4 + own / 2 + kl(p(N(a)), p(sa)) / 4).mean()


class AdaIad(Introspective):
    tau = 30.0

    def ascend(self, S, T, x, a, y):  # type: ignore[no-untyped-def]
        return kl(self.hold(p(T(a)), "constant T(x')"), p(S(a)))

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        sc, sa = S(x), S(a)
        rest = 1 - self.trust(T, a, y, epoch)
        hot = self.tau**2 * kl(p(T(a), self.tau), p(sa, self.tau))
        return (hot + rest * kl(self.hold(p(sc), "constant S(x)"), p(sa))).mean()


class Dgad(Paper):
    def ascend(self, S, T, x, a, y):  # type: ignore[no-untyped-def]
        return kl(p(T(a)), p(S(a)))

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        sc, sa, total = p(S(x)), p(S(a)), 0.0
        for i, k in enumerate(y.tolist()):
            nat, adv = T(x[i : i + 1])[0], T(a[i : i + 1])[0]
            wrong = int(nat.argmax()) != k
            said, own = (nat, sc[i]) if wrong else (adv, sa[i])
            order, winner = list(range(len(said))), int(said.argmax())
            if not self.wrong.get("no swap"):
                order[k], order[winner] = winner, k
            total = total + kl(p(said[order][None]), own[None])[0]
        apart = self.hold(sc, "constant S(x)") - sa
        return total / len(y) + 2 * apart.square().mean()


class Mtard(Paper):
    natural, first = 0.5, (0.0, 0.0)

    def targets(self, T: Net, N: Net, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        return p(T(a)), p(N(x))

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        ta, tn = self.targets(T, N, x, a)
        la, ln = kl(ta, p(S(a))).mean(), kl(tn, p(S(x))).mean()
        if self.first == (0.0, 0.0):
            self.first = (la.item(), ln.item())
        ra, rn = la.item() / self.first[0], ln.item() / self.first[1]
        self.natural -= 0.025 * (self.natural - rn / (rn + ra))
        if self.wrong.get("weights with gradient"):
            live = self.natural + 0.025 * (ln / (ln + la) - (ln / (ln + la)).detach())
            return (1 - live) * la + live * ln
        return (1 - self.natural) * la + self.natural * ln


class BMtard(Mtard):
    tau_a, tau_n, tau_rate = 1.0, 1.0, 0.3

    def targets(self, T, N, x, a):  # type: ignore[no-untyped-def]
        ta, tn = p(T(a), self.tau_a), p(N(x), self.tau_n)
        sign = 1 if entropy(ta).mean() > entropy(tn).mean() else -1
        self.tau_a = min(max(self.tau_a - self.tau_rate * sign, 1), 10)
        self.tau_n = min(max(self.tau_n + self.tau_rate * sign, 1), 10)
        return ta, tn


class Absld(Paper):
    rate = 0.4

    def __init__(self, classes: int = 4, **wrong: bool) -> None:
        super().__init__(**wrong)
        self.at, self.tau = 0, {"adv": [1.0] * classes, "nat": [1.0] * classes}
        self.sums = {"adv": [0.0] * classes, "nat": [0.0] * classes}

    def turn(self, epoch: int) -> None:
        """End of an epoch."""
        if epoch == self.at:
            return
        for which, sums in self.sums.items():
            mean = sum(sums) / len(sums)
            most = max(abs(value - mean) for value in sums)
            moved = [t - self.rate * (v - mean) / most for t, v in zip(self.tau[which], sums, strict=True)]
            self.tau[which], self.sums[which] = [min(max(t, 0.5), 5.0) for t in moved], [0.0] * len(sums)
        self.at = epoch

    def soft(self, T: Net, x: Tensor, y: Tensor, which: str) -> Tensor:
        return torch.cat([p(row[None], self.tau[which][k]) for row, k in zip(T(x), y.tolist(), strict=True)])

    def ascend(self, S, T, x, a, y):  # type: ignore[no-untyped-def]
        return kl(self.soft(T, x, y, "adv"), p(S(a)))

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        sa, sc = S(a), S(x)
        for which, s in (("adv", sa), ("nat", sc)):
            for k, value in zip(y.tolist(), ce(s, y).tolist(), strict=True):
                self.sums[which][k] += value
        robust, natural = kl(self.soft(T, x, y, "adv"), p(sa)), kl(self.soft(T, x, y, "nat"), p(sc))
        return (5 / 6 * robust + 1 / 6 * natural).mean()


class Saad(Paper):
    alpha, beta, script, order = 1.0, 0.0, False, 1.0

    def ascend(self, S, T, x, a, y):  # type: ignore[no-untyped-def]
        rows = []
        for i, k in enumerate(y.tolist()):
            one = x[i : i + 1].detach().clone().requires_grad_()
            t = T(one)[0]
            (slope,) = torch.autograd.grad(t[k], one)
            linear = (slope * (a[i : i + 1] - x[i : i + 1])).sum()
            linear = self.hold(linear, "constant label")
            rows.append(torch.stack([z.detach() + (linear if j == k else 0) for j, z in enumerate(t)]))
        return kl(p(torch.stack(rows)), p(S(a)))

    def descend(self, S, T, N, x, a, y, epoch, epochs):  # type: ignore[no-untyped-def]
        m = x - (a - x)
        sa, sm, sc, ta = S(a), S(m), S(x), T(a)
        q = p(ta)
        h = entropy(q) if self.order == 1 else ((q**self.order).sum(1)).log() / (1 - self.order)
        w, share = h, h / log(ta.shape[1])
        if self.script:
            w, share = 5 * (h - h.min()), (h - h.min()) / (h.max() - h.min())
        match = (epoch + 1) / epochs * kl(p(ta - T(m)), p(sa - sm))
        follow = w * (kl(p(ta), p(sa)) + self.alpha * match)
        return (follow + self.beta * (1 - share) * kl(p(T(x)), p(sc))).mean()


class SaadC(Saad):
    alpha, beta = 3.0, 0.5


class SaadRenyi(SaadC):
    order = 2.0


class SaadScript(SaadC):
    script = True
