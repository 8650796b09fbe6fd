"""A small network fitted to the very images that are judged: a source of examples that knows nothing of the model."""

import torch
import torch.nn.functional as F
from torch import nn

from mmard.data.images import Images
from mmard.models.students import Architecture, build

STEPS, BATCH = 100, 64


def fitted(images: Images) -> nn.Module:
    """A naturally trained ``cnn-16-3`` on their device, the same for the same images; less than a second on a core."""
    torch.manual_seed(0)
    shape = {"classes": len(images.classes), "channels": images.channels}
    mean, std = images.mean_std()
    net = build(Architecture(name="cnn-16-3", **shape, mean=mean, std=std)).to(images.labels.device)
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
