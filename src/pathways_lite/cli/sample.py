"""`pathways-lite sample`: many samples of every problem of a file, into a directory that `judge` reads."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.argument_order import is_run, require_order
from pathways_lite.cli.common import AsJson, OfAverage, count_progress, print_json
from pathways_lite.cli.sampling_common import (
    Chat,
    MinP,
    System,
    Temperature,
    TopK,
    TopP,
    messages_of,
    require_chat,
)
from pathways_lite.console import print_line
from pathways_lite.errors import UserError, counted
from pathways_lite.paths import local_path
from pathways_lite.training.writers import asker_of, writer_of

if TYPE_CHECKING:
    from pathways_lite.data.chat_template import Messages
    from pathways_lite.tasks import Problem


def sample(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", parser=local_path, help="a run, stage or checkpoint directory")
    ],
    problems: Annotated[
        Path, typer.Argument(parser=local_path, help="a file of problems, or a directory of `pathways-lite tasks make`")
    ],
    out: Annotated[Path, typer.Option(parser=local_path, help="directory for the samples")],
    samples: Annotated[int, typer.Option(min=1, help="samples of each problem")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="maximum number of tokens of a sample")] = 128,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    stop: Annotated[list[str] | None, typer.Option(help="end a sample before this string too; may be repeated")] = None,
    chat: Chat = False,
    system: System = None,
    batch: Annotated[int, typer.Option(min=1, help="samples that are written at the same time, at most")] = 64,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
    average: OfAverage = False,
    each: Annotated[bool, typer.Option("--each", help="ask every run of a study or directory, into OUT/NAME")] = False,
    as_json: AsJson = False,
) -> None:
    """Sample answers to problems with the newest valid checkpoint at or below RUN.

    The same command goes on after an interruption, to the same bytes. With a larger `--samples` it draws those that are
    missing: 4,096 samples begin with the same 1,024. `pathways-lite judge OUT` tells which answers are right.

    Examples:

    - `pathways-lite sample runs/sums problems/sum/problems.jsonl --out samples/sum --samples 64`

    - `pathways-lite judge samples/sum --curve coverage.csv --page`

    - `pathways-lite sample runs/smollm2 problems/sum/problems.jsonl --out samples/chat --chat`

    - `pathways-lite sample runs/study problems/sum/problems.jsonl --out samples/sum --each`
    """
    from pathways_lite.evaluation.context import length_warning, require_room
    from pathways_lite.evaluation.generation import stops_of
    from pathways_lite.evaluation.problem_samples import Asked, Asking, Pace, draw_part
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.sampling import Sampling
    from pathways_lite.sampling.files import SampleDirectory, read_account
    from pathways_lite.tasks import problem_file, problems_digest, read_problems
    from pathways_lite.training.load import load_model, print_warning

    require_order(path, problems, "a run", is_run)
    problems = problem_file(problems)
    require_chat(chat, system)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    listed = read_problems(problems)
    asking = Asking(sampling, max_tokens)
    prompts = [_prompt(problem, system, chat=chat) for problem in listed]
    results = []
    for run, directory in runs_below(path, out) if each else [(path, out)]:
        model = load_model(run, average=average)
        tokenizer = model.tokenizer()
        stops = stops_of(tokenizer)
        today = _date(directory) if chat else None
        asker = asker_of(model, tokenizer, chat=chat, today=today)
        asked = [
            Asked(problem.id, asker.ask(prompt), stops((*problem.stop, *(stop or ()))))
            for problem, prompt in zip(listed, prompts, strict=True)
        ]
        lengths = {question.id: len(question.question.prompt.tokens) for question in asked}
        require_room(lengths, model.stage.data.seq_len)
        if warning := length_warning(list(lengths.values()), max_tokens, model.stage.data.seq_len):
            print_warning(warning)
        manifest = {
            "checkpoint": str(model.path), "checkpoint_digest": model.manifest.digest, "average": average,
            "problems": str(problems), "problems_digest": problems_digest(problems),
            "sampling": {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p},
            "stop": stop or [], "max_tokens": max_tokens, "seed": seed, "batch": batch,
            "chat": chat or None, "system": system, "date": today and today.date().isoformat(),
        }  # fmt: skip
        with lock_directory(directory):
            kept = SampleDirectory(directory, manifest)
            parts = kept.missing(len(listed), samples)
            if parts:
                total = sum(len(part.problems) * len(part.samples) for part in parts)
                print_line(
                    f"{counted(total, 'sample')} to draw, for {counted(len(listed), 'problem')}, of at most "
                    f"{counted(max_tokens, 'token')} each: {counted(total * max_tokens, 'token')} at most"
                )
                writer = writer_of(model, tokenizer, asker, seed, rows=batch)
                pace = Pace(total * max_tokens, _tell_pace)
                with count_progress("sampling", total, "samples") as report:
                    for part in parts:
                        draw_part(kept, part, writer, model.stage.model, asked, asking, report, pace.look)
        account = read_account(directory)
        results.append({"samples": directory, "problems": len(listed), "per_problem": samples, **asdict(account)})
        if not as_json:
            print_line(
                f"{len(listed):,} problems, {samples:,} samples each: {account.tokens_written:,} tokens written, "
                f"{account.tokens_read:,} read, {account.flops:.3g} FLOPs, {account.seconds:.0f} s"
            )
            typer.echo(directory)
    if as_json:
        print_json({"runs": results} if each else results[0])


def runs_below(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return the runs at or below a directory, each with the directory in `out` that is named as the study names it.

    Raises UserError if there is none.
    """
    from pathways_lite.run_directory import node_label
    from pathways_lite.scaling.runs_table import find_runs

    runs = find_runs(path)
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", node_label(run) or run.name) for run in runs]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        (run, out / (f"{name}_{run.name}" if name in twice else name)) for run, name in zip(runs, names, strict=True)
    ]


def _tell_pace(rate: float, seconds: float) -> None:
    from pathways_lite.tracking.formatting import duration

    print_line(f"sampling: {rate:,.0f} tokens per second, so all is there in at most {duration(seconds)}")


def _date(out: Path) -> datetime:
    """Return the date that chats are told: that of samples that are there, or today."""
    from pathways_lite.samples_manifest import MANIFEST, read_manifest

    kept = read_manifest(out).get("date") if (out / MANIFEST).is_file() else None
    return datetime.fromisoformat(kept or date.today().isoformat())


def _prompt(problem: Problem, system: str | None, *, chat: bool) -> str | Messages:
    if problem.messages is not None and (chat or problem.prompt is None):
        if not chat:
            raise UserError(f"problem {problem.id!r} has messages and no prompt; ask an instruct model with --chat")
        if system is not None:
            raise UserError(f"problem {problem.id!r} has messages of its own; leave out --system")
        return problem.messages
    assert problem.prompt is not None
    return messages_of(problem.prompt, system) if chat else problem.prompt
