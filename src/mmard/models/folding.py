"""BatchNorm folded into the convolution before it, for the many forward passes in evaluation mode.

In evaluation mode conv then BatchNorm is one convolution with other weights: w·γ/√(σ²+ε) and β − μ·γ/√(σ²+ε).
"""

import copy
import operator
import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from mmard.core.views import held_still
from mmard.models.architectures import Classifier
from mmard.utils.errors import first_line
from mmard.utils.precision import full_precision

PLAIN = bool | int | float | str | None


def conv_bn_pairs(net: nn.Module) -> list[tuple[str, str]]:
    """Find the convolutions whose output only a BatchNorm reads, each of both called once: pairs of their names.

    Raises:
        Exception: whatever torch.fx says of a network it cannot trace.
    """
    graph, modules = fx.Tracer().trace(net), dict(net.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, bn = names = str(before.target), str(node.target)
        kinds = isinstance(modules[conv], nn.Conv2d) and isinstance(modules[bn], nn.BatchNorm2d)
        if kinds and all(calls[name] == 1 and name not in read and _is_plain(modules[name]) for name in names):
            pairs.append(names)
    return pairs


def _is_plain(module: nn.Module) -> bool:
    """Tell whether a module computes with its own weights alone, and no parametrization or hook makes or changes them."""
    return not (is_parametrized(module) or module._forward_pre_hooks or module._forward_hooks)


class Folded(nn.Module):
    """A classifier with BatchNorm folded into its convolutions, for evaluation mode; other tensors are shared with it.

    Call `refresh` after the classifier's weights, statistics, settings or modules changed.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.source = (model,)  # in a tuple, so that its parameters are not counted as the shadow's
        self.build()
        self.refresh()

    def build(self) -> None:
        """Make the shadow of the classifier's present modules.

        Raises:
            Exception: whatever torch.fx says of a network it cannot trace.
        """
        model = self.source[0]
        self.made_of = _structure(model.net)
        self.shadow: Classifier | None = Classifier(copy.deepcopy(model.net).eval(), model.architecture)
        self.pairs = conv_bn_pairs(self.shadow.net)
        folded = {name for pair in self.pairs for name in pair}
        for name, module in model.net.named_modules():
            if name not in folded:
                shadowed = self.shadow.net.get_submodule(name)
                shadowed._parameters, shadowed._buffers = module._parameters, module._buffers
        for conv_name, bn in self.pairs:
            conv: Any = self.shadow.net.get_submodule(conv_name)
            # a copy, for another convolution may share the weights
            weight = conv.weight.detach().clone(memory_format=torch.channels_last)
            conv.weight, conv.bias = (
                nn.Parameter(t, requires_grad=False) for t in (weight, weight.new_zeros(len(weight)))
            )
            parent, _, child = bn.rpartition(".")
            setattr(self.shadow.net.get_submodule(parent), child, nn.Identity())
        self.shadow._buffers = model._buffers
        self.eval()

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the classifier's present weights and statistics; what its modules are set to, and themselves, may be others too."""
        net = self.source[0].net
        if _structure(net) != self.made_of:
            try:
                self.build()
            except Exception:  # it can be traced or copied no longer, as while it is pruned: it runs itself
                self.shadow, self.pairs = None, []
        if self.shadow is None:
            return
        for name, module in net.named_modules():
            if own := _settings(module):
                vars(self.shadow.net.get_submodule(name)).update(own)
        for conv_name, bn_name in self.pairs:
            conv: Any = net.get_submodule(conv_name)
            folded_conv: Any = self.shadow.net.get_submodule(conv_name)
            statistics = operator.attrgetter("running_mean", "running_var", "eps", "weight", "bias")(
                net.get_submodule(bn_name)
            )
            fused: tuple[Tensor, Tensor] = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            folded_conv.weight.copy_(fused[0])
            folded_conv.bias.copy_(fused[1])

    def forward(self, x: Tensor) -> Tensor:
        return (self.source[0] if self.shadow is None else self.shadow)(x)  # type: ignore[no-any-return]


def _structure(net: nn.Module) -> list[tuple[Any, ...]]:
    """Describe which modules, weights and hooks there are: what is another one when layers are replaced, pruned or removed."""
    return [
        (name, id(module), *module._parameters, len(module._forward_pre_hooks), len(module._forward_hooks))
        for name, module in net.named_modules()
    ]


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain values that a module's forward pass may read, such as a flag or a counter."""
    return {k: v for k, v in vars(module).items() if isinstance(v, PLAIN) and k[0] != "_" and k != "training"}


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


def folded_alike(model: Classifier, x: Tensor) -> nn.Module:
    """Fold a model's BatchNorm where its logits of images x (B, C, H, W) stay the same but for rounding; else return the model."""
    try:
        with held_still(model), full_precision(), torch.no_grad():
            shadow, plain = folded(model), model(x)
            near = 1e-3 * max(1.0, float(plain.abs().max()))
            if torch.allclose(shadow(x), plain, rtol=1e-3, atol=near):
                return shadow
    except Exception:  # what is amiss is told where the model is asked
        return model
    name = model.architecture.name
    warnings.warn(f"{name} runs unfolded, a little slower: folded, or asked again, its logits are others", stacklevel=2)
    return model
