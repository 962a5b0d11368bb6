"""`judge`: verdicts that continue, a table, a curve that `fit` takes, a page; what it refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from helpers.drawn_samples import Drawn, code_problem, make_samples, sum_problem
from pathways_lite import tasks
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.judging import verdicts as verdict_files
from pathways_lite.judging.problem_file import verifier_of
from pathways_lite.judging.samples import read_samples
from pathways_lite.judging.verdicts import verify_samples
from pathways_lite.scaling.table import read_table

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def facts(*arguments: object) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(run("judge", *arguments, "--json").splitlines()[-1])
    return parsed


def refusal(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, ["judge", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what it finds ----


def test_coverage_and_selections_of_sums(sums: Drawn) -> None:
    """Coverage rises to the share of problems with a right sample, votes do not; right samples have higher scores."""
    found = facts(sums.out)
    table = parquet.read_table(sums.out / "verdicts.parquet").to_pydict()
    correct = np.array(table["correct"]).reshape(24, 32)
    coverage = found["curves"]["coverage"]["value"]
    assert coverage[0] == pytest.approx(correct.mean())
    assert coverage[-1] == correct.any(axis=1).mean()
    assert found["unsolved"] == pytest.approx(1 - coverage[-1])
    assert found["curves"]["majority"]["value"][-1] < coverage[-1]
    assert found["curves"]["best_of_k"]["value"][0] == pytest.approx(coverage[0])
    assert found["curves"]["best_of_k"]["value"][-1] > found["curves"]["majority"]["value"][-1]
    low, high = found["curves"]["coverage"]["low"], found["curves"]["coverage"]["high"]
    assert all(a < b < c for a, b, c in zip(low[:-1], coverage[:-1], high[:-1], strict=True))
    assert "weak" not in found


def test_the_table_has_every_curve(sums: Drawn) -> None:
    printed = run("judge", sums.out)
    for word in ("coverage", "majority", "weighted vote", "best of k", "24 problems, 32 samples each"):
        assert word in printed


def test_a_weak_verifier_that_sees_one_test(programs: Drawn) -> None:
    """10 samples, 4 of which pass the first visible test, 3 of these all: the known answers."""
    weak = facts(programs.out, "--weak", "visible:1", "--costs", "0,1,4")["weak"]
    at = {K: (s, f) for K, s, f in zip(weak["K"], weak["solved"], weak["false_positives"], strict=True)}
    assert at[1] == pytest.approx((0.3, 0.1))
    assert at[10] == pytest.approx((0.75, 0.25))
    assert at[5] == pytest.approx((0.732143, 0.244048), abs=1e-6)
    assert weak["single_accuracy"]["value"] == pytest.approx(0.3)
    assert weak["conditional_accuracy"]["value"] == pytest.approx(0.75)
    assert weak["false_positive_rate"]["value"] == pytest.approx(1 / 7)
    assert [best["attempts"] for best in weak["best"]] == [7, 7, 0]  # all 4 of 10 cannot be missed by 7 attempts
    assert weak["best"][1]["reward"] == pytest.approx(0.5)


def test_more_visible_tests_raise_the_ceiling(programs: Drawn) -> None:
    one, two = (facts(programs.out, "--weak", f"visible:{n}")["weak"] for n in (1, 2))
    own = facts(programs.out)["weak"]
    assert one["solved"][-1] == pytest.approx(0.75)
    assert two["solved"][-1] == own["solved"][-1] == 1
    assert two["false_positives"][-1] == 0


def test_problems_without_a_weak_verifier_are_left_out_of_it(tmp_path: Path) -> None:
    drawn = make_samples(tmp_path, [code_problem(0), sum_problem(1)], [["    return double(xs)\n"] * 4, [" 3\n"] * 4])
    found = facts(drawn.out)
    assert (found["problems"], found["weak"]["problems"]) == (2, 1)


def test_problems_with_unequal_numbers_of_samples(tmp_path: Path) -> None:
    """Curves end where a problem has no more samples, and use all samples of the others."""
    drawn = make_samples(tmp_path, [sum_problem(0), sum_problem(1)], [[" 1\n"] * 3, [" 3\n"] * 2 + [" 4\n"] * 6])
    found = facts(drawn.out)
    assert found["k"][-1] == 3
    assert found["curves"]["coverage"]["value"][0] == pytest.approx((1 + 0.25) / 2)


def test_scores_per_token_and_missing_ones(tmp_path: Path) -> None:
    drawn = make_samples(tmp_path, [sum_problem(0)], [[" 1\n", " 2\n"]])
    assert facts(drawn.out, "--score", "mean")["curves"]["best_of_k"]["value"] == [0.5, 1.0]
    part = drawn.out / "part-00000.parquet"
    parquet.write_table(parquet.read_table(part).drop_columns(["logp_model"]), part)
    (drawn.out / "part-00001.parquet").unlink()
    assert set(facts(drawn.out)["curves"]) == {"coverage", "majority"}


def test_scores_are_sums_over_tokens(tmp_path: Path) -> None:
    """Lists of all lengths: some, none, and no list."""
    drawn = make_samples(tmp_path, [sum_problem(0)], [[" 1\n"] * 4])
    part = drawn.out / "part-00000.parquet"
    both = [drawn.out / f"part-0000{i}.parquet" for i in (0, 1)]
    table = pa.concat_tables(map(parquet.read_table, both))
    place = table.schema.get_field_index("logp_model")
    scores = pa.array([[-1.0, -2.5], [], None, [-0.25] * 3], pa.list_(pa.float32()))
    parquet.write_table(table.set_column(place, "logp_model", scores), part)
    both[1].unlink()
    samples = read_samples(drawn.out)
    np.testing.assert_array_equal(samples.log_probability, [-3.5, 0, np.nan, -0.75])
    assert samples.tokens.tolist() == [2, 0, 0, 3]


def test_predictions_beyond_the_samples(sums: Drawn) -> None:
    found = facts(sums.out, "--predict", "32,4096")
    at_end, far = found["beyond"]["by_beta"]
    assert at_end["value"] == pytest.approx(found["curves"]["coverage"]["value"][-1], abs=0.05)
    assert at_end["value"] < far["value"] <= 1
    assert far["low"] < far["value"] < far["high"]
    near, power = found["beyond"]["by_power"]
    assert near["value"] < power["value"]
    assert power["low"] < power["value"] < power["high"]


def test_predictions_from_the_first_samples(sums: Drawn, tmp_path: Path) -> None:
    """They are those of a directory that has no more samples, and stand beside what all samples measure."""
    found = facts(sums.out, "--predict", "32,64", "--predict-from", 8)
    assert (found["samples"], found["beyond"]["samples"]) == (24 * 32, 8)
    table = parquet.read_table(sums.out / "part-00000.parquet").to_pylist()
    table += parquet.read_table(sums.out / "part-00001.parquet").to_pylist()
    texts = [[row["text"] for row in table if row["problem"] == f"sum-{i}" and row["sample"] < 8] for i in range(24)]
    fewer = make_samples(tmp_path / "fewer", [sum_problem(i) for i in range(24)], texts)
    alone = facts(fewer.out, "--predict", "32,64")["beyond"]
    assert [alone[name] for name in ("beta", "by_beta", "by_power", "unsolved")] == [
        found["beyond"][name] for name in ("beta", "by_beta", "by_power", "unsolved")
    ]
    at_32, at_64 = found["beyond"]["measured"]
    assert at_32["value"] == pytest.approx(found["curves"]["coverage"]["value"][-1])
    assert at_32["low"] < at_32["value"] < at_32["high"]
    assert at_64["value"] == "NaN"
    assert "predicted from 8 samples" in run("judge", sums.out, "--predict", "32", "--predict-from", 8)


def test_several_directories_are_judged_together(sums: Drawn, programs: Drawn, tmp_path: Path) -> None:
    numbers, picture = tmp_path / "numbers.csv", tmp_path / "curves.png"
    found = facts(sums.out, programs.out, "--numbers", numbers, "--picture", picture, "--predict", "64")
    apart = {str(out): facts(out, "--predict", "64") for out in (sums.out, programs.out)}
    assert found["directories"] == {name: {k: v for k, v in one.items() if k != "files"} for name, one in apart.items()}
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = read_table(numbers)
    value = lambda out, name, k: float(  # noqa: E731
        table["value"][(table["samples"] == str(out)) & (table["quantity"] == name) & (table["k"] == k)][0]
    )
    for out in (sums.out, programs.out):
        curves = apart[str(out)]["curves"]
        for name, curve in curves.items():
            assert value(out, name, apart[str(out)]["k"][-1]) == pytest.approx(curve["value"][-1])
    assert value(sums.out, "coverage_by_beta_from_32", 64) == pytest.approx(
        apart[str(sums.out)]["beyond"]["by_beta"][0]["value"]
    )
    best = apart[str(programs.out)]["weak"]["best"][1]
    assert value(programs.out, "reward_at_cost_1", best["attempts"]) == pytest.approx(best["reward"])
    assert "solved" not in set(table["quantity"][table["samples"] == str(sums.out)])  # it has no weak verifier
    printed = run("judge", sums.out, programs.out)
    assert str(sums.out) in printed
    assert str(programs.out) in printed


def test_a_picture_of_one_directory(programs: Drawn, tmp_path: Path) -> None:
    run("judge", programs.out, "--picture", tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_the_curve_is_a_table_for_fit(sums: Drawn, tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    found = facts(sums.out, "--curve", curve)
    table = read_table(curve)
    assert len(table["problem"]) == 24 * len(found["k"])
    mean = [float(table["coverage"][table["k"] == k].mean()) for k in found["k"]]
    np.testing.assert_allclose(mean, found["curves"]["coverage"]["value"])
    fitted = json.loads(
        run("fit", "coverage", curve, "--by", "problem", "--bootstraps", "20", "--out", tmp_path / "fit.json", "--json")
        .splitlines()[-1]
    )  # fmt: skip
    assert fitted["rows"] == len(table["k"])
    assert 0 < fitted["parameters"]["b"]["value"] < 2


def test_the_page_stands_alone(programs: Drawn) -> None:
    run("judge", programs.out, "--page", "--weak", "visible:1")
    page = (programs.out / "judge.html").read_text()
    for word in ("A weak verifier", "attempts that pay best", "350 k", "runs/demo"):
        assert word in page, word
    assert not re.search(r'(?:src|href)="(?!data:)', page)


# ---- verdicts ----


def test_texts_are_verified_once(sums: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an interrupted command: the verdicts so far are kept, and the file is that of an uninterrupted one."""
    samples = read_samples(sums.out)
    verifier = verifier_of(samples, None, directory=sums.out)
    path, other = sums.out / "verdicts.parquet", sums.out / "other.parquet"
    verify_samples(samples, verifier.verify, other, verifier.identity)
    monkeypatch.setattr(verdict_files, "_SECONDS_BETWEEN_WRITES", 0.0)
    calls: list[str] = []

    def verify_until_interrupted(problem: str, text: str) -> tasks.Verdict:
        calls.append(text)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return verifier.verify(problem, text)

    with pytest.raises(KeyboardInterrupt):
        verify_samples(samples, verify_until_interrupted, path, verifier.identity)
    different = len(set(zip(samples.problem, samples.text, strict=True)))
    verify_samples(samples, verify_until_interrupted, path, verifier.identity)
    assert len(calls) == different + 1
    assert path.read_bytes() == other.read_bytes()
    verify_samples(samples, verify_until_interrupted, path, verifier.identity)
    assert len(calls) == different + 1


def test_new_samples_are_added_and_other_verifiers_asked_again(programs: Drawn) -> None:
    first = facts(programs.out, "--weak", "visible:1")
    programs.write_part(2, [("code-0", 10, "    return negate(xs)\n", -3.0)])
    assert facts(programs.out, "--weak", "visible:1")["samples"] == first["samples"] + 1
    assert facts(programs.out, "--weak", "visible:2")["weak"]["conditional_accuracy"]["value"] == 1


def test_a_damaged_file_of_verdicts_is_made_again(sums: Drawn) -> None:
    first = facts(sums.out)
    (sums.out / "verdicts.parquet").write_bytes(b"PAR1 no")
    assert facts(sums.out) == first


# ---- what it refuses ----


def test_samples_of_other_problems(sums: Drawn, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(sum_problem(0)) + "\n")
    assert "is not the file that" in refusal(sums.out, "--problems", other)
    moved = sums.problems.rename(tmp_path / "moved.jsonl")
    assert "--problems" in refusal(sums.out)
    assert facts(sums.out, "--problems", moved)["problems"] == 24


def test_directories_without_samples(sums: Drawn, tmp_path: Path) -> None:
    assert "no manifest.json" in refusal(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "pathways_lite.tasks"}')
    assert "kind 'pathways_lite.tasks'" in refusal(tmp_path)
    for part in sums.out.glob("part-*"):
        part.unlink()
    assert "no samples yet" in refusal(sums.out)


def test_damaged_and_doubled_parts(sums: Drawn) -> None:
    part = sums.out / "part-00000.parquet"
    (sums.out / "part-00002.parquet").write_bytes(part.read_bytes())
    assert "sample 0 of problem 'sum-0' twice" in refusal(sums.out)
    (sums.out / "part-00002.parquet").write_bytes(part.read_bytes()[:100])
    assert "part-00002.parquet is damaged" in refusal(sums.out)


def test_options_that_say_nothing(sums: Drawn, programs: Drawn, tmp_path: Path) -> None:
    assert "have no visible tests" in refusal(sums.out, "--weak", "visible:2")
    assert "Did you mean 'visible'?" in refusal(programs.out, "--weak", "visibel:2")
    assert "like visible:2" in refusal(programs.out, "--weak", "visible")
    assert "--costs 'a,b'" in refusal(sums.out, "--costs", "a,b")
    assert "--costs '-1'" in refusal(sums.out, "--costs", "-1")
    assert "neither .csv nor .parquet" in refusal(sums.out, "--curve", "curve.txt")
    assert "there is no directory" in refusal(sums.out, "--curve", tmp_path / "none/curve.csv")
    assert "neither .csv nor .parquet" in refusal(sums.out, "--numbers", "numbers.txt")
    assert "none of .png, .svg, .pdf" in refusal(sums.out, "--picture", "curves.gif")
    assert "say with --predict of what" in refusal(sums.out, "--predict-from", 8)
    assert "problem 'sum-0' has 32 samples" in refusal(sums.out, "--predict", 64, "--predict-from", 33)
    assert "--curve is of one directory, and 2 are named" in refusal(sums.out, programs.out, "--curve", "curve.csv")
    assert "is named twice" in refusal(sums.out, sums.out)
    assert "has no option --pages. Did you mean '--page'?" in refusal(sums.out, "--pages")


def test_nothing_correct_is_told(tmp_path: Path) -> None:
    drawn = make_samples(tmp_path, [sum_problem(0), sum_problem(1)], [[" 9\n"] * 8] * 2)
    assert "100.0% of the problems have no correct sample" in run("judge", drawn.out)
    assert "no sample of any problem is correct" in refusal(drawn.out, "--predict", "100")


# ---- the page of the documentation ----


@pytest.mark.slow
def test_commands_of_the_documentation_work(
    sums: Drawn, programs: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "repeated_sampling.md").read_text()
    commands = [shlex.split(line)[1:] for line in re.findall(r"^pathways-lite (?:judge|fit) .*$", page, re.MULTILINE)]
    assert len(commands) >= 4
    monkeypatch.chdir(tmp_path)
    places = {"samples/sum": sums.out, "samples/study/*": sums.out, "samples/code": programs.out}
    for command in commands:
        run(*(places.get(word, word) for word in command))
    assert "More samples than were drawn" in (sums.out / "judge.html").read_text()
