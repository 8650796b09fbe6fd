"""Model cards, as the hub's own client reads them."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from handmade import judge, make_run, scores, verdicts

from mmard.report.card import MARK, licence_of, write_card
from mmard.utils.trust import Trust

hub = pytest.importorskip("huggingface_hub")
VERDICTS = scores(verdicts([1] * 9 + [0], [1] * 5 + [0] * 5))


def test_the_hub_reads_the_figures_with_their_attack(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a: b", judged=VERDICTS, licence="MIT")
    assert write_card(run, "inner: max  KL\nouter: min  KL")
    card = hub.ModelCard.load(run / "README.md")
    data = card.data
    assert (data.license, data.datasets, data.metrics, data.model_name) == ("mit", ["digits"], ["accuracy"], "a: b")
    assert {"adversarial-robustness", "rslad"} <= set(data.tags)
    found = {r.metric_name: r.metric_value for r in data.eval_results}
    name = "Accuracy, PGD-20 (cross-entropy, 20 steps of 2/255, start uniform; L∞ 8/255), 10 test images"
    assert found[name] == 50
    assert found["Accuracy, clean, 10 test images"] == 90
    assert {r.dataset_name for r in data.eval_results} == {"digits"}
    for words in ("runs/teacher", "L∞ 8/255", "Judged without AutoAttack", "outer: min  KL", "start uniform"):
        assert words in card.text, words
    assert yaml.safe_load(hub.ModelCardData(**data.to_dict()).to_yaml())


def test_a_run_that_is_not_judged_has_a_card_without_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    write_card(run)
    meta = hub.metadata_load(run / "README.md")
    assert "model-index" not in meta
    assert meta["license"] == "unknown"
    assert "Not judged on test images yet" in (run / "README.md").read_text()


def test_a_readme_of_somebody_elses_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "README.md").write_text("mine")
    assert not write_card(run)
    assert (run / "README.md").read_text() == "mine"
    (run / "README.md").write_text(f"{MARK} old")
    assert write_card(run)
    assert "old" not in (run / "README.md").read_text().split(MARK)[1][:10]


def test_a_licence_that_the_hub_does_not_know_has_its_name() -> None:
    assert licence_of({"licence": "Apache-2.0"}) == {"license": "apache-2.0"}
    assert licence_of({"licence": "Ours 1.0"}) == {"license": "other", "license_name": "Ours 1.0"}
    assert licence_of({}) == {"license": "unknown"}


def test_the_teachers_card_says_its_licence(tmp_path: Path) -> None:
    teacher = tmp_path / "t.json"
    teacher.write_text('{"architecture": "wrn-34-10", "classes": 10, "licence": "MIT", "source": "the TRADES authors"}')
    run = make_run(tmp_path / "a", teacher=str(teacher))
    write_card(run)
    assert "TRADES" not in (run / "README.md").read_text()  # a folder may name any file
    Trust().must_allow_place(str(teacher), "teacher")  # as training with it does
    write_card(run)
    assert "(wrn-34-10, the TRADES authors, licence MIT)" in (run / "README.md").read_text()


def test_an_evaluation_without_attacks_claims_no_worst_case(tmp_path: Path) -> None:
    run = make_run(tmp_path / "seed-1", judged=VERDICTS)
    clean = scores(verdicts([1] * 9 + [0], [1] * 10))
    replace(clean, correct=clean.correct[:, :1], attacks=("clean",), details=("no attack",), seconds=(1.0,)).save(
        run / "eval/best_clean"
    )
    write_card(run)
    data = hub.ModelCard.load(run / "README.md").data
    assert data.model_name.endswith("-seed-1")  # a cell of a study is called after its folder, too
    assert len([r for r in data.eval_results if r.metric_name.startswith("Accuracy, worst case")]) == 1
    assert len([r for r in data.eval_results if r.metric_name.startswith("Accuracy, clean")]) == 2


def test_each_table_says_which_file_and_which_threat(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best_threat.eps-4-255", "PGD-20", threat="L∞ 4/255", asked={"overrides": {"threat.eps": "4/255"}})
    judge(run, "last", "PGD-20", of="last.safetensors")
    judge(run, "best-int8.onnx", "Square", of="best-int8.onnx", runtime="onnxruntime")
    write_card(run)
    card = hub.ModelCard.load(run / "README.md")
    assert [line for line in card.text.splitlines() if line.startswith("### ")] == [
        "### best-int8.onnx, L∞ 8/255, 10 test images (eval/best-int8.onnx)",
        "### best.safetensors, L∞ 4/255, 10 test images (eval/best_threat.eps-4-255)",
        "### last.safetensors, L∞ 8/255, 10 test images (eval/last)",
    ]
    assert "L∞ 8/255 in training;" in card.text
    assert "in training and in judging" not in card.text
    write_card(other := make_run(tmp_path / "wide", attack={"eps": 10 / 255}))
    assert "L∞ 8/255 in training, its examples made within 10/255;" in (other / "README.md").read_text()
    assert {r.metric_name.rpartition("; ")[2] for r in card.data.eval_results if "PGD-20" in r.metric_name} == {
        "L∞ 4/255), 10 test images"  # the best checkpoint's figures alone are the model's
    }


def test_a_runs_own_test_file_is_no_other_data(tmp_path: Path) -> None:
    """`train.npz` and `test.npz` are one data set, whose name is that of the training file; another test file has its own."""
    files = {"name": "npz", "train": "train.npz", "test": "test.npz"}
    run = make_run(tmp_path / "a", data=files)
    judge(run, "best_own", "PGD-20", settings={"data": files})
    judge(run, "best_other", "PGD-20", settings={"data": {**files, "test": "shifted.npz"}})
    write_card(run)
    data = hub.ModelCard.load(run / "README.md").data
    assert {result.dataset_name for result in data.eval_results} == {"train", "shifted"}
    assert "test images of shifted (eval/best_other)" in (run / "README.md").read_text()
    assert "test images (eval/best_own)" in (run / "README.md").read_text()


def test_figures_that_do_not_stand_are_no_claim_of_the_model(tmp_path: Path) -> None:
    """The checks of the evaluation found an error, and the hub's front matter carried its figures like any other."""
    run = make_run(tmp_path / "a", judged=VERDICTS)
    found = {"name": "norm", "level": "error", "said": "an image was moved too far", "means": "m", "do": "d"}
    judge(run, "best_C-W", "C&W", checks=[found])
    write_card(run)
    card = hub.ModelCard.load(run / "README.md")
    names = [result.metric_name for result in card.data.eval_results]
    assert any("PGD-20" in name for name in names)
    assert not any("C&W" in name for name in names)
    assert card.text.count("These figures do not stand: norm: an image was moved too far.") == 1
    for folder in ("best_PGD-20", "best_C-W"):
        judge(run, folder, "PGD-20", checks=[found])
    write_card(run)
    assert "model-index" not in hub.metadata_load(run / "README.md")
