"""Make a teacher small enough to travel: a run's best weights in half precision, and the card that goes with them.

python zoo/pack.py RUN NAME     writes NAME.safetensors and NAME.json beside this file
"""

import json
import sys
from pathlib import Path

from mmard import load_model
from mmard.api.settings import read_settings
from mmard.models.weights import metadata_of, save_weights
from mmard.utils.files import sha256, write_json

KEPT = ("method", "student", "threat", "attack", "train", "averaging", "seed")  # no paths of the machine that trained


def pack(run: Path, name: str) -> None:
    """Write the weights and the card; what the card claims is filled in from an evaluation of exactly these weights."""
    metadata = metadata_of(run / "best.safetensors")
    model = load_model(run).half()
    settings = {key: value for key, value in read_settings(run).resolved().items() if key in KEPT}
    weights = Path(__file__).with_name(f"{name}.safetensors")
    save_weights(weights, model, {"classes": metadata["classes"], "epoch": metadata["epoch"], "settings": settings})
    shape = model.architecture
    card = {"architecture": shape.name, "classes": shape.classes, "channels": shape.channels}
    card |= {"mean": shape.mean, "std": shape.std, "file": weights.name, "sha256": sha256(weights), "claimed": {}}
    card |= {"source": f"mmard train {run.name}", "licence": "MIT"}
    write_json(weights.with_suffix(".json"), card)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2])
