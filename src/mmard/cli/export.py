"""`mmard export`, as the command line takes it."""

import shlex
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from mmard.cli import console
from mmard.cli.completion import complete_format, complete_run
from mmard.cli.recipe_words import as_keywords
from mmard.utils.terminal import line

FORMAT = "onnx, openvino, executorch or torch (torch.export's .pt2)."
DYNAMIC = "Of any height and width, where the network takes them; tried on twice the size."


def export(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [KEY=VALUE]...",
            help="Run folder (its best), .safetensors file, card, or net.py:build@WEIGHTS; settings.",
            autocompletion=complete_run,
        ),
    ],
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="File to write; default RUN/model.onnx, model-int8.onnx.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="In 8 bits, by onnxruntime's static quantisation.")] = False,
    calibration: Annotated[
        int, typer.Option(min=1, help="Training images that the 8-bit ranges are taken from, classes in proportion.")
    ] = 512,
    format: Annotated[str, typer.Option(help=FORMAT, autocompletion=complete_format)] = "onnx",
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help=DYNAMIC)] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Without the table of speed, memory and accuracy.")
    ] = False,
    images: Annotated[int, typer.Option(min=1, help="Test images that the table's accuracies are of.")] = 128,
    trust: console.Trusted = False,
) -> None:
    """Write a model as ONNX, float or int8, for use without this package; compared with the network, and measured.

    Pixels in [0, 1] go in, logits come out; the file says its classes, its threat, its source and settings. The table of latency,
    size, memory and accuracy is also in a run's card. docs/export.md has the rest.
    """
    console.must_be_settings(words, export)
    how = {"int8": int8, "calibration": calibration, "format": format, "dynamic_size": dynamic_size, "force": force}
    _export(words, {"to": to, **how}, None if no_measure else images, trust)


def _export(words: list[str], how: dict[str, Any], images: int | None, trust: bool) -> None:
    """Export, print how the file agrees with the network, and measure it on so many images (None: not at all)."""
    from mmard.api.export import export as write
    from mmard.api.overrides import parse_overrides
    from mmard.api.unused_settings import EXPORT, MEASUREMENT, must_be_taken
    from mmard.cli.evaluation import is_network
    from mmard.utils.errors import MmardError

    sources = [w for w in words if "=" not in w or Path(w).exists() or is_network(w)]
    overrides = parse_overrides([w for w in words if w not in sources])
    if len(sources) != 1:
        raise MmardError(f"got {len(sources)} models, expected one: a run folder, a .safetensors file or a card")
    must_be_taken(overrides, EXPORT, *([] if images is None else [MEASUREMENT]))
    with console.out.status("exporting"):
        done = write(sources[0], **how, **as_keywords(EXPORT.of(overrides)), trust=trust)
    console.say(f"wrote {done.path} ({done.metadata['precision']}, {done.size / 1e6:.2f} MB): {done.comparison}")
    if not how["int8"]:
        console.say(f"largest difference allowed: {done.comparison.allowed:.2g}")
    if images is not None:
        _measure(sources[0], done.path, {"images": images, "trust": trust, **as_keywords(MEASUREMENT.of(overrides))})
    if done.path.suffix == ".onnx":
        both = shlex.join(["mmard", "eval", sources[0], str(done.path)])
        console.say("judge both on the test images: ", (both, "bold"))


def _measure(source: str, path: Path, how: dict[str, Any]) -> None:
    """Measure the file and print the table."""
    from mmard.api.measure import measure
    from mmard.report.export_table import export_screen
    from mmard.runs.exports import lost_accuracy
    from mmard.utils.files import sha256

    with console.out.status("measuring") as status:
        found = measure(source, path, on_progress=lambda what: status.update(line(f"measuring {what}")), **how)
    console.out.print(export_screen(found))
    if (lost := lost_accuracy(found, sha256(path))) is not None:
        warnings.warn(lost, stacklevel=2)
