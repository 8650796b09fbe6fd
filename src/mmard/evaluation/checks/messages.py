"""Findings of the checks of an evaluation: name, level, what was seen, what it means, and what to do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from mmard.core.logits import NEW_TENSOR
from mmard.utils.errors import MmardError

Level = Literal["error", "warning", "note"]
How = Literal["full", "quick", "none"]
KINDS: tuple[How, ...] = ("full", "quick", "none")

BEFORE: dict[str, tuple[str, str]] = {
    "threat": ("without a radius in units of [0, 1] a robust accuracy means nothing", "give threat.eps, such as 8/255"),
    "pixels": ("eps is measured in units of [0, 1]; in another range it is another threat", "divide by 255, once"),
    "input": (
        "the attacks and the other checks look at images that it has changed: their figures are of other images",
        NEW_TENSOR,
    ),
    "classifier": ("it is not one row of logits for each image", "give a classifier of these classes"),
    "finite": ("nothing can be said of its robustness", "train it again, with a smaller learning rate or in fp32"),
    "mode": (
        "what is judged is not the model that will be used: BatchNorm or dropout behave as in training",
        "let .eval() reach every module, and let no forward pass change a buffer",
    ),
    "randomised": (
        "a figure of one draw flatters: attacks follow the noise",
        "read the figures as those of the mean logits over draws: attacks and verdicts are of the mean (EOT)",
    ),
    "dynamic": (
        "it is optimised while it predicts, so it may adapt to the attack",
        "attack adaptively, through what it does; AutoAttack alone says little here",
    ),
    "batch": (
        "a prediction depends on the other images of its batch, so on their labels too",
        "judge each image by itself: no statistics over the batch, no use of positions",
    ),
    "logits": ("the gradients of a softmax vanish, and attacks on logits fail on it", "leave out the softmax"),
    "votes": (
        "counted answers have no gradient, and a step too small to change one shows nothing: no attack on logits fits",
        "give the scores that are counted, or attack the answers alone, by a search (--attacks square --checks none)",
    ),
    "surrogate": (
        "only Square attacks it, and what withstands Square alone often falls to gradients",
        "name a network that lends it gradients: --surrogate RUN, or --surrogate FILE.py:BUILD --surrogate-weights FILE",
    ),
    "other-surrogate": (
        "the gradients lent to the model are another network's: where its logits differ too, attacks go astray and flatter",
        "name the network that the file was made from: --surrogate RUN, with its own weights",
    ),
    "constant": ("the model says the same of every image: it has learnt nothing, or died", "train it again"),
    "normalisation": (
        "the model sees images as it has not in training",
        "normalise exactly once, inside the model: mean and std in its card",
    ),
    "overlap": (
        "accuracies on images that were trained on flatter, clean and under attack",
        "leave these images out of the training or the test images",
    ),
    "class-order": (
        "most of what it calls one class is another: its outputs are in another order than the data's classes",
        "put its outputs in the data's order, or give its own as class_names in its card",
    ),
    "eps-0": ("an attack that may not move an image moves it: its figures are no verdicts", "mend the attack"),
    "scale": (
        "cross-entropy under- or overflows at logits of this size, and attacks by it get stuck",
        "read figures by margin losses, which know no scale: C&W, AutoAttack (--attacks cw,autoattack)",
    ),
    "detached": (
        "the logits have no gradient with respect to the image: no white-box attack can work",
        "give a model whose forward is differentiable, without detach or no_grad",
    ),
    "zero-gradients": (
        "gradients vanish where the prediction does change: they are masked, and white-box attacks stand still",
        "put a differentiable stand-in for the step that cuts them (BPDA), and attack through that",
    ),
    "masked-gradients": (
        "the gradient does not tell how the logits change: attacks are led astray",
        "let the gradient be that of what is computed, or put a smooth stand-in (BPDA)",
    ),
    "whole-set": ("figures of a part of the test set have wider intervals", "leave out --limit for a final figure"),
}
AFTER: dict[str, tuple[str, str]] = {
    "norm": ("perturbations leave the threat: the figure is of another threat", "project onto the threat's ball"),
    "again": (
        "an image counts as right because of the batch it came in, of the order, or of what was asked before",
        "judge each image by itself: no use of other images, of positions, or of a memory",
    ),
    "state": (
        "the model answers otherwise after the attacks than before them: it remembers, or it hangs on the clock",
        "give a model whose answer depends on the image alone",
    ),
    "order": (
        "a weaker attack broke more than a stronger one: the stronger one is misled, so gradients are masked",
        "do not trust the higher figures; attack adaptively",
    ),
    "steps": ("20 steps are not enough here: PGD-20 flatters", "read AutoAttack, or attack with more steps"),
    "restarts": (
        "where an attack starts decides whether it finds anything: the loss is rugged, and one start flatters",
        "read AutoAttack, or attack with more restarts",
    ),
    "ce-against-margin": (
        "two losses that should agree do not: one of them saturates",
        "read the lower figure, and look at the scale of the logits",
    ),
    "eps-growth": ("a larger ball was harder to attack: the attack is misled", "attack adaptively"),
    "eps-1": (
        "with nothing forbidden the attack still fails: it does not find what is certainly there",
        "do not trust any figure of a gradient attack here; attack adaptively",
    ),
    "square": (
        "a search without gradients found what white-box attacks did not: gradients are masked",
        "count the lower figure; raise Square's queries; attack adaptively",
    ),
    "transfer": (
        "examples made on another network broke what white-box attacks did not: gradients are masked",
        "count the lower figure; attack adaptively",
    ),
}
ALL = {**BEFORE, **AFTER}
NEEDED = ("threat", "classifier", "input", "finite", "eps-0")  # without which there is no figure at all
PAST = "--checks none judges it as it is: then nothing says whether its figures can be believed"


@dataclass(frozen=True)
class Check:
    """One finding of a check.

    Attributes:
        name: one of `ALL`.
        level: ``"error"`` the figures do not stand; ``"warning"`` they may not; ``"note"`` good to know.
        said: what was seen, with its figures.
        means, do: of the name.
    """

    name: str
    level: Level
    said: str

    @property
    def means(self) -> str:
        return ALL[self.name][0]

    @property
    def do(self) -> str:
        return ALL[self.name][1]

    def as_dict(self) -> dict[str, str]:
        """Return the finding as in scores.json: ``{"name", "level", "said", "means", "do"}``."""
        return {**asdict(self), "means": self.means, "do": self.do}


class CheckError(MmardError):
    """A check before the attacks failed that must hold. ``check`` is the finding."""

    def __init__(self, name: str, said: str) -> None:
        self.check = Check(name, "error", said)
        past = "" if name in NEEDED else f" ({PAST})"
        super().__init__(f"check {name}: {said}; {self.check.do}{past}")


def as_dicts(found: Iterable[Check]) -> list[dict[str, str]]:
    """Return findings as dicts for ``scores.metadata["checks"]``, the gravest first."""
    order: list[Level] = ["error", "warning", "note"]
    return [check.as_dict() for check in sorted(found, key=lambda check: order.index(check.level))]
