"""The one reader of YAML and JSON: what is twice, circular, endless or no plain value is one line; the rest means what it says."""

import time
from pathlib import Path
from typing import Any

import pytest
from helpers import Run

from mmard.api.overrides import parse_overrides
from mmard.api.registry import build_method
from mmard.api.settings import read_settings
from mmard.runs.folder import RunFolder
from mmard.study.spec import read_study
from mmard.utils.errors import MmardError
from mmard.utils.text_files import parse_json, parse_yaml, read_text, read_yaml
from mmard.utils.trust import Trust

CASE_10 = "method: pgd_at\ntrain: {epochs: 5, lr: 0.01}\nthreat: {eps: 8/255}\ntrain: {epochs: 30, batch_size: 64}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * ['*' + old])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_a_key_twice_names_both_lines_wherever_yaml_is_read(tmp_path: Path, mmard: Run) -> None:
    (tmp_path / "twice.yaml").write_text(CASE_10)
    done = mmard("show", "twice.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "twice.yaml: 'train' stands twice, again in line 4 (first in line 2)" in done.stderr
    with pytest.raises(MmardError, match=r"'lr' stands twice, again in line 3 \(first in line 2\)"):
        parse_yaml("train:\n  lr: 1\n  lr: 2\n", "x.yaml")
    with pytest.raises(MmardError, match="'beta' stands twice"):
        build_method("mmard(base=rslad, inner={beta: 1, beta: 2})")
    with pytest.raises(MmardError, match="value of train: 'lr' stands twice"):
        parse_overrides(["train={lr: 1, lr: 2}"])
    (tmp_path / "study.yaml").write_text("out: a\nsettings:\n  train.lr: 1\n  train: {lr: 2}\n")
    with pytest.raises(MmardError, match=r"settings: train.lr and train stand apart"):
        read_study(tmp_path / "study.yaml").base_settings()
    (tmp_path / "apart.yaml").write_text("train: {lr: 1}\ntrain.lr: 2\n")
    with pytest.raises(MmardError, match=r"train.lr and train.lr stand apart"):
        read_settings(tmp_path / "apart.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "stands for more than 100,000 values"),
        ("a: &a [*a]", "the alias in line 1 stands for something that it is a part of"),
        ("a: &a\n  b: *a", "the alias in line 2"),
        ("[" * 100_000, "the 51st level of nesting"),
        ("a: \x00", "is no YAML"),
        ("? [a, b]\n: 1", "a key in line 1 is a list or a mapping"),
        ("a: !!python/object/apply:os.system [x]", "marked"),
        ("a: !!binary aGk=", "marked"),
        ("a: !!int x", "is no YAML"),
        ("a: " + 5000 * "9", "is no YAML"),
    ],
)
def test_yaml_that_never_ends_or_is_no_plain_value_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(MmardError) as e:
        parse_yaml(text, "x.yaml")
    assert expected in str(e.value)
    assert "x.yaml" in str(e.value)
    assert "\n" not in str(e.value)


def test_keys_are_words_and_times_are_no_numbers() -> None:
    assert parse_yaml("{1: a, 0.50: b, on: c, 2026-02-03: d}", "x") == {
        "1": "a",
        "0.50": "b",
        "on": "c",
        "2026-02-03": "d",
    }
    values = parse_yaml("[1:30, 2026-02-03, 010, 0.5, 8/255, on, 'no', ~, 12]", "x")
    assert values == ["1:30", "2026-02-03", "010", 0.5, "8/255", True, "no", None, 12]
    assert parse_yaml("base: &b {x: 1, y: 2}\nmine: {<<: *b, x: 3}", "x")["mine"] == {"x": 3, "y": 2}
    assert parse_overrides(["out=2026-02-03", "data.root=a: [", "train.lr=0.5"]) == {
        "out": "2026-02-03", "data.root": "a: [", "train.lr": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n "b": 2,\n "a": 3}', "'a' stands twice, again in line 3 (first in line 1)"),
        ("[NaN]", "NaN is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[" * 200_000, "nested too deeply"),
        ("{", "is no JSON"),
        (b'{"\xff": 1}', "is no UTF-8 text (line 1)"),
    ],
)
def test_json_that_is_none_is_one_line(text: str | bytes, expected: str) -> None:
    with pytest.raises(MmardError) as e:
        parse_json(text, "x.json")
    assert expected in str(e.value)


def test_files_are_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes("about: é".encode("utf-8-sig"))
    assert read_yaml(file) == {"about": "é"}
    file.write_bytes("x: 1\nabout: é".encode("latin-1"))
    with pytest.raises(MmardError, match=r"no UTF-8 text \(line 2\)"):
        read_yaml(file)
    file.write_bytes("about: é".encode("utf-16"))
    with pytest.raises(MmardError, match="no UTF-8 text"):
        read_yaml(file)
    file.write_text("a: 1\n" * 300_000)
    begun = time.process_time()
    with pytest.raises(MmardError, match="more than 1,048,576 bytes"):
        read_yaml(file)
    assert time.process_time() - begun < 5  # it is not parsed first, which takes a minute
    with pytest.raises(MmardError, match="is no plain file"):
        read_text(tmp_path)


LINE = '{"step": 5, "epoch": 1, "seconds": 1.5, "data_wait": 0.1, "loss": 0.5, "terms": {"a": 0.5}}\n'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.5,", '"0.5",', "line 2: 'loss' is '0.5', expected a number"),
        ("0.5,", "NaN,", "line 2: NaN is no number"),
        ("0.5,", "[0.5],", r"line 2: 'loss' is \[0.5\], expected a number"),
        ('"epoch": 1', '"epoch": 1.5', "line 2: 'epoch' is 1.5, expected a whole number"),
        ('"step": 5', '"step": true', "line 2: 'step' is True, expected a whole number"),
        ('{"a": 0.5}', '{"a": null}', "line 2: 'a' is None, expected a number"),
        ('"step": 5', '"steps": 5', "line 2 is no record of a step"),
    ],
)
def test_a_metrics_line_of_other_types_is_named(old: str, new: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(LINE + LINE.replace(old, new, 1) + LINE)
    with pytest.raises(MmardError, match=f"metrics.jsonl: {expected}"):
        RunFolder(tmp_path).metrics()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"out": "a\0b"}, "'out' is 'a\\x00b': expected text"),
        ({"data.root": "\ud800"}, "expected text"),
        ({"method": {"name": "mmard", "beta": object()}}, "'method.beta' is a object"),
    ],
)
def test_settings_are_plain_values(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(MmardError) as e:
        read_settings(None, given)
    assert expected in str(e.value)


OWN = """
from collections.abc import Sequence
from typing import Annotated
from pydantic import Field
from mmard.methods import rslad

def build(gain: Annotated[float, Field(ge=1)] = 2.0, ends: Sequence[Annotated[float, Field(gt=0)]] = (), tau=1.0):
    assert (gain, ends, tau) == (4 / 3, (0.5, 2.0), -1.0)
    return rslad()
"""


def test_ranges_stand_beside_the_parameters_of_ones_own_method_too(tmp_path: Path) -> None:
    """A number is read in all ways, lies in the range of its annotation, and without one in none."""
    (tmp_path / "own.py").write_text(OWN)
    name, trust = f"{tmp_path}/own.py:build", Trust(everything=True)
    assert build_method({"name": name, "gain": "4/3", "ends": ["1/2", 2], "tau": -1}, trust).name == "rslad"
    for given, expected in (
        ({"gain": "1/2"}, "method.gain is '1/2', expected a number not below 1"),
        ({"gain": True}, "method.gain is True, expected a number such as 8/255"),
        ({"ends": [1, 0]}, "method.ends is 0, expected a number above 0"),
        ({"ends": 1}, r"method.ends is 1, expected a list of numbers such as \[215, 260\]"),
    ):
        with pytest.raises(MmardError, match=expected):
            build_method({"name": name, **given}, trust)


def test_a_path_is_as_good_as_its_name() -> None:
    assert read_settings(None, {"out": Path("runs/a"), "teachers": {"natural": Path("b")}}).out == "runs/a"
