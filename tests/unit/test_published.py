"""The recipes of published settings, checked without data or teachers: what they say is valid, and what the papers' tables say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmard.api.build import method_of
from mmard.api.recipe_files import recipe_folders, recipes
from mmard.api.settings import Settings, read_settings
from mmard.api.whole_method import must_be_whole
from mmard.attacks.pgd import Pgd
from mmard.core.threat import Threat
from mmard.methods import METHODS
from mmard.models.architectures import Architecture, build
from mmard.training.averaging import Averaging

FOLDER = recipe_folders()[0] / "published"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

# epochs, weight decay, epochs after which the learning rate falls (one number: along a cosine from there)
NESTEROV = {"fair", "adr"}
LONG, SHORT = (300, 2e-4, (215, 260, 285)), (200, 2e-4, (100, 150))
SCHEDULES = {
    "trades": (76, 2e-4, (74,)), "mart": (120, 2e-4, (74, 89, 99)), "ard": SHORT, "iad": SHORT, "iad_2": SHORT, "rslad": LONG,
    "mtard": LONG, "b_mtard": LONG, "absld": LONG, "mmard": LONG, "peeraid": (300, 2e-4, (214, 259, 284)),
    "ciard": (300, 2e-4, 150), "fair": SHORT, "ibd": (150, 5e-4, (100, 125)),
    **dict.fromkeys(("adaad", "adaiad", "saad", "saad_c", "dgad"), (200, 5e-4, (100, 150))),
    **dict.fromkeys(("pgd_at", "igdm", "adr", "awp", "rebat", "rpat"), (200, 5e-4, (100, 150))),
}  # fmt: skip


def test_there_are_some_and_their_names_lead_to_them() -> None:
    assert {name.split("-")[0] for name in NAMES} == set(SCHEDULES) <= set(METHODS)
    assert all(recipes()[name] == FOLDER / f"{name}.yaml" for name in NAMES)


def named(spec: str | dict[str, Any]) -> list[str]:
    """Names of a method and of its bases, from outside."""
    return [spec] if isinstance(spec, str) else [spec["name"], *(named(spec["base"]) if "base" in spec else [])]


@pytest.mark.parametrize("name", NAMES)
def test_a_published_recipe_is_what_its_name_says(name: str) -> None:
    settings, (*methods, data, student) = read_settings(name), name.split("-")
    assert (settings.data.name, settings.student) == (f"uoft-cs/{data}", student)
    assert named(settings.method)[: len(methods)] == methods
    assert settings.out == f"runs/published/{name}"
    assert (settings.data.label == "fine_label") == (data == "cifar100")
    assert settings.data.augment == "crop+flip"
    plan = settings.train
    falls = plan.milestones if plan.schedule == "piecewise" else plan.hold
    assert (plan.epochs, plan.weight_decay, falls) == SCHEDULES[methods[0]]
    assert (plan.batch_size, plan.lr, plan.momentum) == (128, 0.1, 0.9)
    assert plan.nesterov == (methods[0] in NESTEROV)
    assert plan.schedule == ("cosine" if methods == ["ciard"] else "piecewise")


@pytest.mark.parametrize("name", NAMES)
def test_a_published_recipe_can_be_run(name: str) -> None:
    """The method builds and has the teachers that it asks for, its attack is the papers', the student and the average exist."""
    settings = read_settings(name)
    method, threat = method_of(settings), Threat(**settings.threat.model_dump())
    fresh = [name for name, companion in method.companions.items() if companion.fresh]
    must_be_whole(
        method, [*settings.teachers, *(["teacher"] if settings.teacher else []), *fresh], settings.train.epochs
    )
    assert isinstance(method.maximizer, Pgd)
    eps, step = (0.031, 0.007) if name.split("-")[0] in ("trades", "mart") else (8 / 255, 2 / 255)
    ball = method.ball(threat)
    assert (method.maximizer.steps, method.maximizer.step_for(ball), ball.eps, threat.eps) == (10, step, eps, 8 / 255)
    Averaging(**settings.averaging.model_dump())
    with torch.device("meta"):
        build(Architecture(name=settings.student, classes=10))
    if settings.teacher_recipe:
        assert read_settings(settings.teacher_recipe).out == settings.teacher


def test_saads_average_begins_with_epoch_95() -> None:
    """At the end of the 95th of 200 epochs, not of the 94th."""
    start = read_settings("saad-cifar10-resnet18").averaging.start
    assert 94 / 200 < start < 95 / 200


def test_peeraids_average_begins_with_the_first_drop() -> None:
    settings = read_settings("peeraid-cifar10-resnet18")
    assert settings.averaging.start == settings.train.milestones[0]


def figures() -> Iterator[tuple[str, str]]:
    """Published figures: recipe and line."""
    for name in NAMES:
        for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
            if re.match(r"#   .* / .* / ", line):
                yield name, line


def test_figures_are_three_numbers_that_fall() -> None:
    """Clean, PGD-20 and AutoAttack in this order; a dash where none was published."""
    found = [
        [re.findall(r"\d\d\.?\d*", field) for field in line.partition("(")[0].split(" / ")] for _, line in figures()
    ]
    assert len(found) > 15
    for fields in found:
        known = [float(numbers[0]) for numbers in fields if numbers]
        assert len(fields) == 3
        assert known
        assert known == sorted(known, reverse=True)


def test_recipes_are_short_and_say_what_they_are() -> None:
    for path in map(Path, FOLDER.glob("*.yaml")):
        assert len(path.read_text().splitlines()) <= 20, path.name
        about = Settings.model_validate(read_settings(str(path)).model_dump()).about
        assert about.endswith("."), path.name
