"""`mmard export`, as the command line takes it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmard.cli import console
from mmard.cli.recipe_words import as_keywords


def export(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [KEY=VALUE]...", help="Run folder (its best), .safetensors file or card; settings."
        ),
    ],
    to: Annotated[
        str | None, typer.Option(metavar="FILE.onnx", help="File to write; default RUN/model.onnx, model-int8.onnx.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="In 8 bits, by onnxruntime's static quantisation.")] = False,
    calibration: Annotated[
        int, typer.Option(min=1, help="Training images that the 8-bit ranges are taken from, classes in proportion.")
    ] = 512,
    trust: console.Trusted = False,
) -> None:
    """Write a model as ONNX, float or int8, for use without this package; compared with the network on held-out images.

    Pixels in [0, 1] go in, logits come out; the normalisation is inside and the batch is free. The file says its classes, its
    threat, its source and settings. docs/export.md has the rest; mmard eval RUN RUN/model.onnx judges both.
    """
    from mmard.api.export import export as write
    from mmard.api.settings import parse_overrides
    from mmard.utils.errors import MmardError

    console.must_be_settings(words, export)
    sources = [w for w in words if "=" not in w or Path(w).exists()]
    overrides = parse_overrides([w for w in words if w not in sources])
    if len(sources) != 1:
        raise MmardError(f"got {len(sources)} models, expected one: a run folder, a .safetensors file or a card")
    with console.out.status("exporting"):
        done = write(sources[0], to, int8=int8, calibration=calibration, trust=trust, **as_keywords(overrides))
    size = done.path.stat().st_size / 1e6
    said = f"wrote {done.path} ({done.metadata['precision']}, {size:.2f} MB): {done.comparison}"
    console.say(said)
    if not int8:
        console.say(f"largest difference allowed: {done.comparison.allowed:.2g}")
    both = shlex.join(["mmard", "eval", sources[0], str(done.path)])
    console.say("judge both on the test images: ", (both, "bold"))
