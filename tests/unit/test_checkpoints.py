"""Other people's checkpoints: the weights in them, wherever they lie and whatever their names begin with."""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_net
from torch import Tensor

from mmard import MmardError, load_model
from mmard.data.sources import load
from mmard.models.architectures import Architecture, build
from mmard.models.checkpoints import read_checkpoint
from mmard.utils.errors import Note

State = dict[str, Tensor]


def weights(seed: int = 0) -> State:
    torch.manual_seed(seed)
    return dict(build(Architecture(name="cnn-4-2", classes=10)).net.state_dict())


def begun_with(prefix: str, state: State | None = None) -> State:
    return {prefix + name: t for name, t in (state or weights()).items()}


def loaded(folder: Path, content: Any, **metadata: object) -> State:
    """The weights that a card of this file gives."""
    torch.save(content, folder / "c.pt")
    card = {"architecture": "cnn-4-2", "classes": 10, "file": "c.pt", **metadata}
    (folder / "c.json").write_text(json.dumps(card))
    return dict(load_model(folder / "c.json").net.state_dict())


def is_that_of(got: State, seed: int) -> bool:
    return all(torch.equal(t, got[name]) for name, t in weights(seed).items())


PREFIXES = ["_orig_mod.", "module._orig_mod.", "model.", "net.", "1.", "model.model.", "module.model.net."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_whatever_the_names_begin_with_is_taken_off_and_shown(prefix: str, tmp_path: Path) -> None:
    with pytest.warns(Note, match=f"begin with '{prefix}'"):
        got = loaded(tmp_path, {"state_dict": begun_with(prefix)})
    assert is_that_of(got, 0)


@pytest.mark.parametrize("key", [None, "state_dict.student"])
def test_another_network_beside_it_is_left_out_and_counted(key: str | None, tmp_path: Path) -> None:
    other = {f"teacher.{name}": t for name, t in small_net(classes=7, name="cnn-8-3").net.state_dict().items()}
    content = {"state_dict": {**begun_with("student."), **other, "criterion.weight": torch.ones(3)}}
    with pytest.warns(Note, match=rf"'student.', which is taken off; {len(other) + 1} others beside them are left out"):
        assert is_that_of(loaded(tmp_path, content, **({} if key is None else {"key": key})), 0)


def test_a_script_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    torch.jit.trace(small_net(classes=10).net, torch.zeros(1, 1, 8, 8)).save(str(tmp_path / "s.pt"))
    with pytest.raises(MmardError, match="is a network of TorchScript, and weights are expected"):
        read_checkpoint(tmp_path / "s.pt")
    torch.export.save(torch.export.export(small_net(classes=10).net, (torch.zeros(1, 1, 8, 8),)), tmp_path / "e.pt2")
    with pytest.raises(MmardError, match=r"is a network of torch.export, and weights are expected"):
        read_checkpoint(tmp_path / "e.pt2")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_usual_names_are_not_worth_a_line(prefix: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_that_of(loaded(tmp_path, begun_with(prefix)), 0)


def test_a_part_that_was_compiled_has_its_name_within(tmp_path: Path) -> None:
    named = {name.replace("features.", "features._orig_mod."): t for name, t in weights().items()}
    assert is_that_of(loaded(tmp_path, named), 0)


@pytest.mark.parametrize(
    "around",
    [
        *(lambda s, key=key: {key: s} for key in ("state_dict", "model", "weights", "net", "model_state_dict", "best")),
        lambda s: {"state_dict": s, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}, "epoch": 3},
        lambda s: {**s, "epoch": 3},
        lambda s: {**begun_with("module.", s), "n_averaged": torch.tensor(5)},
        lambda s: {"state_dict": s, "best": np.float64(51.2), "seen": np.int64(3), "history": np.ones(3, np.float32)},
        lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
        lambda s: {"model": s, "again": {"model": dict(s)}},
    ],
)
def test_weights_are_found_under_any_key_whatever_lies_beside_them(
    around: Callable[[State], object], tmp_path: Path
) -> None:
    assert is_that_of(loaded(tmp_path, around(weights())), 0)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (lambda: {"model": weights(0), "ema": weights(1)}, ("model", "ema")),
        (lambda: {"state_dict": weights(0), "state_dict_ema": weights(1)}, ("state_dict", "state_dict_ema")),
        (
            lambda: {"state_dict": begun_with("net.", weights(0)) | begun_with("net_ema.", weights(1))},
            ("state_dict.net", "state_dict.net_ema"),
        ),
    ],
)
def test_of_several_sets_the_card_says_which(
    content: Callable[[], object], names: tuple[str, str], tmp_path: Path
) -> None:
    for seed, name in enumerate(names):
        assert is_that_of(loaded(tmp_path, content(), key=name), seed)
    with pytest.raises(MmardError, match=f'2 different sets.*: {names[0]}, {names[1]}; .*"key": "{names[1]}"'):
        loaded(tmp_path, content())
    with pytest.raises(MmardError, match="key 'emma' that fit; there are: "):
        loaded(tmp_path, content(), key="emma")


def test_a_mean_and_a_std_beside_the_weights_must_be_those_of_the_card(tmp_path: Path) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
    content = begun_with("1.") | {
        "0.mean": torch.tensor(mean)[:, None, None],
        "0.std": torch.tensor(std)[:, None, None],
    }
    assert is_that_of(loaded(tmp_path, content, mean=mean, std=std), 0)
    for metadata in ({}, {"mean": [0.5] * 3, "std": [0.5] * 3}):
        with pytest.raises(MmardError, match=r"a normalisation of its own, .*0\.4914.* into the card"):
            loaded(tmp_path, content, **metadata)


@pytest.mark.parametrize("names", [("mean", "std"), ("mean",)])
def test_weights_that_bring_the_identity_are_those_of_a_card_without_a_normalisation(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    identity = {"mean": torch.zeros(3), "std": torch.ones(3)}
    assert is_that_of(loaded(tmp_path, weights() | {name: identity[name] for name in names}), 0)
    with pytest.raises(MmardError, match="a normalisation of its own"):
        loaded(tmp_path, weights() | identity | {"std": torch.full((3,), 2.0)})


def test_a_refusal_says_what_to_save(tmp_path: Path) -> None:
    for content in (build(Architecture(name="cnn-4-2", classes=10)), {"epoch": 3}, [1, 2]):
        with pytest.raises(MmardError, match=r"torch\.save\(model\.state_dict\(\), 'weights\.pt'\)"):
            loaded(tmp_path, content)
    with pytest.raises(MmardError, match=r"lacks features.0.weight and \d+ more; is it another architecture"):
        loaded(tmp_path, {"fc.weight": torch.ones(10, 4)})
    with pytest.raises(MmardError, match=r"has the unknown head\.weight"):
        loaded(tmp_path, {**weights(), "head.weight": torch.ones(2)})


def test_a_wrong_number_of_classes_is_told_though_a_mean_and_a_std_lie_beside_the_weights(tmp_path: Path) -> None:
    content = begun_with("1.") | {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}
    for named in (content, {name.partition(".")[2]: t for name, t in content.items()}):
        with pytest.raises(MmardError, match=r"has shape \(10, .*or another number of classes\?"):
            loaded(tmp_path, named, classes=7)


STAND_INS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n": r"pointer of Git LFS .*; download it again \(git lfs",
    "\n<!DOCTYPE html>\n<html><body>404</body></html>": "is a web page and not the file itself; download it again",
    "<HTML>": "is a web page",
}


@pytest.mark.parametrize("text", STAND_INS)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.onnx", "w.json"])
def test_what_a_download_leaves_in_the_place_of_weights_is_named(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "card.json").write_text(json.dumps({"architecture": "cnn-4-2", "classes": 10, "file": name}))
    for source in (name, "card.json"):
        with pytest.raises(MmardError, match=STAND_INS[text]):
            load_model(tmp_path / source)
    for part in ("train", "test"):
        with pytest.raises(MmardError, match=STAND_INS[text]):
            load("parquet", **{"train": __file__, "test": __file__, part: str(tmp_path / name)})


@pytest.mark.parametrize("file", [".", "", "sub"])
def test_a_card_that_names_a_folder_is_told(file: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "c.json").write_text(json.dumps({"architecture": "cnn-4-2", "classes": 10, "file": file}))
    with pytest.raises(MmardError, match=r"names the folder .* as its file; expected the weights' name"):
        load_model(tmp_path / "c.json")
