"""What is kept beside scores, and what is removed when they are made anew."""

import json
from pathlib import Path

import pytest
from helpers import blobs, small_net

from mmard import Threat
from mmard.api.artifacts import Artifacts
from mmard.api.evaluation_target import EvalModel
from mmard.evaluation.examples import Examples
from mmard.training.engine import Engine


def keep(results: Path, weights: str | None, *, curve: bool = False, examples: int = 0) -> set[str]:
    """What lies there after an evaluation of these weights, scores apart."""
    results.mkdir(exist_ok=True)
    row = {
        "attack": "clean",
        "detail": "no attack",
        "accuracy": 0.5,
        "low": 0.2,
        "high": 0.8,
        "samples": 8,
        "seconds": 0.1,
    }
    told = {"attacks": [row]} if weights is None else {"attacks": [row], "weights": weights}
    (results / "scores.json").write_text(json.dumps(told))
    images = blobs(8)
    extras = Artifacts(EvalModel(small_net(), images, len(images)), Threat(eps=0.1), curve, examples)
    extras.keep(results, Engine(accelerator="cpu"), lambda *_: None, batch_size=8, seed=0)
    return {path.name for path in results.iterdir()} - {"scores.json"}


BOTH = {"curve.json", "examples.safetensors"}


@pytest.mark.parametrize(
    ("first", "then", "left"), [("a", "a", BOTH), ("a", "b", set()), ("a", None, set()), (None, None, set())]
)
def test_what_is_not_made_anew_stays_for_the_same_weights_alone(
    first: str | None, then: str | None, left: set[str], tmp_path: Path
) -> None:
    assert keep(tmp_path / "r", first, curve=True, examples=2) == BOTH
    assert keep(tmp_path / "r", then) == left


def test_what_is_made_anew_is_of_the_new_weights(tmp_path: Path) -> None:
    keep(tmp_path / "r", "a", curve=True, examples=2)
    assert keep(tmp_path / "r", "b", examples=3) == {"examples.safetensors"}
    found = Examples.load(tmp_path / "r/examples.safetensors")
    assert (len(found.x), found.metadata["weights"]) == (3, "b")


def test_what_cannot_be_read_is_removed(tmp_path: Path) -> None:
    keep(tmp_path / "r", "a", curve=True, examples=2)
    for name in BOTH:
        (tmp_path / "r" / name).write_text("{")
    assert keep(tmp_path / "r", "a") == set()
