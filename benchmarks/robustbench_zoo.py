"""Count the models of RobustBench's zoo whose weights load into layouts of this package, without downloading any.

Each model is built by its own code on meta tensors (no memory, no weights); its names and shapes are what its public file holds.
The layout is recognised by these (`mmard.models.recognise`) and must take all of them. For one model of every kind of layout,
random weights then go through both codes: the logits must agree.

    pip install robustbench 'setuptools<81'     # in an environment of its own: it pins timm
    python benchmarks/robustbench_zoo.py docs/results/robustbench.json [--logits]
"""

import json
import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.models.architectures import Architecture, Classifier, build
from mmard.models.checkpoints import fit, weights_for
from mmard.models.recognise import candidates
from mmard.models.robustbench import zoo
from mmard.utils.errors import MmardError

IN_CODE = {"Hendrycks2019Using": ((0.5,) * 3, (0.5,) * 3)}
"""Normalisations that are neither in the file nor in an attribute."""
MINE = {"Ding2020MMA": ("wrn-", "wrn-mma-")}
"""Models that no name or shape tells from another layout: what a card says instead."""
ALIKE = 1e-5
NAMES = (("mean", "std"), ("mu", "sigma"), ("normalize.mean", "normalize.std"))


def made(make: Any) -> nn.Module:
    """Build a model of the zoo on meta tensors; where its code cannot, with memory."""
    try:
        with torch.device("meta"):
            return make()  # type: ignore[no-any-return]
    except Exception:
        return make()  # type: ignore[no-any-return]


def normalisation(name: str, model: nn.Module, make: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the mean and std that a model's code holds: from a copy with memory, for meta tensors have no values."""
    if name in IN_CODE:
        return IN_CODE[name]
    have = dict(model.named_buffers())
    for mean, std in NAMES:
        if mean in have and std in have:
            real = dict(make().named_buffers())
            return tuple(real[mean].flatten().tolist()), tuple(real[std].flatten().tolist())
    return (), ()


def without_download(name: str, make: Any) -> Any:
    """Return what builds a model; of the one whose code fetches its weights, a network of the same names and shapes."""
    from torchvision.models import resnet50

    return resnet50 if name == "Standard_R50" else make


def layout_of(name: str, model: nn.Module) -> str | None:
    """Find the layout of this package that takes a model's weights; None where there is none."""
    state = model.state_dict()
    for _, found in candidates(state):
        old, new = MINE.get(name, ("", ""))
        known = Architecture(name=found.name.replace(old, new, 1), classes=found.classes, channels=found.channels)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ours = made(lambda known=known: build(known))
                without = {k: t for k, t in state.items() if k.rpartition(".")[2] not in ("mean", "std", "mu", "sigma")}
                fit(ours.net, weights_for(ours, without, Path(name)), Path(name))
        except MmardError:
            continue
        return known.name
    return None


def gap(name: str, layout: str, make: Any, classes: int) -> float:
    """Compare the logits of both codes on random weights and two images: the largest difference over the largest logit."""
    torch.manual_seed(0)
    theirs = make().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if hasattr(module, "threshold") and isinstance(module.threshold, Tensor):  # MeanSparse
            module.threshold.fill_(0.3)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    mean, std = normalisation(name, theirs, lambda: theirs)
    ours = build(Architecture(name=layout, classes=classes, mean=mean, std=std))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(ours.net, weights_for(ours, theirs.state_dict(), Path(name)), Path(name))
    x = torch.rand(2, 3, *((224, 224) if classes == 1000 else (32, 32)))
    return compared(theirs, ours.eval(), x)


@torch.no_grad()
def compared(theirs: nn.Module, ours: Classifier, x: Tensor) -> float:
    """Return the largest difference of logits over the largest logit."""
    wanted = theirs(x)
    return ((ours(x) - wanted).abs().max() / wanted.abs().max()).item()


def kind(layout: str, model: nn.Module) -> str:
    """Return a layout's name without its sizes, with the class of the zoo's code that it is compared with."""
    inner = model.model if isinstance(model, nn.Sequential) and hasattr(model, "model") else model
    return f"{re.sub(r'-[0-9]+', '', layout)} as {type(inner).__module__.rpartition('.')[2]}.{type(inner).__name__}"


def main() -> None:
    """Count, compare, and write the record."""
    out, logits = Path(sys.argv[1]), "--logits" in sys.argv
    known = json.loads(out.read_text())["logits"] if out.is_file() else {}  # a comparison is made once
    record: dict[str, Any] = {
        "robustbench": version("robustbench"),
        "timm": version("timm"),
        "zoo": {},
        "logits": known,
    }
    for (data, threat), models in zoo().items():
        if threat == "corruptions":
            continue
        found: dict[str, str | None] = {}
        for name, its in models.items():
            make = without_download(name, its)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    model = made(make)
                    found[name] = layout_of(name, model)
                    one = kind(found[name] or "", model)
                    if logits and found[name] and one not in record["logits"]:
                        classes = {"cifar10": 10, "cifar100": 100}.get(data, 1000)
                        far = gap(name, str(found[name]), make, classes)
                        if far > ALIKE:
                            found[name] = None
                            print(f"  {name} is no {one}: logits differ by {far:.1e} of the largest")
                            continue
                        record["logits"][one] = {"model": f"{data}/{threat}/{name}", "gap": float(f"{far:.1e}")}
                        print(f"  {one}: logits differ by {far:.1e} of the largest")
                except Exception as e:
                    found[name] = None
                    print(f"  {name}: {type(e).__name__} {str(e)[:200]}")
        record["zoo"][f"{data}/{threat}"] = found
        lost = [name for name, layout in found.items() if layout is None]
        print(f"{data}/{threat}: {len(found) - len(lost)} of {len(found)}; not {', '.join(lost) or 'any'}", flush=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
