"""What stands beside the code: the version, the container, forms for issues, and that CI skips no test."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import mmard
from mmard.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_one() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.findall(r"^## (\d\S*) – (\S+)$", changelog, re.M)[0]
    assert (mmard.__version__, str(citation["date-released"])) == newest
    assert PROJECT["version"] == citation["version"] == mmard.__version__


def test_the_readme_counts_the_methods() -> None:
    (count,) = re.findall(r"There are (\d+)\s+methods", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert int(count) == len(METHODS)


def test_the_container_installs_extras_that_there_are() -> None:
    asked = re.findall(r"/src\[([\w,]+)\]", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert asked
    assert set(",".join(asked).split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_pins_of_torchvision_stand_in_one_file() -> None:
    pins = (ROOT / ".ci/torchvision.txt").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+)==\d", pins, re.M) == ["torch", "torchvision"]
    for name in (".ci/run", ".ci/dist.py", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "-r .ci/torchvision.txt" in text, name
        assert not re.search(r"torch(vision)?==\d", text), name


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda form: form.stem
)
def test_a_form_asks_for_versions_or_a_paper(form: Path) -> None:
    asked = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert asked.keys() == {"name", "description", "labels", "body"}
    assert {"versions", "paper"} & {field["id"] for field in asked["body"] if field.get("validations")}
    assert all({"label"} <= field["attributes"].keys() for field in asked["body"])


SKIPPING = {
    "test_some.py": """
import pytest

def test_passes(): pass

def test_skips(): pytest.skip("a word")

@pytest.mark.xfail
def test_is_known_to_fail(): assert False
""",
    "test_all.py": "import pytest\npytest.importorskip('no_such_package')\n",
}


def test_what_skips_fails_where_asked(tmp_path: Path) -> None:
    for name, text in SKIPPING.items():
        (tmp_path / name).write_text(text)
    call = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", ROOT / "pyproject.toml", "--no-skips", tmp_path]
    call += ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed, 1 xfailed, 1 error" in done.stdout
    assert "--no-skips: Skipped: a word" in done.stdout
    assert "no_such_package" in done.stdout
