"""`pathways-lite judge OUT`: verify samples, and say what more samples, votes and weak verifiers are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.judging.beyond import Beyond
    from pathways_lite.judging.judgement import Judgement


def judge(
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=local_path, help="the directory that `sample` wrote")],
    problems: Annotated[
        Path | None, typer.Option(parser=local_path, help="the problems; default: the file that the samples are of")
    ] = None,
    weak: Annotated[
        str | None,
        typer.Option(help="the weak verifier: `visible:2` sees the first 2 visible tests; default: the family's own"),
    ] = None,
    costs: Annotated[
        str, typer.Option(help="costs of returning a wrong result, where a right one is worth 1")
    ] = "0,1,2,4,8",
    attempt_cost: Annotated[float, typer.Option(min=0, help="cost of an attempt, with a weak verifier")] = 0.0,
    score: Annotated[
        Literal["sum", "mean"],
        typer.Option(help="score of best-of-k: the log probability of the sample, or its mean per token"),
    ] = "sum",
    predict: Annotated[
        str | None, typer.Option(help="numbers of samples at which to predict coverage, e.g. 10000,100000")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="write a row per problem and k, .csv or .parquet, for `fit coverage`"),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="write OUT/judge.html, with figures")] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the samples in OUT: coverage, majority vote, best of k, and what a weak verifier lets through.

    Verdicts are kept in OUT/verdicts.parquet, so that a command that was interrupted continues, and a second one is
    quick. Intervals (95 %, in brackets) resample problems: the samples of one problem are no further evidence.

    Examples:

    - `pathways-lite judge samples/sum`

    - `pathways-lite judge samples/sum --page --predict 10000`

    - `pathways-lite judge samples/code --weak visible:2 --costs 0,1,2,4,8`

    - `pathways-lite judge samples/sum --curve curve.csv`, then `pathways-lite fit coverage curve.csv --by problem`
    """
    from pathways_lite import __version__
    from pathways_lite.judging.beyond import RESAMPLES, predict_beyond
    from pathways_lite.judging.curve_table import curve_table
    from pathways_lite.judging.judgement import judge as compute
    from pathways_lite.judging.problem_file import verifier_of
    from pathways_lite.judging.samples import read_samples
    from pathways_lite.judging.verdicts import FILE_NAME, verify_samples
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.table import write_table

    costs_read = _numbers(costs, "--costs", "0,1,2,4,8", smallest=0)
    beyond_ks = [] if predict is None else [int(k) for k in _numbers(predict, "--predict", "10000", smallest=1)]
    _check_curve(curve)
    samples = read_samples(out)
    verifier = verifier_of(samples, problems, weak, directory=out)
    identity = f"{__version__}/{verifier.identity}"  # another version may have other verifiers
    with lock_file(out / FILE_NAME), count_progress("verifying", len(samples), "samples") as advance:
        verdicts = verify_samples(samples, verifier.verify, out / FILE_NAME, identity, advance)
    total = len(set(samples.problem))
    with count_progress("voting", total, "problems") as advance:
        judgement = compute(
            samples, verdicts, verifier.problems, score=score, costs=costs_read, attempt_cost=attempt_cost,
            advance=advance,
        )  # fmt: skip
    beyond = None
    if beyond_ks:
        with count_progress("predicting", RESAMPLES, "fits") as advance:
            beyond = predict_beyond(judgement, beyond_ks, advance)
    written = [out / FILE_NAME]
    if curve is not None:
        write_table(curve_table(judgement), curve)
        written.append(curve)
    if page:
        from pathways_lite.judging.report import write_report

        written.append(write_report(judgement, beyond, samples.manifest, out / "judge.html"))
    if as_json:
        print_json({**_facts(judgement, beyond), "files": written})
        return
    _print(judgement, beyond, str(out))
    for path in written:
        typer.echo(path)


def _numbers(text: str, option: str, example: str, *, smallest: float) -> list[float]:
    """Return numbers separated by commas. Raises UserError for anything else."""
    import math

    from pathways_lite.errors import UserError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number >= smallest for number in numbers):
        raise UserError(f"{option} {text!r}: give numbers of at least {smallest:g} separated by commas, like {example}")
    return numbers


def _check_curve(curve: Path | None) -> None:
    """Raise UserError for a table that cannot be written, before anything is verified."""
    from pathways_lite.errors import UserError

    if curve is None:
        return
    if curve.suffix not in (".csv", ".parquet"):
        raise UserError(f"--curve {curve.name} ends in neither .csv nor .parquet; the suffix chooses the format")
    if not curve.parent.is_dir():
        raise UserError(f"--curve {curve}: there is no directory {curve.parent}")


def _facts(judgement: Judgement, beyond: Beyond | None) -> dict[str, Any]:
    """Return every number of a judgement for --json."""
    from dataclasses import asdict

    counts, weak = judgement.counts, judgement.weak
    curves = {
        name.replace(" ", "_"): {"value": c.mean.tolist(), "low": c.low.tolist(), "high": c.high.tolist()}
        for name, c in judgement.curves.items()
    }
    facts: dict[str, Any] = {
        "problems": len(counts.names), "samples": int(counts.samples.sum()), "correct": int(counts.correct.sum()),
        "unsolved": judgement.unsolved, "score": judgement.score, "k": judgement.ks.tolist(), "curves": curves,
    }  # fmt: skip
    if weak is not None:
        facts["weak"] = {
            "problems": len(weak.counts.names), "K": weak.ks.tolist(),
            "solved": weak.solved.mean.tolist(), "false_positives": weak.false_positives.mean.tolist(),
            "single_accuracy": asdict(weak.single_accuracy),
            "conditional_accuracy": asdict(weak.conditional_accuracy),
            "false_positive_rate": asdict(weak.false_positive_rate),
            "best": [
                {**asdict(best), "low": low, "high": high}
                for best, (low, high) in zip(weak.best, weak.best_limits, strict=True)
            ],
        }  # fmt: skip
    if beyond is not None:
        facts["beyond"] = asdict(beyond)
    return facts


def _print(judgement: Judgement, beyond: Beyond | None, title: str) -> None:
    from pathways_lite.console import Console, Table
    from pathways_lite.judging import report

    console = Console()
    grid = Table("k", *judgement.curves, title=f"{title}: problems solved, in percent")
    for row in report.curve_rows(judgement):
        grid.add_row(*row)
    console.print(grid)
    typer.echo(report.headline(judgement))
    if beyond is not None:
        grid = Table("k", "Beta distribution", "power law", title="predicted coverage, in percent")
        for row in report.beyond_rows(beyond):
            grid.add_row(*row)
        console.print(grid)
    if judgement.weak is not None:
        problems = len(judgement.weak.counts.names)
        grid = Table("", "percent", title=f"weak verifier, over {problems:,} problems")
        for row in report.weak_rows(judgement.weak):
            grid.add_row(*row)
        console.print(grid)
        grid = Table("cost of a wrong result", "attempts that pay best", "reward")
        for row in report.best_rows(judgement.weak):
            grid.add_row(*row)
        console.print(grid)
