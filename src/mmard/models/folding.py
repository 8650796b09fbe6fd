"""BatchNorm folded into the convolution before it, for the many forward passes in evaluation mode.

In evaluation mode conv then BatchNorm is one convolution with other weights: w·γ/√(σ²+ε) and β − μ·γ/√(σ²+ε).
"""

import copy
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmard.models.architectures import Classifier
from mmard.utils.errors import first_line


def conv_bn_pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Find the convolutions whose output only a BatchNorm reads: pairs of their names.

    Raises:
        Exception: whatever torch.fx says of a network it cannot trace.
    """
    graph, modules = fx.Tracer().trace(net), dict(net.named_modules())
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if (
            isinstance(before, fx.Node)
            and before.op == "call_module"
            and isinstance(modules[str(node.target)], nn.BatchNorm2d)
            and isinstance(modules[str(before.target)], nn.Conv2d)
            and len(before.users) == 1
        ):
            pairs.append((str(before.target), str(node.target)))
    return pairs


class Folded(nn.Module):
    """A classifier with BatchNorm folded into its convolutions, for evaluation mode; other tensors are shared with it.

    Call `refresh` after the classifier's weights or statistics changed.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.pairs = conv_bn_pairs(model.net)
        self.shadow = Classifier(copy.deepcopy(model.net), model.architecture)
        folded = {name for pair in self.pairs for name in pair}
        for name, module in model.net.named_modules():
            if name not in folded:
                shadowed = self.shadow.net.get_submodule(name)
                shadowed._parameters, shadowed._buffers = module._parameters, module._buffers
        for _, bn in self.pairs:
            parent, _, child = bn.rpartition(".")
            setattr(self.shadow.net.get_submodule(parent), child, nn.Identity())
        self.shadow._buffers = model._buffers
        self.source = (model,)  # in a tuple, so that its parameters are not counted as the shadow's
        self.refresh()
        self.eval()

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the classifier's present weights and statistics."""
        net = self.source[0].net
        for conv_name, bn_name in self.pairs:
            conv: Any = net.get_submodule(conv_name)
            folded_conv: Any = self.shadow.net.get_submodule(conv_name)
            statistics = operator.attrgetter("running_mean", "running_var", "eps", "weight", "bias")(
                net.get_submodule(bn_name)
            )
            fused: tuple[Tensor, Tensor] = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            weight, bias = fused
            if folded_conv.bias is None:
                folded_conv.weight = nn.Parameter(weight.clone(memory_format=torch.channels_last), requires_grad=False)
                folded_conv.bias = nn.Parameter(bias.clone(), requires_grad=False)
            else:
                folded_conv.weight.copy_(weight)
                folded_conv.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.shadow(x)  # type: ignore[no-any-return]


def folded(model: nn.Module) -> nn.Module:
    """Fold a model's BatchNorm where there is any and it can be traced; else return the model itself."""
    if not isinstance(model, Classifier) or not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return model
    try:
        shadow = Folded(model)
    except Exception as e:  # torch.fx refuses in many ways, and all of them mean the same
        warnings.warn(f"{model.architecture.name} runs unfolded, a little slower: {first_line(e)}", stacklevel=2)
        return model
    return shadow if shadow.pairs else model
