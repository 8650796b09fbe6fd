"""Public names: each is there, the light ones without torch, and yesterday's say where they went."""

import importlib
import subprocess
import sys

import pytest
import torch

import mmard
from mmard.utils.errors import Note
from mmard.utils.moved import MOVED


def test_every_public_name_is_there() -> None:
    assert [name for name in mmard.__all__ if not hasattr(mmard, name)] == []
    assert set(mmard.__all__) <= set(dir(mmard))
    with pytest.raises(AttributeError, match="no attribute 'trian'; it has Distiller, "):
        mmard.trian  # noqa: B018


def test_public_names_come_without_a_note() -> None:
    code = "import warnings; warnings.simplefilter('error'); import mmard; print(len([getattr(mmard, n) for n in mmard.__all__]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (str(len(mmard.__all__)), "")


@pytest.mark.parametrize("old", sorted(MOVED))
def test_old_modules_say_where_they_went(old: str) -> None:
    sys.modules.pop(f"mmard.{old}", None)
    new = importlib.import_module(f"mmard.{MOVED[old]}")
    with pytest.warns(Note, match=f"mmard.{old} is mmard.{MOVED[old]} now"):
        found = importlib.import_module(f"mmard.{old}")
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names
    assert all(getattr(found, name) is getattr(new, name) for name in names)


def test_old_names_of_modules_that_are_packages_now() -> None:
    from mmard.runs import folder

    with pytest.warns(Note, match=r"mmard.runs.RunFolder is mmard.runs.folder.RunFolder now"):
        from mmard.runs import RunFolder
    assert RunFolder is folder.RunFolder


def test_terms_that_one_paper_alone_uses_say_where_they_went() -> None:
    from mmard import terms

    with pytest.warns(Note, match=r"mmard.terms.hard_peer is mmard.methods.peeraid.hard_peer now"):
        assert str(terms.hard_peer) == "CE(P(x'), y)"
    with pytest.raises(AttributeError, match=r"module 'mmard.terms' has no attribute 'hard_pear'"):
        terms.hard_pear  # noqa: B018


def test_old_names_within_moved_modules() -> None:
    sys.modules.pop("mmard.evaluation.checked", None)
    with pytest.warns(Note, match=r"mmard.evaluation.checked is mmard.evaluation.checks.run now"):
        from mmard.evaluation.checked import checked  # type: ignore[import-not-found]
    from mmard.evaluation.checks.run import evaluate_with_checks

    assert checked is evaluate_with_checks


@pytest.mark.parametrize(
    ("old", "name", "now"),
    [
        ("evaluation.evaluate", "choose", "evaluation.suite.choose_attacks"),
        ("config", "TrainSettings", "training.schedule.Plan"),
        ("config", "AttackSettings", "attacks.inner.compose.Inner"),
        ("scene", "Scene", "api.comparison.Comparison"),
        ("attacks.adaptive", "Stop", "attacks.inner.adaptive.StopAt"),
        ("attacks.stages", "Late", "attacks.inner.switching.StepSwitch"),
        ("core.balance", "Balanced", "terms.normalised_gradient.NormalisedGradient"),
        ("core.held", "Held", "terms.held_gradient.ReusedGradient"),
    ],
)
@pytest.mark.filterwarnings("ignore:mmard.* now; the old name goes")
def test_classes_and_functions_of_moved_modules_keep_their_old_names(old: str, name: str, now: str) -> None:
    module, _, new = f"mmard.{now}".rpartition(".")
    assert getattr(importlib.import_module(f"mmard.{old}"), name) is getattr(importlib.import_module(module), new)


def test_old_arguments_and_attributes_go_on_with_a_note() -> None:
    with pytest.warns(Note, match="tick= is on_progress= now"), pytest.raises(mmard.MmardError, match="no model at"):
        mmard.evaluate("nowhere", tick=print)
    scores = mmard.Scores(torch.ones(2, 1).bool(), ("clean",), ("no attack",), (0.0,), torch.arange(2), {"a": 1})
    with pytest.warns(Note, match=r"scores.facts is scores.metadata now"):
        assert scores.facts == {"a": 1}


@pytest.mark.parametrize("words", ["mmard", "mmard.cli", "mmard.utils.errors"])
def test_the_door_needs_no_torch(words: str) -> None:
    code = f"import sys, {words}; print(sorted({{'torch', 'numpy', 'pydantic'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
