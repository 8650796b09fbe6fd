"""Probes: further attacks on some images only, to check the attacks of the evaluation."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard import losses
from mmard.attacks.cw import cw, cw_loss
from mmard.attacks.pgd import Pgd, untargeted
from mmard.attacks.square import Square
from mmard.core.method import Attack
from mmard.core.threat import Threat, per_sample
from mmard.core.views import Predict, held_still
from mmard.data.images import Images
from mmard.evaluation.suite import AttackSpec, suite
from mmard.models.architectures import Architecture, build

PROBED, AT_ONCE = 200, 100  # images probed, and so many at once
RESTARTS, QUERIES = 5, 500
STEPS_100, RESTARTED, TWICE, WHOLE = "PGD-100", f"PGD-20, {RESTARTS} starts", "C&W at 2 eps", "C&W at eps 1"
SQUARE, TRANSFER = f"Square, {QUERIES:,} queries", "from "
FARTHEST = {"linf": 1.0, "l2": 16.0}  # with which anything can be made of an image


def probes(images: Images, threat: Threat, others: Mapping[str, nn.Module], seed: int) -> dict[str, AttackSpec]:
    """Return the probing attacks by name: suite attacks, more steps and starts, wider balls, Square, transfer.

    Transfer is from ``others`` and from a small network that is fitted to these images on the spot.
    """
    usual = {name: spec for name, spec in suite().items() if name in ("FGSM", "PGD-20", "C&W")}
    far = min(FARTHEST[threat.norm], images.pixels[0].numel() ** 0.5)
    twice, whole = replace(threat, eps=min(2 * threat.eps, far)), replace(threat, eps=far)
    pgd_20, wide = Pgd(steps=20, start="uniform"), Pgd(steps=100, step_size=far / 20, start="uniform")
    own: dict[str, Attack] = {
        STEPS_100: untargeted(Pgd(steps=100, start="uniform")),
        RESTARTED: repeated(untargeted(pgd_20), RESTARTS),
        TWICE: within(twice, cw(Pgd(steps=30, start="uniform"))),
        WHOLE: within(whole, first_found(wide)),
        SQUARE: Square(queries=QUERIES, seed=seed),
    }
    own |= {TRANSFER + name: transferred(other, pgd_20) for name, other in others.items()}
    own[TRANSFER + "a net fitted to the images"] = transferred(fitted(images), pgd_20)
    return usual | {name: AttackSpec(attack, lambda _, name=name: name) for name, attack in own.items()}  # type: ignore[misc]


def within(other: Threat, attack: Attack) -> Attack:
    """Run the attack in another ball than the evaluation's."""
    return lambda predict, x, y, _: attack(predict, x, y, other)


def repeated(attack: Attack, times: int) -> Attack:
    """Repeat the attack and keep each sample's first success."""

    def again(predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        found = x
        for _ in range(times):
            found = torch.where(per_sample(_wrong(predict(found), y), x), found, attack(predict, x, y, threat)).detach()
        return found

    return again


def first_found(pgd: Pgd) -> Attack:
    """Make a PGD on the margin that keeps each sample's first misclassified iterate."""

    def attack(predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        found, over = x.clone(), torch.zeros_like(y, dtype=torch.bool)

        def loss(x_adv: Tensor) -> Tensor:
            logits = predict(x_adv)
            now = _wrong(logits, y) & ~over
            found[now], over[now] = x_adv[now].detach(), True
            return cw_loss(logits, y)

        with torch.enable_grad():
            last = pgd(loss, x, threat)
        return torch.where(per_sample(over, x), found, last)

    return attack


def transferred(source: nn.Module, pgd: Pgd) -> Attack:
    """Make an attack that transfers examples from the network ``source``."""
    attack = untargeted(pgd)

    def elsewhere(_: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        with held_still(source):
            return attack(source, x, y, threat)

    return elsewhere


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    return losses.margin(logits.detach(), y) <= 0


STEPS, BATCH = 100, 64


def fitted(images: Images) -> nn.Module:
    """Train a small ``cnn-16-3`` naturally on the images, deterministically; less than a second on a core."""
    torch.manual_seed(0)
    mean, std = images.mean_std()
    architecture = Architecture(
        name="cnn-16-3", classes=len(images.classes), channels=images.channels, mean=mean, std=std
    )
    net = build(architecture).to(images.labels.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = torch.randint(len(images), (BATCH,), generator=draw).to(images.labels.device)
            x, y, _ = images.batch(rows)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()
