"""AutoAttack standard of runs that AutoAttack-quick has judged: FAB-T and Square on the images that it left right.

    python benchmarks/autoattack_rest.py docs/results/cifar10-pays/standard.json RUN...

AutoAttack-quick is AutoAttack's first two attacks, so what the four of them leave is the same as in one evaluation, at four
fifths of its time. After a kill the same command goes on.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmard import Scores
from mmard.api.build import build_threat
from mmard.api.evaluation_target import EvalModel, EvalTarget
from mmard.api.unused_settings import EVALUATION
from mmard.attacks.autoattack import AutoAttack
from mmard.core.views import held_still
from mmard.evaluation.loop import Batches, Execution
from mmard.evaluation.suite import AttackSpec
from mmard.training.engine import Engine
from mmard.utils.files import read_json, sha256, write_json
from mmard.utils.precision import full_precision

QUICK = "AutoAttack-quick"


@dataclass(frozen=True, kw_only=True)
class Rest(AutoAttack):
    """AutoAttack without the attacks of AutoAttack-quick."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Name the attacks that are left."""
        return ("FAB-T", "Square")


def standard_of(run: Path, parts: Path) -> dict[str, Any]:
    """Run what is left for one run; returns its figures."""
    judged = [path.parent for path in run.glob(f"eval/best_*{QUICK}*/scores.json")]
    if len(judged) != 1:
        raise SystemExit(f"{run}: {len(judged)} evaluations by {QUICK} of its best weights, expected one")
    folder = judged[0]
    quick = Scores.load(folder)
    table = read_json(folder / "scores.json")
    asked, source = table["asked"], EvalTarget.of(run / "best.safetensors")
    if table["weights"] != sha256(source.path):
        raise SystemExit(f"{run}: the weights are not those that {folder} judged")
    settings = source.settings({}, EVALUATION)
    subject = EvalModel.of(source, settings, asked["limit"], Engine(accelerator="cpu").device)
    if subject.images.index.tolist() != quick.index.tolist():
        raise SystemExit(f"{run}: the test images are not those that {folder} judged")
    size, seed, threat = asked["batch_size"], asked["seed"], build_threat(settings)
    rest = Rest(batch_size=size, seed=seed)
    cache = subject.cache_in(parts, {"the rest": AttackSpec(rest, lambda _: str(rest))}, threat, size, seed)
    execution = Execution(batch_size=size, seed=seed, cache=cache)
    batches = Batches(subject.model.eval(), subject.faster() or subject.model, subject.images, threat, execution)
    left = quick.correct[:, quick.attacks.index(QUICK)]
    with held_still(subject.model), full_precision():
        stages, amiss = batches.stages("AutoAttack", rest, left, lambda share: print(f"{run}: {share:.0%}", flush=True))
    before = [stage.row() for stage in quick.stages]
    return {
        "run": "/".join(run.parts[-3:]), "weights": table["weights"], "images": len(left), "batch_size": size,
        "clean": 100 * quick.accuracy("clean"), QUICK: 100 * quick.accuracy(QUICK),
        "AutoAttack": stages[-1].row()["accuracy"], "doubtful": int(amiss.sum()),
        "stages": before + [stage.row() for stage in stages],
    }  # fmt: skip


def main() -> None:
    """Judge the runs, print and record their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="record; runs that it has are left out")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    args = parser.parse_args()
    for run in args.runs:
        known = read_json(args.json)["runs"] if args.json.is_file() else []
        if sha256(run / "best.safetensors") in [one["weights"] for one in known]:
            continue
        parts = args.json.with_suffix(".parts")
        found = standard_of(run, parts)
        write_json(args.json, {"runs": [*known, found]})
        shutil.rmtree(parts, ignore_errors=True)
        print({key: value for key, value in found.items() if key != "stages"}, flush=True)


if __name__ == "__main__":
    main()
