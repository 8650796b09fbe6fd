"""`mmard eval`'s AutoAttack against the official package called plainly, on the same model and images: seconds, and each verdict.

    python benchmarks/autoattack.py zoo/cifar10-cnn-32-7.json data.name=parquet data.train=... data.test=... --limit 200
    python benchmarks/autoattack.py runs/digits-rslad --turns 3 --other-seed

A turn is the package, then ours, on the next LIMIT / TURNS images; the table gives wall seconds and CPU seconds, which do not
count what else the machine does. ``--share 0.1`` runs a tenth of the iterations and queries.
``--other-seed`` runs the package with the next seed too: two seeds differ in some verdicts by themselves. The package is
given the model as it is loaded: float32, the usual memory layout, evaluation mode.
"""

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack as Package
from torch import Tensor, nn

from mmard.api.build import data_of
from mmard.api.overrides import parse_overrides
from mmard.api.settings import read_settings
from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.autoattack_pruning import in_parts
from mmard.attacks.counted_passes import Advance
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.data.images import Images, some
from mmard.evaluation.loop import Batches, Execution
from mmard.models.cards import find_model, load_model, weights_file
from mmard.models.folding import folded
from mmard.models.weights import metadata_of

Clock = dict[str, list[float]]  # attack → wall and CPU seconds


@dataclass(frozen=True, kw_only=True)
class Short(AutoAttack):
    """AutoAttack with a share of its iterations and queries: a quick look at speed and agreement, no evaluation."""

    share: float = 1.0
    clock: Clock = field(default_factory=dict)

    def package(self, predict: Predict, x: Tensor, threat: Threat) -> Any:
        official = super().package(predict, x, threat)
        for attack in (official.apgd, official.apgd_targeted, official.fab):
            attack.n_iter = max(5, round(self.share * attack.n_iter))
        official.square.n_queries = round(self.share * official.square.n_queries)
        return official

    def stage(
        self, name: str, predict: Predict, x: Tensor, y: Tensor, threat: Threat, advance: Advance = lambda _: None
    ) -> Tensor:
        return timed(self.clock, name, super().stage)(name, predict, x, y, threat, advance)  # type: ignore[no-any-return]


def timed(clock: Clock, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(*args)
        was = clock.setdefault(name, [0.0, 0.0])
        clock[name] = [was[0] + time.perf_counter() - wall, was[1] + time.process_time() - cpu]
        return result

    return run


def plain(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, auto: AutoAttack, clock: Clock) -> list[Tensor]:
    """Who is right after each attack, from one call of the package."""
    official = auto.package(model, x, threat)
    assert isinstance(official, Package)
    made: dict[str, list[Tensor]] = {}
    attacks = {
        "APGD-CE": official.apgd,
        "APGD-T": official.apgd_targeted,
        "FAB-T": official.fab,
        "Square": official.square,
    }
    for name in auto.stages:

        def keep(x: Tensor, y: Tensor, name: str = name, perturb: Any = attacks[name].perturb) -> Tensor:
            made.setdefault(name, []).append(perturb(x, y))
            return made[name][-1]

        attacks[name].perturb = timed(clock, name, keep)
    whole = timed(clock, "all", official.run_standard_evaluation)
    whole(x, y)
    with torch.no_grad():
        right = torch.eq(model(x).argmax(1), y)
        found = []
        for name in auto.stages:
            rows = right.nonzero().squeeze(1)
            right = right.clone()
            if name in made:
                right[rows] = torch.eq(model(torch.cat(made[name])).argmax(1), y[rows])
            found.append(right)
    return found


def ours(model: nn.Module, images: Images, threat: Threat, auto: AutoAttack, clock: Clock) -> list[Tensor]:
    """The same by `mmard eval`'s means."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(
        model, in_parts(folded(model)), images, threat, Execution(batch_size=auto.batch_size, seed=auto.seed)
    )
    (right, *_), _ = batches.column("clean", lambda _p, x, _y, _t: x, lambda _: None)
    auto = replace(auto, clock=clock)
    stages, _ = timed(clock, "all", batches.stages)("AutoAttack", auto, right, lambda _: None)
    return [stage.right for stage in stages]


def asked() -> argparse.Namespace:
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("words", nargs="+", metavar="MODEL [KEY=VALUE]...")
    read.add_argument("--protocol", choices=["standard", "quick"], default="standard")
    read.add_argument("--limit", type=int)
    read.add_argument("--turns", type=int, default=1)
    read.add_argument("--share", type=float, default=1.0, help="of the iterations and queries")
    read.add_argument("--seed", type=int, default=0)
    read.add_argument("--device", type=torch.device, default="cpu", help="of networks and images")
    read.add_argument("--other-seed", action="store_true")
    read.add_argument("--json", type=Path)
    return read.parse_args()


def main() -> None:
    given = asked()
    path = find_model(Path(given.words[0]))
    metadata = metadata_of(weights_file(path))
    words = {**parse_overrides(given.words[1:]), "data.stream": True}
    settings = read_settings(read_settings(None, {**metadata.get("settings", {}), "engine": {}}), words)
    images = some(data_of(settings).test, given.limit, seed=0).to(given.device)
    threat = Threat(**settings.threat.model_dump())
    model = load_model(path).eval().requires_grad_(False).to(given.device)
    warnings.simplefilter("ignore")
    size = -(-len(images) // given.turns)
    auto = Short(protocol=given.protocol, batch_size=size, seed=given.seed, share=given.share)
    names, clocks = list(auto.stages), ({}, {})  # type: tuple[list[str], tuple[Clock, Clock]]
    verdicts: dict[str, list[list[Tensor]]] = {"plain": [], "ours": [], "other seed": []}
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for part in order.split(size):
        turn = images.take(part)
        x, y, _ = turn.batch(slice(None))
        x = x.contiguous()
        verdicts["plain"].append(plain(copy.deepcopy(model), x, y, threat, auto, clocks[0]))
        verdicts["ours"].append(ours(copy.deepcopy(model), turn, threat, auto, clocks[1]))
        if given.other_seed:
            other = replace(auto, seed=given.seed + 1)
            verdicts["other seed"].append(plain(copy.deepcopy(model), x, y, threat, other, {}))
        print(f"{sum(len(v[0]) for v in verdicts['plain'])} of {len(images)} images", flush=True)
    result = compared(names, clocks, {k: v for k, v in verdicts.items() if v})
    result |= {
        "model": str(path),
        "threat": str(threat),
        "images": len(images),
        "turns": given.turns,
        "share": given.share,
    }
    result |= {"device": str(given.device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(result, indent=2), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def compared(names: list[str], clocks: tuple[Clock, Clock], verdicts: dict[str, list[list[Tensor]]]) -> dict[str, Any]:
    """Seconds, ratios, accuracy after each attack, and how many samples' verdicts differ from the package's."""
    after = {
        who: [torch.cat([turn[i] for turn in turns]) for i in range(len(names))] for who, turns in verdicts.items()
    }
    result: dict[str, Any] = {"attacks": {}}
    for i, name in enumerate(names):
        row: dict[str, Any] = {who: f"{100 * right[i].double().mean():.2f} %" for who, right in after.items()}
        row |= {f"differ: {w}": int((after[w][i] != after["plain"][i]).sum()) for w in after if w != "plain"}
        for i_clock, unit in enumerate(("wall", "CPU")):
            seconds = [clock.get(name, [0.0, 0.0])[i_clock] for clock in clocks]
            row |= {f"{unit} seconds": [round(s, 2) for s in seconds]}
            row |= {f"{unit} ratio": round(seconds[0] / max(seconds[1], 1e-9), 3)}
        result["attacks"][name] = row
    (wall, cpu), (our_wall, our_cpu) = clocks[0]["all"], clocks[1]["all"]
    result["wall seconds"] = [round(wall, 1), round(our_wall, 1)]
    result["CPU seconds"] = [round(cpu, 1), round(our_cpu, 1)]
    return result | {"wall ratio": round(wall / our_wall, 3), "CPU ratio": round(cpu / our_cpu, 3)}


if __name__ == "__main__":
    main()
