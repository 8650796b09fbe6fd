"""Check of the surrogate of a model without gradients: is there one, and is it the network that the model was made from?"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmard.data.images import Images, some
from mmard.evaluation.checks.messages import Check
from mmard.evaluation.predict import logits_of
from mmard.evaluation.suite import AttackSpec

LOOKED_AT, AT_ONCE = 100, 20  # images
SAME = 0.97  # cosine of the logits: int8 has 0.998 and more, another seed of the same training at most 0.93


@torch.no_grad()
def check_surrogate(model: nn.Module, images: Images, specs: Mapping[str, AttackSpec]) -> list[Check]:
    """Compare the logits of a model without gradients and of the network that lends it its own; their scale may differ."""
    if getattr(model, "has_gradients", True) or not specs:
        return []
    lent = next((spec.lent for spec in specs.values() if spec.lent is not None), None)
    if lent is None:
        return [Check("surrogate", "warning", "the model gives no gradients, and no network lends it any")]
    few, k = some(images, LOOKED_AT, seed=0), len(images.classes)
    parts = [few.batch(slice(start, start + AT_ONCE))[0] for start in range(0, len(few), AT_ONCE)]
    own, other = (torch.cat([logits_of(net, x, k).double() for x in parts]) for net in (model, lent))
    a, b = ((logits - logits.mean(1, keepdim=True)).flatten() for logits in (own, other))
    alike, against = F.cosine_similarity(a, b, dim=0), getattr(model, "against", "")
    if alike >= SAME:
        told = f"the model {against}, whose logits are alike all the same: cosine {alike:.2f}"
        return [Check("other-surrogate", "note", told)] if against else []
    agree = torch.eq(own.argmax(1), other.argmax(1)).double().mean()
    said = f"the surrogate's logits are not the model's: cosine {alike:.2f}, the same class for {agree:.0%} of {len(few)} images"
    said += f"; it {against}" if against else ""
    return [Check("other-surrogate", "warning", said)]
