"""Class names and channels travel with weights and are compared wherever a model meets data."""

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmard
from mmard import MmardError
from mmard.api.build import data_of, known_of
from mmard.api.comparison import Comparison
from mmard.api.images_of_runs import known_to
from mmard.api.settings import read_settings
from mmard.data.images import Images
from mmard.models.weights import load_weights, metadata_of, save_weights
from mmard.runs.folder import RunFolder

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")

NAMES = ("ant", "bee", "cat", "dog")
OTHER = ("dog", "ant", "cat", "bee")
QUICK: dict[str, Any] = {
    "method": "standard", "student": "cnn-8-2", "train__epochs": 4, "train__batch_size": 32, "validation__steps": 1,
    "data__name": "parquet", "threat__eps": 0.03, "train__lr": 0.05,
}  # fmt: skip


def picture(name: str, number: int, grey: bool = False) -> bytes:
    """A bright quarter tells the class, noise the image."""
    k, draw = NAMES.index(name), np.random.default_rng(number)
    pixels = draw.integers(0, 60, (8, 8, 3), np.uint8)
    pixels[4 * (k // 2) :, 4 * (k % 2) :][:4, :4] += 190
    file = io.BytesIO()
    Image.fromarray(pixels).convert("L" if grey else "RGB").save(file, "png")
    return file.getvalue()


def write(at: Path, order: Sequence[str], called: Sequence[str] | None = None, grey: bool = False) -> dict[str, str]:
    """The same images whatever the order of the classes is; ``called``: other names of the same."""
    at.mkdir(parents=True)
    for part, count in (("train", 160), ("test", 48)):
        names = [NAMES[i % 4] for i in range(count)]
        encoded = [{"bytes": picture(n, i + count, grey), "path": None} for i, n in enumerate(names)]
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(called or order)))
        rows = {"image": encoded, "label": [order.index(n) for n in names]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(at / f"{part}.parquet")
    return {f"data__{part}": str(at / f"{part}.parquet") for part in ("train", "test")}


def shown(images: Images) -> list[str]:
    """The names of the classes by what the images show."""
    corners = torch.stack([images.pixels[:, 0, y, x] for y, x in ((0, 0), (0, 7), (7, 0), (7, 7))])
    return [NAMES[k] for k in corners.float().argmax(0)]


def accuracy(run: RunFolder, order: Sequence[str]) -> float:
    """Share of the test images whose class the network finds, if its outputs stood for the classes in this order."""
    files = datasets.load_dataset("parquet", data_files=read_settings(run.path).data.test, split="train")
    pixels = torch.stack([torch.from_numpy(np.asarray(image).copy()) for image in files["image"]]).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = load_weights(run.best_file).eval()(pixels.float() / 255).argmax(1)
    return float(np.mean([order[k] == NAMES[i % 4] for i, k in enumerate(found)]))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    at = tmp_path_factory.mktemp("classes")
    return {
        "same": write(at / "same", NAMES),
        "other": write(at / "other", OTHER),
        "words": write(at / "words", NAMES, ("ameise", "biene", "cat", "dog")),
        "numbers": write(at / "numbers", NAMES, ("0", "1", "2", "3")),
        "grey": write(at / "grey", NAMES, grey=True),
    }


@pytest.fixture(scope="module")
def run(places: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return mmard.train(out=str(tmp_path_factory.mktemp("run") / "t"), **QUICK, **places["same"])


ORDER = "knows the classes in another order than the data"


def test_data_in_another_order_are_judged_as_in_the_model_s(run: RunFolder, places: dict[str, dict[str, str]]) -> None:
    right = mmard.evaluate(run, "fgsm", examples=0)
    assert right.accuracy("clean") == accuracy(run, NAMES)
    with pytest.warns(UserWarning, match=ORDER):
        scores = mmard.evaluate(run, "fgsm", examples=0, **places["other"])
    assert scores.metadata["classes"] == list(NAMES)
    assert [scores.accuracy(a) for a in ("clean", "FGSM")] == [right.accuracy(a) for a in ("clean", "FGSM")]


def test_other_names_warn_and_numbers_do_not(run: RunFolder, places: dict[str, dict[str, str]]) -> None:
    with pytest.warns(UserWarning, match="class 0 is 'ant' there, 'ameise' here"):
        mmard.evaluate(run, "none", examples=0, **places["words"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        mmard.evaluate(run, "none", examples=0, **places["numbers"])


def test_a_student_learns_its_teacher_s_order(
    run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    taught = QUICK | {"method": "rslad", "train__epochs": 1, "attack__steps": 1, "teacher": str(run.path)}
    with pytest.warns(UserWarning, match=ORDER):
        student = mmard.train(out=str(tmp_path / "s"), **taught, **places["other"])
    assert metadata_of(student.best_file)["classes"] == list(NAMES)
    settings = read_settings(student.path)
    with pytest.warns(UserWarning, match=ORDER):
        data = data_of(settings, [known_of(student.best_file, "the student")])
    with pytest.warns(UserWarning, match=ORDER):
        scene = Comparison.of(settings, student.best_file, "test", 100, 50, 0)
    for images in (data.train.in_memory(), data.held_out, data.test, scene.images):
        assert [images.classes[k] for k in images.labels] == shown(images)
        assert images.classes == NAMES


def test_teachers_that_disagree_are_refused(run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path) -> None:
    save_weights(tmp_path / "n.safetensors", load_weights(run.best_file), {"classes": list(OTHER)})
    both = QUICK | {"method": "mtard", "teacher": str(run.path), "teachers.natural": str(tmp_path / "n.safetensors")}
    with pytest.raises(
        MmardError, match=r"the natural .* and the teacher .* know the same classes in different orders"
    ):
        mmard.train(out=str(tmp_path / "s"), **both, **places["same"])
    assert not (tmp_path / "s/settings.yaml").exists()


def test_a_run_goes_on_in_its_own_order(run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path) -> None:
    """A run from before folders were in order of their numbers has the old order in its weights."""
    folder = RunFolder(tmp_path)
    save_weights(folder.last_file, load_weights(run.best_file), {"classes": list(OTHER)})
    settings = read_settings(None, {key.replace("__", "."): v for key, v in (QUICK | places["same"]).items()})
    with pytest.warns(UserWarning, match=f"the run {tmp_path} {ORDER}"):
        data = data_of(settings, known_to(settings, folder))
    assert data.train.classes == OTHER
    assert [OTHER[k] for k in data.test.labels] == shown(data.test)


def card_of(run: RunFolder, at: Path, **keys: Any) -> Path:
    """A card of weights whose file says no names."""
    at.mkdir(exist_ok=True)
    save_weights(at / "w.safetensors", load_weights(run.best_file))
    card = {"architecture": "cnn-8-2", "classes": 4, "channels": 3, "file": "w.safetensors", **keys}
    (at / "card.json").write_text(json.dumps(card))
    return at / "card.json"


def test_a_card_may_say_the_names(run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path) -> None:
    words = {"attacks": "none", "examples": 0, "data__name": "parquet", **places["other"]}
    with pytest.warns(UserWarning, match=ORDER):
        told = mmard.evaluate(card_of(run, tmp_path / "a", class_names=NAMES), **words)
    assert told.accuracy("clean") == accuracy(run, NAMES)
    silent = mmard.evaluate(card_of(run, tmp_path / "b"), **words)  # nothing is known, so the data's own order counts
    assert silent.accuracy("clean") == accuracy(run, OTHER)


def test_a_card_s_names_are_as_many_as_its_classes_and_those_of_its_file(run: RunFolder, tmp_path: Path) -> None:
    card = card_of(run, tmp_path, class_names=["ant", "bee", "bee", "dog"])
    with pytest.raises(MmardError, match="has 3 different class_names, expected 4"):
        known_of(card, "it")
    card = card_of(run, tmp_path, class_names=NAMES)
    save_weights(tmp_path / "w.safetensors", load_weights(run.best_file), {"classes": list(OTHER)})
    with pytest.raises(
        MmardError, match=r"other class_names .ant, bee, cat, dog ....* than its file says .dog, ant, cat, bee"
    ):
        known_of(card, "it")


def test_an_exported_model_keeps_its_order(run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from mmard.api.export import export
    from mmard.models.onnx_runtime import need_onnx

    try:
        need_onnx()
    except MmardError:
        pytest.skip("no onnxscript")
    right = mmard.evaluate(run, "none", examples=0).accuracy("clean")
    with pytest.warns(UserWarning, match=ORDER):
        delivery = export(run.path, tmp_path / "m.onnx", **places["other"])
    assert delivery.metadata["classes"] == list(NAMES)
    with pytest.warns(UserWarning, match=ORDER):
        scores = mmard.evaluate(tmp_path / "m.onnx", "none", examples=0, surrogate=str(run.path), **places["other"])
    assert scores.accuracy("clean") == right
    save_weights(tmp_path / "surrogate.safetensors", load_weights(run.best_file), {"classes": list(OTHER)})
    with pytest.raises(MmardError, match=r"its float surrogate .* know the same classes in different orders"):
        mmard.evaluate(
            tmp_path / "m.onnx", "none", examples=0, surrogate=str(tmp_path / "surrogate.safetensors"), **places["same"]
        )


def test_an_old_run_on_grey_data_keeps_its_three_channels(
    run: RunFolder, places: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """Its settings know no ``data.channels``; the weights do."""
    settings = read_settings(None, {"data.name": "parquet"}).resolved()
    settings["data"] |= {key.removeprefix("data__"): value for key, value in places["grey"].items()}
    del settings["data"]["channels"]
    old = tmp_path / "old.safetensors"
    save_weights(old, load_weights(run.best_file), {"classes": list(NAMES), "settings": settings})
    with pytest.warns(UserWarning, match="grey images become three equal channels, which an adversary may colour"):
        assert len(mmard.evaluate(old, "fgsm", examples=0, **places["grey"]).correct) == 48
    new = mmard.train(out=str(tmp_path / "new"), **QUICK | {"train__epochs": 1}, **places["grey"])
    assert load_weights(new.best_file).architecture.channels == 1
    with pytest.raises(MmardError, match=r"1 channels, the data 4 and 3; data.channels=1 makes all images grey"):
        mmard.evaluate(new, "none", examples=0, **places["same"])
    assert len(mmard.evaluate(new, "none", examples=0, data__channels=1, **places["same"]).correct) == 48
