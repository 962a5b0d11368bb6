"""Problems, and directories of samples as `sample` writes them, of a model whose accuracies are known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from pathways_lite.tasks import problems_digest


def sum_problem(i: int) -> dict[str, Any]:
    """Return a problem whose answer is the integer 2 i + 1."""
    return {
        "id": f"sum-{i}", "domain": "sum", "prompt": f"Q: {i}+{i + 1}=\nA:", "group": f"g{i}",
        "verify": {"kind": "integer", "answer": 2 * i + 1},
    }  # fmt: skip


def code_problem(i: int) -> dict[str, Any]:
    """Return a problem to double numbers; the first visible test does not see that 1 is added instead."""
    tests = lambda *inputs: [[list(xs), [2 * x for x in xs]] for xs in inputs]  # noqa: E731
    return {
        "id": f"code-{i}", "domain": "code", "prompt": f"# {i}\n", "group": f"code-{i}",
        "verify": {"kind": "list_program", "visible": tests((1,), (3, 1)), "hidden": tests((5, 1), (2,), ())},
    }  # fmt: skip


RIGHT, ALMOST, WRONG = "    return double(xs)\n", "    return add(xs, 1)\n", "    return xs\n"


@dataclass
class Drawn:
    """A directory of samples and its file of problems."""

    out: Path
    problems: Path

    def write_part(self, number: int, rows: Sequence[tuple[str, int, str, float]]) -> None:
        """Write samples (problem, number, text, log probability) as a part."""
        problem, sample, text, score = zip(*rows, strict=True)
        parquet.write_table(
            pa.table({
                "problem": pa.array(problem), "sample": pa.array(sample, pa.int32()), "text": pa.array(text),
                "finish": pa.array(["eod"] * len(rows)), "tokens": pa.array([[1, 2]] * len(rows), pa.list_(pa.int32())),
                "logp_model": pa.array([[s / 2, s / 2] for s in score], pa.list_(pa.float32())),
                "logp_drawn": pa.array([[s / 2, s / 2] for s in score], pa.list_(pa.float32())),
            }),
            self.out / f"part-{number:05d}.parquet",
        )  # fmt: skip


def make_samples(
    directory: Path, problems: Sequence[dict[str, Any]], texts: Sequence[Sequence[str]], scores: Any = None
) -> Drawn:
    """Write problems and the texts of each as a directory of samples, in two parts."""
    out, file = directory / "samples", directory / "problems.jsonl"
    out.mkdir(parents=True)
    file.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    (out / "manifest.json").write_text(json.dumps({
        "kind": "pathways_lite.samples", "problems": str(file), "problems_digest": problems_digest(file),
        "checkpoint": "runs/demo", "sampling": {"temperature": 1.0}, "samples": len(texts[0]), "seed": 0,
        "model_parameters": 350_000, "flops": 12_000_000_000, "tokens_written": 90_000, "seconds": 41.5,
    }))  # fmt: skip
    drawn = Drawn(out, file)
    rows = [
        (problem["id"], j, text, -1.0 - j if scores is None else float(scores[i][j]))
        for i, (problem, each) in enumerate(zip(problems, texts, strict=True))
        for j, text in enumerate(each)
    ]
    drawn.write_part(0, rows[: len(rows) // 2])
    drawn.write_part(1, rows[len(rows) // 2 :])
    return drawn
