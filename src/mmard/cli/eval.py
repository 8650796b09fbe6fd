"""`mmard eval`, as the command line takes it."""

from typing import Annotated

import typer

from mmard.cli import console
from mmard.cli.completion import complete_run
from mmard.utils.errors import Interrupted, MmardError

ATTACKS = "Such as fgsm,pgd-20,cw,autoattack-quick; none: clean only. Default: fgsm,pgd-20,cw,autoattack."
PROTOCOL = "AutoAttack's: standard, or quick: APGD-CE and APGD-T only, named AutoAttack-quick, in its place."
CHECKS = "Can it be believed? full, quick or none. Default: full with AutoAttack, else quick; none without attacks."
SURROGATE = "Of an .onnx: run, weights or FILE.py:BUILD to take gradients from. --twin is its old name."
WEIGHTS = "Of a network from elsewhere: net.py:build, package.module:build, timm:NAME, torchvision:NAME."
LIMIT = "Only about so many test images, classes in proportion."
EXAMPLES = "Keep so many images with what PGD-20 makes of them; 0: none."
WHAT = "Run folders, .safetensors, .onnx, cards, networks from elsewhere; settings."
Words = Annotated[list[str], typer.Argument(metavar="MODEL... [KEY=VALUE]...", help=WHAT, autocompletion=complete_run)]
CURVE = "Also PGD-20 at eight radii from 0 to 4 eps, on about 500 of the images."


def evaluate(
    words: Words,
    attacks: Annotated[str | None, typer.Option(help=ATTACKS)] = None,
    protocol: Annotated[str, typer.Option(help=PROTOCOL)] = "standard",
    limit: Annotated[int | None, typer.Option(min=1, help=LIMIT)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 500,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the attacks' random starts.")] = 0,
    checks: Annotated[str | None, typer.Option(help=CHECKS)] = None,
    curve: Annotated[bool, typer.Option("--curve", help=CURVE)] = False,
    examples: Annotated[int, typer.Option(min=0, help=EXAMPLES)] = 12,
    surrogate: Annotated[str | None, typer.Option("--surrogate", "--twin", metavar="RUN", help=SURROGATE)] = None,
    surrogate_weights: Annotated[str | None, typer.Option(metavar="FILE", help="Of a surrogate FILE.py:BUILD.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help=WEIGHTS)] = None,
    trust: console.Trusted = False,
) -> None:
    """Evaluate models on the test images: clean, FGSM, PGD-20, C&W, AutoAttack, and each sample's worst case.

    The table also goes to eval/ beside the weights, a folder for each choice of attacks, images and settings:
    scores.json, scores.csv, stages.csv (AutoAttack's four), verdicts.safetensors (sample × attack), examples.safetensors.
    What was stopped or killed goes on by the same command, with the same verdicts. A run's last checkpoint:
    RUN/last.safetensors. A network from elsewhere: mmard eval net.py:build --weights FILE data.name=digits threat.eps=0.1
    """
    from mmard.cli.evaluation import judge_all

    console.must_be_settings(words, evaluate)
    surrogate, words = _with_weights(surrogate, surrogate_weights), _network_with(words, weights)
    asked = {
        "protocol": protocol,
        "limit": limit,
        "batch_size": batch_size,
        "seed": seed,
        "checks": checks,
        "trust": trust,
    }
    try:
        stand = judge_all(words, console.out, attacks, surrogate, **asked, curve=curve, examples=examples)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on") from None
    if not stand:
        raise typer.Exit(1)


def _network_with(words: list[str], weights: str | None) -> list[str]:
    """Write weights, where they are given, after the one network of the command: ``net.py:build@FILE``."""
    if weights is None:
        return words
    from mmard.cli.evaluation import is_network

    named = [word for word in words if is_network(word)]
    if len(named) != 1 or "@" in named[0]:
        raise MmardError(
            f"--weights {weights} go with one network, such as net.py:build or timm:resnet18, got {len(named)}"
        )
    return [f"{word}@{weights}" if word in named else word for word in words]


def _with_weights(surrogate: str | None, weights: str | None) -> str | None:
    """Join a surrogate and its weights to one word."""
    if weights is not None and surrogate is None:
        raise MmardError(f"--surrogate-weights {weights} go with --surrogate FILE.py:BUILD")
    return surrogate if weights is None else f"{surrogate}@{weights}"
