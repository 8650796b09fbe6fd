"""What is measured on the held-out split while a student trains."""

import pytest
import torch
from helpers import small_net

from mmard import Pgd, Threat
from mmard.attacks.pgd import untargeted
from mmard.data.images import DataSet
from mmard.diagnostics.triangle import triangle
from mmard.training.engine import Engine
from mmard.training.validation import Validation
from mmard.utils.numbers import seed_of

pytestmark = pytest.mark.figures


def test_accuracies_and_the_triangle_are_those_of_all_the_images(tiny: DataSet) -> None:
    student, teacher, images = small_net(seed=1), small_net(seed=2), tiny.held_out
    for net in (student.eval(), teacher.eval()):
        net.net.get_parameter("fc.weight").data *= 5000  # sure of what they say
    threat, part, seed = Threat(eps=0.1), 7, 3
    asked = {"part": part, "seed": seed, "engine": Engine(accelerator="cpu")}
    found = Validation(steps=2).judge(student, images, threat, teacher=teacher, **asked)

    x, y, _ = images.batch(slice(None))
    assert len(y) > part  # more than one batch
    made = []
    for start in range(0, len(y), part):
        torch.manual_seed(seed_of(seed, "judge", start))
        rows = slice(start, start + part)
        made.append(untargeted(Pgd(steps=2, start="uniform"))(student, x[rows], y[rows], threat))
    said = [net(at).detach() for net in (student, teacher) for at in (x, torch.cat(made))]
    expected = {edge: value["adjusted"] for edge, value in triangle(*said).items()}
    assert found["triangle"] == pytest.approx(expected, abs=1e-5)
    assert max(expected.values()) > 0.01
    assert found["clean"] == pytest.approx(100 * (said[0].argmax(1) == y).float().mean().item())
    assert found["robust"] == pytest.approx(100 * (said[1].argmax(1) == y).float().mean().item())
    alone = Validation(steps=2).judge(student, images, threat, **asked)
    assert alone == {name: found[name] for name in ("clean", "robust")}
