"""The page of a study: what it says, that it needs nothing but itself, and that a browser draws its plots."""

import csv
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from pathways_lite.comparison.compare import Arm, Comparison
from pathways_lite.comparison.curves import Curve
from pathways_lite.errors import UserError
from pathways_lite.intervals import Interval
from pathways_lite.studies.figures import layout_nodes
from pathways_lite.studies.index import write_study_index
from pathways_lite.studies.plan import StudyPlan, plan_study
from pathways_lite.studies.report import gather_findings, verdict, verdict_sentence, write_report
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study
from pathways_lite.tracking.report import render as render_report
from pathways_lite.tracking.run_data import read_run


@pytest.fixture(scope="module")
def plan(study: Study, store: StudyStore) -> StudyPlan:
    return plan_study(study, store.path)


@pytest.fixture(scope="module")
def written(plan: StudyPlan) -> list[Path]:
    return write_report(gather_findings(plan, ["rates.py"]))


def test_the_page_says_all_it_should(written: list[Path], plan: StudyPlan) -> None:
    html = written[0].read_text()
    for text in (
        "Which rate is &lt;best&gt;?", "Finished.", "fast", "poems", "tales", "AlgoPerf score", "total, each node once",
        "with one run each", "pathways-lite study run rates.py", "perplexity per byte", "jax",
    ):  # fmt: skip
        assert text in html
    for identity in plan.nodes:
        assert f"nodes/{identity}/report.html" in html
    addresses = re.findall(r'(?:href|src|srcset)="([^"]*)"', html)
    assert all(a.startswith("data:image/svg+xml;base64,") or "://" not in a for a in addresses)
    assert "<script" not in html
    assert "url(" not in html


def test_the_account_counts_a_shared_stage_once(written: list[Path], plan: StudyPlan) -> None:
    """Each arm: trunk and tail, 10 steps; all in all trunk and two tails, 14."""
    rows = re.findall(
        r"<th scope=row>(slow|fast|total, each node once)</th><td class=number>(\d+)</td>", _cost(written)
    )
    assert rows == [("slow", "10"), ("fast", "10"), ("total, each node once", "14")]


def _cost(written: list[Path]) -> str:
    return written[0].read_text().partition("What it cost")[2]


def test_arms_are_compared_with_any_of_them(study: Study, plan: StudyPlan) -> None:
    other = next(arm for arm in study.arms if arm != study.baseline)
    results = gather_findings(replace(plan, study=study.with_baseline(other)), ["rates.py"]).results
    assert results is not None
    assert [(c.arm, c.baseline) for c in results.comparisons] == [(study.baseline, other)]
    with pytest.raises(UserError, match=r"has no arm 'none'\. There are"):
        study.with_baseline("none")


def test_the_numbers_are_there_for_other_programs(written: list[Path], plan: StudyPlan) -> None:
    """They are the page's, for all of the text and for each domain."""
    rows = list(csv.DictReader(written[1].open()))
    assert [row["held_out"] for row in rows] == ["", "", "poems", "poems", "tales", "tales"]
    html = written[0].read_text()
    for baseline, other in zip(rows[::2], rows[1::2], strict=True):
        assert baseline["arm"] == baseline["baseline"] == other["baseline"] == plan.study.baseline
        assert baseline["difference"] == ""
        assert f"{float(baseline['loss']):.4f}" in html
        assert f"{float(other['difference']):+.4f}" in html
        at_end = float(other["loss"]) - float(baseline["loss"])
        assert float(other["difference"]) == pytest.approx(at_end, rel=1e-6)  # their budgets are equal
        assert other["low"] == ""  # of one run each nothing is known


def test_figures_are_written_as_png_and_svg(written: list[Path]) -> None:
    names = {path.name for path in written[2:]}
    kinds = ("differences", "loss_flops", "loss_tokens", "loss_seconds", "lineage")
    assert names == {f"{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")}
    for path in written[2:]:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_the_picture_of_differences_says_what_its_lines_are(written: list[Path]) -> None:
    svg = next(path for path in written if path.name == "differences.svg").read_text()
    assert "difference of the means" in svg
    assert "the baseline, " in svg


def test_stages_that_start_from_nothing_have_no_lineage(study: Study, store: StudyStore, tmp_path: Path) -> None:
    alone = {name: tuple(r.copy_unchecked(stages=r.stages[:1]) for r in rs) for name, rs in study.arms.items()}
    arms = {name: tuple(r.model_copy(update={"seed": i}) for r in rs) for i, (name, rs) in enumerate(alone.items())}
    old = tmp_path / "figures" / "lineage.png"
    old.parent.mkdir()
    old.touch()
    files = write_report(gather_findings(plan_study(study.copy_unchecked(arms=arms), tmp_path), ["rates.py"]))
    assert not old.exists()
    assert not any(path.name.startswith("lineage") for path in files)
    assert "No stage starts from another one: all 2 are trained from their own start." in files[0].read_text()


def test_the_page_of_a_node_says_which_it_is(study: Study, store: StudyStore) -> None:
    write_study_index(study, store)
    for identity, node in store.nodes.items():
        run = read_run(store.run_directory(identity).path)
        assert run.title == f"{node.recipe.name}: {node.label}"
        assert f"<h1>{run.title}</h1>" in render_report(run)


def test_a_study_not_started_has_a_page(study: Study, tmp_path: Path) -> None:
    plan = plan_study(study, tmp_path)
    html = write_report(gather_findings(plan, ["rates.py"]))[0].read_text()
    assert "0 of 3 nodes are done" in html
    assert "Nothing can be compared yet" in html


def test_failures_are_on_the_page_with_their_reason(study: Study, tmp_path: Path) -> None:
    store = plan_study(study, tmp_path).store
    trunk, *_ = store.nodes
    store.prepare(trunk)
    store.output_path(trunk).write_text("step 1\nerror: the <disk> is full\n")
    store.record_failure(trunk, 2)
    html = write_report(gather_findings(plan_study(study, tmp_path), ["rates.py"]))[0].read_text()
    assert "exit status 2: error: the &lt;disk&gt; is full" in html
    assert html.count("waits for a failed node") == 2


def test_a_parent_stands_in_the_middle_of_what_starts_from_it(store: StudyStore) -> None:
    trunk, slow, fast = store.nodes
    assert layout_nodes(store.nodes) == {trunk: (0, 0.5), slow: (1, 0), fast: (1, 1)}


def test_a_verdict_is_no_surer_than_its_interval() -> None:
    unsure = Comparison(
        "new", "old", 1e12, 3.0, difference=Interval(-0.1, -0.2, -0.05), t_interval=Interval(-0.1, -0.3, 0.1),
        speedup=Interval(0.1), area=Interval(-0.1), paired=True, max_flops_ratio=1.0,
        p_value=0.2, by_student=False, progress=(1.0, 1.0),
    )  # fmt: skip
    assert "do not decide the question" in verdict_sentence(unsure)
    sure = replace(unsure, t_interval=Interval(-0.1, -0.2, -0.05), p_holm=0.02, comparisons=10)
    assert verdict_sentence(sure).endswith(
        "zero is outside the 95% interval by Student's t, -0.1000 [-0.2000, -0.0500]."
    )
    many = verdict_sentence(replace(sure, p_holm=0.2))
    assert "not after Holm's correction for 10 comparisons (p = 0.2): these runs do not decide" in many
    assert "it is unknown whether other seeds" in verdict_sentence(replace(unsure, t_interval=Interval(-0.1)))
    assert math.isnan(Interval(0.0).low)


def test_a_browser_draws_the_plots(written: list[Path], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    command = [browser, *flags, "--window-size=900,3000", f"--screenshot={picture}", written[0].as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = (image.imread(picture)[..., :3] * 255).round().astype(int)
    # The second arm's color is nowhere on the page but in the plots.
    orange = np.abs(pixels - np.array([0xC0, 0x4A, 0x00])).max(axis=-1) <= 2
    rows = np.flatnonzero(orange.sum(axis=1) > 3)
    assert orange.sum() > 500, "lines are drawn"
    assert rows[-1] - rows[0] > 800, "in all three plots"


def test_a_missing_domain_is_reported(study: Study, store: StudyStore) -> None:
    metric = study.metric.model_copy(update={"domain": "verse"})
    with pytest.raises(UserError, match="There are: poems, tales"):
        gather_findings(plan_study(study.model_copy(update={"metric": metric}), store.path), ["rates.py"])


def test_a_verdict_between_unequal_budgets_says_so_and_how_the_runs_end() -> None:
    """Longer training: worse in the middle of its schedule, where the shorter run ends, and better at its own end."""
    arms = [
        Arm(name, (Curve(name, 0, np.array([1e12, flops]), np.ones(2), np.ones(2), np.array([4.0, loss])),))
        for name, flops, loss in (("old", 2e12, 3.0), ("new", 3.42e12, 2.884))
    ]
    c = Comparison(
        "new", "old", 2e12, 3.0, difference=Interval(0.0351), t_interval=Interval(0.0351), p_value=None,
        speedup=Interval(-0.1), area=Interval(0.1), paired=True, by_student=True, max_flops_ratio=1.71,
        progress=(1.0, 1.0),
    )  # fmt: skip
    told = verdict(c, arms)
    assert "0.0351 higher" in told
    assert "factor of up to 1.71" in told
    assert "At the ends of the runs, after different FLOPs, the loss of new is 0.1160 lower." in told
    assert verdict(replace(c, max_flops_ratio=1.0), arms) == verdict_sentence(c)
