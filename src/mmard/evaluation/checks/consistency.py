"""Consistency of the verdicts of attacks: stronger attacks, larger balls and gradients must break more, not less.

Two columns of verdicts on the same images differ when their disagreements do: b samples that the first broke alone, c that the
second did, and b − c > max(2, 3·√(b + c)), three standard deviations of what chance gives to equals.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from mmard.evaluation.checks.messages import Check
from mmard.evaluation.checks.probes import RESTARTED, SQUARE, STEPS_100, TRANSFER, TWICE, WHOLE
from mmard.evaluation.exported import way_of
from mmard.evaluation.run import AGAIN, FAR
from mmard.evaluation.scores import CLEAN, Scores, is_no_fluke

CHAINS = (
    (CLEAN, "FGSM", "PGD-20", STEPS_100, "AutoAttack-quick", "AutoAttack"),
    (CLEAN, "C&W", "AutoAttack-quick", "AutoAttack"),
)
BY_GRADIENTS = "AutoAttack's gradients"  # the standing after FAB-T, before Square
WHITE_BOX = ("FGSM", "PGD-20", "C&W", "AutoAttack-quick", BY_GRADIENTS, STEPS_100, RESTARTED)
STRONG = ("AutoAttack-quick", BY_GRADIENTS)  # an honest model leaves a whole Square nothing to find after one of these
FLUKE = 2  # images that may be wrong in a second prediction, as by a rounding
GAIN = 0.10  # of the images: what more steps or starts may gain
LOSSES_APART = 0.15  # between PGD on cross-entropy and on the margin
LEFT = 0.05  # of the images may still stand where everything is allowed


def beats(one: Tensor, other: Tensor) -> bool:
    """Tell whether ``one`` broke significantly more images than ``other``; (N,) bool each: still classified right."""
    b, c = int((other & ~one).sum()), int((one & ~other).sum())
    return b - c > max(2.0, 3 * math.sqrt(b + c))


def percent(right: Tensor) -> str:
    """Write the accuracy of a column of verdicts (N,)."""
    return f"{100 * right.double().mean():.1f} %"


def flags_of_verdicts(scores: Scores) -> list[Check]:
    """Compare the verdicts of the attacks that were run, at no further cost."""
    far = {name: count for name, count in scores.metadata.get(FAR, {}).items() if count}
    found = [
        Check("norm", "error", f"{name}: {count:,} of {len(scores.correct):,} images lie outside of the threat")
        for name, count in far.items()
    ]
    again = {name: count for name, count in scores.metadata.get(AGAIN, {}).items() if count}
    for name, count in again.items():
        said = f"{name}: {count} images count as right and are wrong when they are asked again, one by one"
        found.append(Check("again", "error" if count > FLUKE else "warning", said))
    columns = _columns(scores)
    return found + _order(columns, CHAINS) + _losses(columns) + _without_gradients(columns, columns)


def flags_of_probes(scores: Scores, probed: Scores) -> list[Check]:
    """Compare the probes' verdicts on some of the images; findings already made on all images are not repeated."""
    place = {number: row for row, number in enumerate(scores.index.tolist())}
    rows = torch.tensor([place[number] for number in probed.index.tolist()])
    own = {name: column[rows] for name, column in _columns(scores).items()}
    columns = own | _columns(probed)
    told = {(check.name, check.said) for check in _order(own, CHAINS)}
    order = [check for check in _order(columns, CHAINS) if (check.name, check.said) not in told]
    both = [] if {"PGD-20", "C&W"} <= own.keys() else _losses(columns)
    return [*order, *both, *_gains(columns), *_growth(columns), *_without_gradients(columns, probed.attacks)]


def _columns(scores: Scores) -> dict[str, Tensor]:
    """Collect each attack's verdicts (N,), and those after AutoAttack's gradient attacks alone, where it ran whole."""
    columns = dict(zip(scores.attacks, scores.correct.unbind(1), strict=True))
    before_square = [stage for stage in scores.stages if (_plain(stage.of), stage.name) == ("AutoAttack", "FAB-T")]
    return columns | {way_of(stage.of) + BY_GRADIENTS: stage.right for stage in before_square}


def _plain(name: str) -> str:
    """Return the name of an attack without its way to an exported model."""
    return name.removeprefix(way_of(name))


def _order(columns: dict[str, Tensor], chains: Iterable[tuple[str, ...]]) -> list[Check]:
    named = [[name if name == CLEAN else way + name for name in chain] for way in _ways(columns) for chain in chains]
    pairs = [pair for chain in named for pair in pairwise(name for name in chain if name in columns)]
    return [
        Check("order", "warning", f"{weak} {percent(columns[weak])} < {strong} {percent(columns[strong])}")
        for weak, strong in dict.fromkeys(pairs)
        if beats(columns[weak], columns[strong])
    ]


def _ways(columns: Iterable[str]) -> list[str]:
    """List the ways to an exported model among attacks; of any other model the one that has no name."""
    return list(dict.fromkeys(way_of(name) for name in columns if name != CLEAN))


def _losses(columns: dict[str, Tensor]) -> list[Check]:
    """Compare cross-entropy with the margin loss, at one radius."""
    found = []
    for way in _ways(columns):
        ce, margin = columns.get(f"{way}PGD-20"), columns.get(f"{way}C&W")
        if ce is None or margin is None:
            continue
        apart = abs(ce.double().mean() - margin.double().mean())
        if apart > LOSSES_APART and (beats(ce, margin) or beats(margin, ce)):
            said = f"{way}PGD-20 on cross-entropy {percent(ce)}, on the margin {percent(margin)}"
            found.append(Check("ce-against-margin", "warning", said))
    return found


def _gains(columns: dict[str, Tensor]) -> list[Check]:
    """Compare more steps and more starts with PGD-20."""
    found, once = [], columns["PGD-20"]
    for name, attack in (("steps", STEPS_100), ("restarts", RESTARTED)):
        more = columns[attack]
        if once.double().mean() - more.double().mean() > GAIN and beats(more, once):
            found.append(Check(name, "warning", f"PGD-20 {percent(once)}, {attack} {percent(more)}"))
    return found


def _growth(columns: dict[str, Tensor]) -> list[Check]:
    """Compare larger balls, up to one with room for anything."""
    found, once, twice, whole = [], columns["C&W"], columns[TWICE], columns[WHOLE]
    if beats(once, twice):
        found.append(Check("eps-growth", "warning", f"C&W at eps {percent(once)}, at 2 eps {percent(twice)}"))
    if whole.double().mean() > LEFT:
        found.append(
            Check("eps-1", "warning", f"C&W with 100 steps in all the range of pixels leaves {percent(whole)}")
        )
    return found


def _without_gradients(columns: dict[str, Tensor], names: Iterable[str]) -> list[Check]:
    """Compare Square and transfer, among these names, with the attacks that use the model's gradients."""
    white = [right for name, right in columns.items() if _plain(name) in WHITE_BOX]
    searches = {SQUARE} | ({"Square", "AutoAttack"} if any(_plain(name) in STRONG for name in columns) else set())
    found = []
    for name in [n for n in names if _plain(n) in searches or n.startswith(TRANSFER)]:
        alone = int((torch.stack(white).all(0) & ~columns[name]).sum())
        if is_no_fluke(alone, len(white[0])):
            left = percent(torch.stack(white).all(0))
            said = f"{name}: {alone} of {len(white[0])} images that white-box attacks ({left}) left"
            found.append(Check("transfer" if name.startswith(TRANSFER) else "square", "warning", said))
    return found
