"""A small plain vision transformer: ``vit-WIDTH-DEPTH-PATCH`` (Dosovitskiy et al., 2021, arXiv 2010.11929).

In the form of Beyer et al., 2022, arXiv 2205.01580: fixed sine-cosine positions, the mean over patches in place of a class
token. So it takes images of any size that the patch divides, and has no weights that depend on the size.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.utils.errors import MmardError

HEAD = 32  # width of an attention head, or the whole width where that is smaller
SLOWEST = 10_000.0  # ratio of the slowest to the fastest wave of the positions (Vaswani et al., 2017, section 3.5)


class Layer(nn.Module):
    """A transformer layer: x + attention(LN(x)), then x + MLP(LN(x)), the MLP four times as wide. (B, tokens, W) → the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(width // HEAD, 1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A vision transformer: (B, channels, H, W) → (B, classes); the patch divides H and W.

    Raises:
        MmardError: for a width that is no multiple of 4 (sines and cosines of two axes) or of its heads, and for an image
            that the patch does not divide.
    """

    def __init__(self, width: int, depth: int, patch: int, classes: int, channels: int) -> None:
        super().__init__()
        if width % 4 or (width > HEAD and width % HEAD):
            raise MmardError(f"vit-{width}-{depth}-{patch}: width {width}, expected a multiple of 32, or of 4 below 32")
        self.patch = patch
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise MmardError(
                f"images of {x.shape[2]}×{x.shape[3]} are not whole patches of {self.patch}; "
                "choose another data.size or another patch (the last number of vit-W-D-P)"
            )
        tokens = self.embed(x)
        tokens = tokens + positions(*tokens.shape[1:], tokens.device)
        return self.head(self.norm(self.layers(tokens.flatten(2).transpose(1, 2))).mean(1))  # type: ignore[no-any-return]


@lru_cache(maxsize=8)  # made once, not copied to the device in every pass
def positions(width: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Compute sines and cosines of each patch's row and column, (width, rows, columns), in [-1, 1]."""
    waves = SLOWEST ** -torch.linspace(0, 1, width // 4)
    down, across = (torch.arange(n)[:, None] * waves for n in (rows, columns))  # (n, W/4)
    y = torch.cat([down.sin(), down.cos()], 1).T[:, :, None].expand(-1, -1, columns)
    x = torch.cat([across.sin(), across.cos()], 1).T[:, None, :].expand(-1, rows, -1)
    return torch.cat([y, x]).to(device)
