"""The cost of a step of each row where distillation pays, with and without variants, as a multiple of RSLAD's.

    python benchmarks/step_costs.py --json docs/results/step_costs.json

The recipe is cifar10-little: student cnn-32-7, teacher WRN-16-4, 128 random images, float32, one thread. The steps take turns in
one process; figures are medians. `whole` adds the teacher's four looks at each image, spread over forty epochs.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from mmard.api.measure import processor
from mmard.api.settings import read_settings
from mmard.bench.measure import Ratio, paired_seconds
from mmard.bench.step import Case, Subject, laid_out
from mmard.training.engine import Engine
from mmard.utils.files import write_json

N_FGSM = {"attack.kind": "n-fgsm", "attack.steps": None, "attack.step_size": None}
AT_X_ADV = "rslad(alpha=1.0, tau=0.5)"
ROWS: dict[str, dict[str, Any]] = {
    "rslad": {"method": "rslad"},
    "pgd_at": {"method": "pgd_at"},
    "rslad-adv": {"method": AT_X_ADV},
    "contrast": {"method": "mmard"},
    "anchored": {"method": "mmard(outer=anchored)"},
    "cheap": {"method": AT_X_ADV, **N_FGSM},
    "contrast-cheap": {"method": f"mmard({AT_X_ADV})", **N_FGSM},
    "anchored-cheap": {"method": f"mmard({AT_X_ADV}, outer=anchored)", **N_FGSM},
}
VARIANTS, EPOCHS, BATCH = 4, 40, 128


def subjects(engine: Engine) -> dict[str, Subject]:
    """Make the step of each row, as it is and with variants."""
    x, y = torch.rand(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    found = {}
    for name, words in ROWS.items():
        for variants in (None, VARIANTS):
            settings = read_settings("cifar10-little", {**words, "data.variants": variants})
            label = name if variants is None else f"{name}, variants"
            found[label] = Subject.of(Case(settings=settings, batch=BATCH), engine, x, y)
    return found


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are counted")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = Engine(accelerator="cpu")
    made = subjects(engine)
    x, teacher = laid_out(torch.rand(BATCH, 3, 32, 32)), made["rslad"].update.predictors["teacher"]
    steps = {name: subject.steps["ours"] for name, subject in made.items()}
    with torch.no_grad():
        look = statistics.median(paired_seconds({"look": lambda: teacher(x)}, engine.device, args.repeats)["look"])
    seconds = paired_seconds(steps, engine.device, args.repeats)
    rows = {}
    for name, each in seconds.items():
        ratio = Ratio.of(each, seconds["rslad"])
        looks = look * VARIANTS / EPOCHS if "variants" in name and "pgd_at" not in name else 0.0
        whole = ratio.median + looks / statistics.median(seconds["rslad"])
        rows[name] = {"seconds": statistics.median(each), **vars(ratio), "whole": whole}
        print(
            f"{name:25s} {rows[name]['seconds']:6.2f} s  × {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})  {whole:.2f}"
        )
    record = {"processor": processor(), "torch": torch.__version__, "threads": 1, "repeats": args.repeats}
    if args.json:
        write_json(args.json, {**record, "teacher_pass": look, "rows": rows})


if __name__ == "__main__":
    main()
