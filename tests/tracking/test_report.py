import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.errors import UserError
from pathways_lite.tracking import plots, report
from pathways_lite.tracking.log import RunLog
from pathways_lite.tracking.plot_style import style
from pathways_lite.tracking.plots import curves_svg, save_curves
from pathways_lite.tracking.report import _verdict, write_report
from pathways_lite.tracking.run_data import read_run, smooth

VOID = {"meta", "img", "source", "br", "link"}


class Checker(HTMLParser):
    """Collects the text and every address of a page, and asserts that its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed", "link", "b"), f"<{tag}> has no place in a report"
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def check(page: Path) -> Checker:
    checker = Checker()
    html = page.read_text()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    assert all(
        address.startswith("data:image/svg+xml;base64,") or "://" not in address for address in checker.addresses
    )
    assert "@import" not in html
    assert "url(" not in html
    return checker


@pytest.fixture(scope="module")
def page(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Checker:
    return check(write_report(run_dir, tmp_path_factory.mktemp("page") / "report.html"))


def test_the_page_says_all_it_should(page: Checker) -> None:
    for text in (
        "5.81 M parameters", "3.69 M training tokens", "On code the model beats xz -9: 1.268 against 1.631",
        "On prose the model does not beat xz -9: 2.404 against 2.205", "all held-out text together", "gzip -9",
        "zstd -19", "goodput", "pathways-lite train configs/demo.py run=<new>", "3.12.3", "resume", "skip",
        "of the machine's matmul peak of 210 GFLOP/s",
    ):  # fmt: skip
        assert text in page.text


def test_the_text_of_the_run_is_shown_and_never_executed(page: Checker) -> None:
    assert "def add(a, b):\n    return a < b & '<script>'\n" in page.text
    assert "the loss was not finite <b>" in page.text


def test_all_domains_together_are_one_text(page: Checker) -> None:
    bits = (290_000 + 350_000) / (np.log(2) * (330_000 + 210_000))
    xz = (1.631 * 330_000 + 2.205 * 210_000) / (330_000 + 210_000)
    assert f"{bits:.4f}" in page.text
    assert f"{xz:.4f}" in page.text


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the page's words: drawing takes seconds."""
    for draw in ("curves_svg", "speed_svg"):
        monkeypatch.setattr(report, draw, lambda *_: "<svg></svg>")


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


@pytest.mark.usefixtures("no_figures")
def test_losses_of_denoisers_have_their_own_table(copy: Path) -> None:
    with RunLog(copy / "tail") as log:
        log.row(
            "eval", 10_000, domains={}, denoisers={"spans_3_0.15": {"loss": 2.71828, "tokens": 12_345, "unused": 0.0}}
        )
    text = check(write_report(copy, copy / "report.html")).text
    for word in ("spans_3_0.15", "2.7183", "12,345", "comparable neither with each other nor with the causal loss"):
        assert word in text


def test_a_run_in_progress_has_a_page(copy: Path) -> None:
    (copy / "tail" / "summary.json").unlink()
    (copy / "tail" / "ledger.json").unlink()
    log = copy / "tail" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-10])
    text = check(write_report(copy)).text
    assert "Not finished: stage tail was at step 300" in text
    assert "On code the model beats xz" in text


def test_a_run_not_started_has_a_page(copy: Path) -> None:
    for stage in ("base", "tail"):
        shutil.rmtree(copy / stage)
    assert "Not started." in check(write_report(copy)).text


@settings(max_examples=30)
@given(data=st.data())
def test_a_run_cut_off_anywhere_is_read(
    data: st.DataObject, run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("cut") / "run"))
    for path in sorted(copy.glob("*/*.json*")):
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content)), label=path.name)])
    run = read_run(copy)
    assert [stage.name for stage in run.stages] == ["base", "tail"]
    for problem in run.problems:
        assert re.search(r"(summary|ledger)\.json", problem), "a log cut off is no problem"


@pytest.mark.usefixtures("no_figures")
def test_damaged_files_are_listed_on_the_page(copy: Path) -> None:
    (copy / "tail" / "summary.json").write_text("{")
    (copy / "base" / "log.jsonl").write_text("[]\n")
    text = check(write_report(copy)).text
    assert "Files that could not be read" in text
    assert "log.jsonl:1 is not a row" in text


@pytest.mark.parametrize(
    "content",
    [
        {"step": "x", "domains": 3},
        {"domains": {"code": {"loss": "x"}}},
        {"domains": {"code": {"loss": 1.0}}},
        {"samples": 5},
        {"compressors": {"code": [1]}},
        {"environment": None},
    ],
)
@pytest.mark.usefixtures("no_figures")
def test_a_summary_of_wrong_types_is_a_problem_and_no_crash(copy: Path, content: dict[str, Any]) -> None:
    (copy / "tail" / "summary.json").write_text(json.dumps(content))
    assert not read_run(copy).stages[-1].is_finished
    assert f"summary.json is not read: {next(iter(content))}" in check(write_report(copy)).text


@pytest.mark.usefixtures("no_figures")
def test_samples_say_which_step_wrote_them(copy: Path) -> None:
    assert "Written after step 300 of stage tail." in check(write_report(copy)).text
    summary = json.loads((copy / "tail" / "summary.json").read_text())
    (copy / "tail" / "summary.json").write_text(json.dumps(summary | {"samples": []}))
    text = check(write_report(copy)).text
    assert "Written after step 600 of stage base. Nothing was written after tail." in text


@pytest.mark.usefixtures("no_figures")
def test_compressors_are_those_of_the_same_text(copy: Path) -> None:
    assert "beats xz -9" in check(write_report(copy)).text
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe["stages"][1]["data"]["fingerprint"] = "another corpus"
    (copy / "recipe.json").write_text(json.dumps(recipe))
    summary = json.loads((copy / "tail" / "summary.json").read_text())
    (copy / "tail" / "summary.json").write_text(json.dumps(summary | {"compressors": {}}))
    assert "xz -9" not in check(write_report(copy)).text.split("How it learned")[0]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run directory"):
        write_report(tmp_path)


def test_curves_are_written_as_png_and_svg(run_dir: Path, tmp_path: Path) -> None:
    run = read_run(run_dir)
    save_curves(run, tmp_path / "loss.png", tmp_path / "loss.svg")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "loss.svg").read_text()
    assert curves_svg(run, "light") == curves_svg(run, "light"), "the same run gives the same file"


def test_weights_of_domains_that_a_proxy_learns_have_a_panel(copy: Path) -> None:
    panels = lambda: curves_svg(read_run(copy), "light").count('id="axes_')  # noqa: E731
    before = panels()
    with RunLog(copy / "tail") as log:
        alpha = {"code": 0.75, "prose": 0.25}
        counts = {"tokens": 10**8, "flops": 10**16}
        log.row("train", 10_000, **counts, loss=2.5, domain_weights=alpha, average_domain_weights=alpha)
    assert panels() == before + 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(0, 10))
def test_smoothing_is_a_centered_mean(values: list[float], half: int) -> None:
    smoothed = smooth(np.array(values), 2 * half + 1)
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        assert smoothed[i] == pytest.approx(np.mean(values[i - reach : i + reach + 1]), abs=1e-8)


@pytest.mark.usefixtures("no_figures")
def test_a_browser_shows_the_page(run_dir: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    page, picture = write_report(run_dir, tmp_path / "report.html"), tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    command = [browser, *flags, "--window-size=400,3000", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_recipe_is_on_the_page_as_it_was_read(page: Checker, run_dir: Path) -> None:
    recipe = json.loads((run_dir / "recipe.json").read_text())
    assert json.dumps(recipe, indent=2) in page.text


def test_a_result_of_few_documents_says_so() -> None:
    result = {"bits_per_byte": 2.0, "bytes": 22_000, "documents": 1}
    assert _verdict("novels", result, {"xz -9": 3.0}).startswith("On novels (1 document only, 22 kB) the model beats")
    many = result | {"documents": 5}
    assert _verdict("novels", many, {"xz -9": 3.0}).startswith("On novels the model beats")


def test_the_curve_is_the_mean_since_the_row_before_as_progress_shows_it(run_dir: Path, tmp_path: Path) -> None:
    """A single batch's loss is mostly noise; logs of before the mean show that."""
    run = shutil.copytree(run_dir, tmp_path / "run")
    log = run / "base" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    train = [row for row in rows if row["kind"] == "train"]
    train[0]["mean_loss"], train[1]["mean_loss"] = 7.25, "NaN"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with style("light") as palette:
        drawn = plots._draw_curves(read_run(run), palette).axes[0].lines[0].get_ydata()
    assert list(drawn[:3]) == [7.25, train[1]["loss"], train[2]["loss"]]
