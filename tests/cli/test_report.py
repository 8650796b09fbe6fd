"""`mmard report`: the page from real and hand-made runs, its words for wrong input, and the page in a browser."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from handmade import judge, make_run, scores, verdicts
from helpers import QUICK, Run

from mmard.cli.report import report_of
from mmard.evaluation.scores import Scores

BEST = scores(verdicts([1] * 9 + [0], [1] * 5 + [0] * 5))
WORSE = scores(verdicts([1] * 7 + [0] * 3, [1] * 3 + [0] * 7))


class Page(HTMLParser):
    """Whether every tag is closed, what the page would fetch, and what has no words for those who do not see it."""

    VOID = ("meta", "link", "img", "br", "path", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.speechless: list[str] = []
        self.seen: list[str] = []
        self.names: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.seen.append(tag)
        self.names += [given["id"]] if given.get("id") else []
        if tag not in self.VOID:
            self.open.append(tag)
        for key in ("src", "href"):
            if (value := given.get(key)) and not value.startswith(("data:", "#")):
                self.outside.append(value)
        if (tag == "img" and not given.get("alt")) or (given.get("role") == "img" and not given.get("aria-label")):
            self.speechless.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.handle_starttag(tag, attrs)
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID and self.open[-1] != tag:
            return
        assert self.open.pop() == tag


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two groups, one of them with two seeds."""
    make_run(tmp_path / "study/rslad/seed-0", judged=BEST)
    make_run(tmp_path / "study/rslad/seed-1", judged=WORSE, seed=1)
    make_run(tmp_path / "study/<trades>/seed-0", judged=WORSE, method="trades")
    return tmp_path / "study"


def test_a_run_is_trained_judged_and_reported(mmard: Run, tmp_path: Path, digits_teacher: Path) -> None:
    assert mmard("train", *QUICK, "student=cnn-2-1", "--teacher", digits_teacher, "licence=mit").returncode == 0
    card = (tmp_path / "runs/run/README.md").read_text()
    assert "license: mit" in card
    assert "Not judged on test images yet" in card
    judged = mmard("eval", "runs/run", "--attacks", "fgsm", "--limit", "20", "--curve", "--examples", "3")
    assert judged.returncode == 0, judged.stderr
    assert "FGSM (cross-entropy, 1 step of 0.1, start none; L∞ 0.1)" in (tmp_path / "runs/run/README.md").read_text()
    done = mmard("report", "runs/run", "--also", "md,tex,csv")
    assert done.returncode == 0, done.stderr
    assert "not there yet, of 1 run: where its examples lie" in done.stdout
    text = (tmp_path / "runs/run/report.html").read_text()
    for words in (
        "Accuracy against eps",
        "least robust class",
        "peak memory, MiB",
        "inner: max",
        "mmard diagnose runs/run",
    ):
        assert words in text, words
    page = Page(text)
    assert (page.open, page.outside, page.speechless) == ([], [], [])
    assert page.seen.count("img") == 9
    assert len(page.names) == len(set(page.names)) > 8
    rows = json.loads((tmp_path / "runs/run/eval/best_FGSM_20-images/scores.json").read_text())["attacks"]
    shown = f"{rows[-1]['accuracy']:.1f} ({rows[-1]['low']:.1f}–{rows[-1]['high']:.1f})"
    assert shown in re.sub(r"</?span>", "", text)
    assert shown in (tmp_path / "runs/run/report.md").read_text()
    assert shown.replace("–", "--") in (tmp_path / "runs/run/report.tex").read_text()
    assert "worst case, % low" in (tmp_path / "runs/run/report.summary.csv").read_text()


def test_report_and_card_tell_the_look_at_the_teacher_and_the_extensions(
    mmard: Run, tmp_path: Path, digits_teacher: Path
) -> None:
    words = ["train", *QUICK[:-1], "student=cnn-2-1", "--teacher", digits_teacher]
    assert mmard(*words, "train.epochs=1").returncode == 0
    done = mmard("train", "--resume", *words[1:], "--extend")
    assert done.returncode == 0, done.stderr
    assert mmard("report", "runs/run").returncode == 0
    (entry,) = json.loads((tmp_path / "runs/run/history.json").read_text())
    found = json.loads((tmp_path / "runs/run/teachers.json").read_text())["teacher"]
    looked = f"eacher: clean {found['clean']:.1f} %"
    extended = f"xtended at epoch 1: train.epochs 1 → 2; learning rate {entry['lr'][0]:.3g} → {entry['lr'][1]:.3g}"
    for file in ("README.md", "report.html"):
        text = (tmp_path / "runs/run" / file).read_text()
        assert (text.count(looked), text.count(extended)) == (1, 1), file


@pytest.mark.parametrize("name", ["history.json", "teachers.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"teacher": {"clean": "high"}}', '[{"epoch": 1}]'])
def test_a_record_that_cannot_be_told_is_a_line(name: str, text: str, mmard: Run, study: Path) -> None:
    (study / "rslad/seed-0" / name).write_text(text)
    done = mmard("report", "study")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("left out:") and name in line]


def test_the_command_that_is_named_fills_the_gap(mmard: Run, tmp_path: Path, digits_teacher: Path) -> None:
    assert mmard("train", *QUICK, "student=cnn-2-1", "--teacher", digits_teacher).returncode == 0
    how = ["--attacks", "fgsm,square", "--limit", "20", "--seed", "3", "threat.eps=4/255", "data.limit=200"]
    assert mmard("eval", "runs/run/last.safetensors", *how).returncode == 0
    (folder,) = (tmp_path / "runs/run/eval").iterdir()
    found = Scores.load(folder)
    replace(found, labels=None).save(folder)  # as old files are
    (gap,) = [part for part in report_of([Path("runs/run")]).missing() if part.what == "accuracy by class"]
    done = mmard(*shlex.split(gap.command)[1:])
    assert done.returncode == 0, done.stderr
    assert [*(tmp_path / "runs/run/eval").iterdir()] == [folder]
    assert "accuracy by class" not in [part.what for part in report_of([Path("runs/run")]).missing()]


def test_words_of_files_are_escaped_and_the_page_is_small(mmard: Run, study: Path) -> None:
    make_run(
        study / "x/seed-0", judged=BEST, about="<script>alert(1)</script>", student='"><img src=x onerror=alert(1)>'
    )
    assert mmard("report", "study", "--title", "<i>mine", "--out", "mine/page.html").returncode == 0
    text = (study.parent / "mine/page.html").read_text()
    page = Page(text)
    assert page.seen.count("script") == 1
    assert "i" not in page.seen
    assert page.outside == []
    assert "&lt;trades&gt;" in text
    assert len(text) < 300_000


def test_a_broken_file_is_a_line_and_the_rest_is_shown(mmard: Run, study: Path) -> None:
    (study / "rslad/seed-1/eval/best_PGD-20/scores.json").write_text('{"attacks": [')
    (study / "rslad/seed-0/eval/best_PGD-20/verdicts.safetensors").write_bytes(b"\0" * 20)
    (study / "rslad/seed-0/metrics.jsonl").write_bytes(
        b"\xff\xfe\n\xff\n"
    )  # the last may be what a kill left of a line
    (study / "results.json").write_text("[]")
    done = mmard("report", "study")
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stdout.splitlines() if line.startswith("left out:")]
    assert len(left_out) == 3
    assert "50.0" in (study / "report.html").read_text()


def test_a_run_that_cannot_be_read_is_left_out_and_one_named_twice_counts_once(mmard: Run, study: Path) -> None:
    (study / "rslad/seed-1/settings.yaml").write_text("a: [")
    record = (study / "rslad/seed-0/metrics.jsonl").read_text().splitlines()[-1]
    with (study / "rslad/seed-0/metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({**json.loads(record), "robust": "high", "clean": "higher"}) + "\n")
    words = [study / "rslad/seed-0", study / "rslad/seed-0", study / "rslad/seed-1"]
    done = mmard("report", *words, "--out", "both.html")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert "settings.yaml is no YAML" in done.stderr
    assert "1 run." in (study.parent / "both.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "there is no folder nowhere; expected a run folder or a study's"),
        (["empty"], "there is no run in empty"),
        (["study", "--also", "mdx"], "unknown kind of table 'mdx'; did you mean md?"),
        (["study", "--out", "empty"], "empty is a folder; expected a file"),
        (["odd"], "settings.yaml is no YAML"),
        (["list"], "holds a list, expected keys and values"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], expected: str, mmard: Run, study: Path) -> None:
    for name, text in (("empty", None), ("odd", "a: [b"), ("list", "- 1")):
        (study.parent / name).mkdir()
        if text is not None:
            (study.parent / name / "settings.yaml").write_text(text)
    done = mmard("report", *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr


def test_a_curve_without_a_radius_is_refused_before_the_attacks(mmard: Run, digits_teacher: Path) -> None:
    done = mmard("eval", digits_teacher, "--attacks", "none", "--curve", "threat.eps=0")
    assert done.returncode == 2
    assert "eps is 0" in done.stderr
    assert not list(digits_teacher.parent.glob("eval/*eps-0/scores.json"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser tests need selenium")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("the browser tests need chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def column(browser: Any, n: int) -> list[str]:
    script = "return [...document.querySelectorAll('#table-summary tbody tr')].map(row => row.cells[arguments[0]].textContent)"
    return list(browser.execute_script(script, n))


def test_in_a_browser_it_renders_sorts_by_key_and_changes_its_theme(browser: Any, mmard: Run, study: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    assert mmard("report", "study").returncode == 0
    browser.get(f"file://{study / 'report.html'}")
    assert browser.title == "study"
    assert column(browser, 0) == ["<trades>", "rslad"]
    robust = browser.find_elements("css selector", "#table-summary th button")[3]
    head = robust.find_element("xpath", "..")
    for sort, order in (("descending", ["rslad", "<trades>"]), ("ascending", ["<trades>", "rslad"])):
        robust.send_keys(Keys.ENTER)  # the keyboard is enough
        assert head.get_attribute("aria-sort") == sort
        assert column(browser, 0) == order
    name = browser.find_elements("css selector", "#table-summary th button")[0]
    name.send_keys(Keys.SPACE)
    assert head.get_attribute("aria-sort") is None
    paper = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for theme in ("light", "dark"):
        browser.find_element("id", "theme").click()
        assert browser.find_element("id", "theme").text == f"Theme: {theme}"
        seen.append(browser.execute_script(paper))
    assert seen[0] == "rgb(255, 255, 255)"
    assert seen[1] != seen[0]
    charts = browser.find_elements("css selector", "svg.chart")
    assert len(charts) >= 6
    assert all(chart.size["height"] > 100 for chart in charts if chart.is_displayed())
    assert [line for line in browser.get_log("browser") if line["level"] != "DEBUG"] == []


def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Any, mmard: Run, study: Path) -> None:
    assert mmard("report", "study").returncode == 0
    size = {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{study / 'report.html'}")
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_first_tab_leads_past_the_links(browser: Any, mmard: Run, study: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    assert mmard("report", "study").returncode == 0
    browser.get(f"file://{study / 'report.html'}")
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("href").endswith("#main")
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "theme"


TABLES = """return [...document.querySelectorAll("table")].map(table => ({
  name: table.id,
  cut: Math.max(table.getBoundingClientRect().right, ...[...table.rows].flatMap(row => [...row.cells]).map(
    cell => cell.getBoundingClientRect().left + cell.scrollWidth)) - table.parentNode.getBoundingClientRect().right,
  first: [table.querySelector("thead .number"), table.querySelector("td.number")].filter(Boolean).map(
    cell => [cell.textContent, cell.getBoundingClientRect().right]),
  right: table.parentNode.getBoundingClientRect().right,
}))"""


def wide(at: Path) -> None:
    """A run of a long name, judged by all the usual attacks."""
    make_run(at, method="trades", seed=int(at.name[-1]))
    judge(at, "best", "FGSM", "PGD-20", "C&W", "AutoAttack")


@pytest.mark.parametrize(("width", "phone"), [(390, True), (1280, False)])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_headline_is_seen_on_a_phone_and_no_column_is_cut_off_on_a_desk(
    width: int, phone: bool, theme: str, seeds: int, browser: Any, mmard: Run, tmp_path: Path
) -> None:
    for method in ("mmard(inner=entropy, outer=contrast, beta=2)", "rslad", "trades"):
        for seed in range(seeds):
            wide(tmp_path / "study" / method / f"seed-{seed}")
    assert mmard("report", "study").returncode == 0
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
    try:
        browser.get(f"file://{tmp_path / 'study/report.html'}")
        browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        found = {table["name"]: table for table in browser.execute_script(TABLES)}
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert {"table-summary", "table-runs", "table-cost"} <= found.keys()
    for name in ("table-summary", "table-runs"):
        (head, _), (figure, _) = found[name]["first"]
        assert head.startswith("worst case, %")
        assert figure.startswith("50.0")
        assert all(right <= found[name]["right"] for _, right in found[name]["first"]), found[name]
    if not phone:
        assert {name: table["cut"] for name, table in found.items() if table["cut"] > 0.5} == {}
