"""Layouts of published teachers that are a network of timm with a part of their own; timm is an optional extra."""

from typing import Any

from torch import Tensor, nn

from mmard.utils.errors import MmardError
from mmard.utils.packages import optional

DEPTH = 12
STEM_WIDTHS = {"convnext_tiny": 48, "convnext_small": 48, "convnext_base": 64, "convnext_large": 96,
               "deit_small_patch16_224": 48, "vit_base_patch16_224": 48}  # fmt: skip


def xcit(width: int, heads: int, patch: int, classes: int, channels: int) -> nn.Module:
    """Build the XCiT of "A Light Recipe to Train Robust Vision Transformers" (arXiv 2209.07399), of depth 12.

    It has the stem for patches of 16×16; for smaller patches its first convolutions have stride 1, as in its CIFAR models.

    Args:
        width, heads: of the transformer: 384 and 8 (S12), 512 and 8 (M12), 768 and 16 (L12).
        patch: 4 for CIFAR, 16 for ImageNet.

    Raises:
        MmardError: where timm is not installed, or for sizes that do not fit together.
    """
    if patch not in (4, 16) or width % heads or width % 8:
        raise MmardError(
            f"xcit-{width}-{heads}-{patch}: expected patches of 4 or 16 and a width that divides by 8 and by the heads, "
            "such as xcit-384-8-4"
        )
    sizes = {"patch_size": 16, "embed_dim": width, "depth": DEPTH, "num_heads": heads, "eta": 1.0, "tokens_norm": True}
    net: Any = _timm().models.Xcit(**sizes, num_classes=classes, in_chans=channels)
    if patch == 4:
        for stage in (0, 2):  # of four convolutions of stride 2, with a GELU after each but the last
            net.patch_embed.proj[stage][0].stride = (1, 1)
        net.patch_embed.patch_size = 4
    return net  # type: ignore[no-any-return]


def convolutional_stem(name: str, classes: int, channels: int) -> nn.Module:
    """Build a network of timm with a stem of convolutions in place of its patches (Singh et al., 2023, arXiv 2303.01870).

    Args:
        name: timm's, one of `STEM_WIDTHS`.

    Raises:
        MmardError: where timm is not installed.
    """
    net: Any = _timm().create_model(name, num_classes=classes, in_chans=channels)
    width = STEM_WIDTHS[name]
    if name.startswith("convnext"):
        steps = [(width, 2), (2 * width, 2)] if width == 48 else [(width, 2), (width * 3 // 2, 2), (2 * width, 1)]
        net.stem = Stem(channels, steps)
    else:
        net.patch_embed.proj = Stem(channels, [(width * 2**i, 2) for i in range(4)], net.embed_dim)
    return net  # type: ignore[no-any-return]


class Stem(nn.Module):
    """3×3 convolutions, each with LayerNorm over channels and GELU, and a 1×1 convolution to ``out`` channels, if given.

    Args:
        steps: channels and stride of each convolution.
    """

    def __init__(self, channels: int, steps: list[tuple[int, int]], out: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in steps:
            layers += [nn.Conv2d(channels, width, 3, stride, 1), ChannelNorm(width, eps=1e-6), nn.GELU()]
            channels = width
        self.stem = nn.Sequential(*layers, *([nn.Conv2d(channels, out, 1)] if out else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _timm() -> Any:
    return optional("timm", "timm", "this layout")
