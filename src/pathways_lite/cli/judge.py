"""`pathways-lite judge OUT`: verify samples, and say what more samples, votes and weak verifiers are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.judging.beyond import Beyond
    from pathways_lite.judging.judgement import Judgement
    from pathways_lite.judging.samples import Samples

_TABLES = (".csv", ".parquet")


def judge(
    out: Annotated[
        list[Path], typer.Argument(metavar="OUT...", parser=local_path, help="the directories that `sample` wrote")
    ],
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
    predict_from: Annotated[
        int | None,
        typer.Option(min=4, help="with --predict: fit the first samples of each problem only, to see how right it is"),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="write a row per problem and k, .csv or .parquet, for `fit coverage`"),
    ] = None,
    numbers: Annotated[
        Path | None, typer.Option(parser=local_path, help="write every number as a row, .csv or .parquet")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(parser=local_path, help="draw the curves, those of several OUT in one picture: .png")
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

    - `pathways-lite judge samples/sum/* --predict 4096 --predict-from 64 --numbers numbers.csv --picture curves.png`
    """
    from pathways_lite.judging.curve_table import curve_table
    from pathways_lite.judging.numbers_table import numbers_table
    from pathways_lite.judging.report import write_report
    from pathways_lite.judging.verdicts import FILE_NAME
    from pathways_lite.scaling.table import write_table

    if predict_from is not None and predict is None:
        raise UserError("--predict-from says what predictions rest on; say with --predict of what, e.g. 4096")
    settings = _Settings(
        problems, weak, _numbers(costs, "--costs", "0,1,2,4,8", smallest=0), attempt_cost, score,
        [] if predict is None else [int(k) for k in _numbers(predict, "--predict", "10000", smallest=1)], predict_from,
    )  # fmt: skip
    _check_file("--curve", curve, _TABLES)
    _check_file("--numbers", numbers, _TABLES)
    _check_file("--picture", picture, (".png", ".svg", ".pdf"))
    if curve is not None and len(out) > 1:
        raise UserError(f"--curve is of one directory, and {len(out)} are named; --numbers writes a table of several")
    if twice := [directory for directory, count in Counter(out).items() if count > 1]:
        raise UserError(f"{twice[0]} is named twice; name each directory once")
    judged = {}
    written = []
    for directory in out:
        samples, judgement, beyond = _judge(directory, settings)
        judged[str(directory)] = judgement, beyond
        written.append(directory / FILE_NAME)
        if page:
            written.append(write_report(judgement, beyond, samples.manifest, directory / "judge.html"))
    if curve is not None:
        write_table(curve_table(judgement), curve)
        written.append(curve)
    if numbers is not None:
        write_table(numbers_table(judged), numbers)
        written.append(numbers)
    if picture is not None:
        from pathways_lite.judging.plots import write_picture

        written.append(write_picture(judged, picture))
    if as_json:
        facts = {name: _facts(*pair) for name, pair in judged.items()}
        print_json({**(facts[str(out[0])] if len(out) == 1 else {"directories": facts}), "files": written})
        return
    if len(out) == 1:
        _print(judgement, beyond, str(out[0]))
    else:
        _print_several(judged)
    for path in written:
        typer.echo(path)


class _Settings(NamedTuple):
    """What is asked of every directory."""

    problems: Path | None
    weak: str | None
    costs: list[float]
    attempt_cost: float
    score: Literal["sum", "mean"]
    predict: list[int]
    predict_from: int | None


def _judge(out: Path, settings: _Settings) -> tuple[Samples, Judgement, Beyond | None]:
    """Verify the samples of a directory, and compute everything about them."""
    from pathways_lite.judging.beyond import RESAMPLES, predict_beyond
    from pathways_lite.judging.judgement import first_samples
    from pathways_lite.judging.judgement import judge as compute
    from pathways_lite.judging.problem_file import verifier_of
    from pathways_lite.judging.samples import read_samples
    from pathways_lite.judging.verdicts import FILE_NAME, verify_samples
    from pathways_lite.output_lock import lock_file
    from pathways_lite.version import __version__

    samples = read_samples(out)
    verifier = verifier_of(samples, settings.problems, settings.weak, directory=out)
    identity = f"{__version__}/{verifier.identity}"  # another version may have other verifiers
    with lock_file(out / FILE_NAME), count_progress("verifying", len(samples), "samples") as advance:
        verdicts = verify_samples(samples, verifier.verify, out / FILE_NAME, identity, advance)
    total = len(set(samples.problem))
    with count_progress("voting", total, "problems") as advance:
        judgement = compute(
            samples, verdicts, verifier.problems, score=settings.score, costs=settings.costs,
            attempt_cost=settings.attempt_cost, advance=advance,
        )  # fmt: skip
    if not settings.predict:
        return samples, judgement, None
    basis = judgement
    if settings.predict_from is not None:
        basis = compute(*first_samples(samples, verdicts, settings.predict_from), verifier.problems)
    with count_progress("predicting", RESAMPLES, "fits") as advance:
        return samples, judgement, predict_beyond(basis, settings.predict, advance, whole=judgement)


def _numbers(text: str, option: str, example: str, *, smallest: float) -> list[float]:
    """Return numbers separated by commas. Raises UserError for anything else."""
    import math

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number >= smallest for number in numbers):
        raise UserError(f"{option} {text!r}: give numbers of at least {smallest:g} separated by commas, like {example}")
    return numbers


def _check_file(option: str, path: Path | None, suffixes: Sequence[str]) -> None:
    """Raise UserError for a file that cannot be written, before anything is verified."""
    if path is None:
        return
    if path.suffix not in suffixes:
        *others, last = suffixes
        choice = f"neither {others[0]} nor {last}" if len(others) == 1 else f"none of {', '.join(suffixes)}"
        raise UserError(f"{option} {path.name} ends in {choice}; the suffix chooses the format")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no directory {path.parent}")


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
        grid = Table(*report.BEYOND_HEADER, title=f"coverage predicted from {beyond.samples:,} samples, in percent")
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


def _print_several(judged: Mapping[str, tuple[Judgement, Beyond | None]]) -> None:
    from pathways_lite.console import Console, Table
    from pathways_lite.judging import report

    predicted = next((beyond for _, beyond in judged.values() if beyond is not None), None)
    header = [f"Beta at {predicted.ks[-1]:,}", f"power law at {predicted.ks[-1]:,}"] if predicted is not None else []
    grid = Table("samples", "each", "pass@1", "coverage", "majority", *header, title="problems solved, in percent")
    for name, (judgement, beyond) in judged.items():
        coverage, majority = judgement.curves["coverage"], judgement.curves["majority"]
        ends = [coverage.interval(0), coverage.interval(-1), majority.interval(-1)]
        far = [beyond.by_beta[-1], beyond.by_power[-1]] if beyond is not None else []
        grid.add_row(name, f"{judgement.ks[-1]:,}", *map(report.percent, [*ends, *far]))
    Console().print(grid)
