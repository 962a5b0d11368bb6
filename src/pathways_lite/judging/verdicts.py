"""Verdicts on samples: every text is verified once, and a judge that was interrupted continues."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.judging.samples import Samples
from pathways_lite.tasks import Verdict

FILE_NAME = "verdicts.parquet"
_SECONDS_BETWEEN_WRITES = 30.0
_ORIGIN = b"pathways_lite.verdicts"


@dataclass(frozen=True)
class Verdicts:
    """Verdicts by sample [rows]: `weak` is 1 or 0, -1 without a weak verifier; `answer` is None where there is none."""

    correct: np.ndarray
    weak: np.ndarray
    answer: list[str | None]


def verify_samples(
    samples: Samples,
    verify: Callable[[str, str], Verdict],
    path: Path,
    identity: str,
    advance: Callable[[int], None] = lambda count: None,
) -> Verdicts:
    """Return the verdicts on all samples, and write them to `path`.

    `verify(problem, text)` judges a text. `identity` names what else decides a verdict (the problems, the verifiers):
    verdicts in the file that are of the same identity and of the same text are not found again. `advance` is told of
    every sample that is done. Equal texts of a problem are verified once.
    """
    digests = [_digest(problem, text) for problem, text in zip(samples.problem, samples.text, strict=True)]
    known = _read(path, identity)
    rows: list[tuple[bool, bool | None, str | None]] = []
    last = time.monotonic()
    for problem, text, digest in zip(samples.problem, samples.text, digests, strict=True):
        if digest not in known:
            verdict = verify(problem, text)
            known[digest] = (verdict.correct, verdict.weak, verdict.answer)
            if time.monotonic() - last > _SECONDS_BETWEEN_WRITES:
                _write(path, samples, digests[: len(rows) + 1], [*rows, known[digest]], identity)
                last = time.monotonic()
        rows.append(known[digest])
        advance(1)
    _write(path, samples, digests, rows, identity)
    correct, weak, answer = zip(*rows, strict=True)
    return Verdicts(np.array(correct), np.array([-1 if w is None else int(w) for w in weak]), list(answer))


def _digest(problem: str, text: str) -> str:
    content = f"{len(problem.encode())}/{problem}/{text}".encode(errors="surrogatepass")
    return hashlib.sha256(content).hexdigest()[:32]


def _read(path: Path, origin: str) -> dict[str, tuple[bool, bool | None, str | None]]:
    """Return the verdicts of a file by digest of the text; none if it is of another origin, or cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return {}
    if (table.schema.metadata or {}).get(_ORIGIN) != origin.encode():
        return {}
    columns = [table[name].to_pylist() for name in ("text_digest", "correct", "weak", "answer")]
    return {digest: (correct, weak, answer) for digest, correct, weak, answer in zip(*columns, strict=True)}


def _write(path: Path, samples: Samples, digests: list[str], rows: list[Any], origin: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    correct, weak, answer = zip(*rows, strict=True)
    table = pa.table({
        "problem": pa.array(samples.problem[: len(rows)], pa.string()),
        "sample": pa.array(samples.sample[: len(rows)], pa.int32()),
        "correct": pa.array(correct, pa.bool_()),
        "weak": pa.array(weak, pa.bool_()),
        "answer": pa.array(answer, pa.string()),
        "text_digest": pa.array(digests, pa.string()),
    }).replace_schema_metadata({_ORIGIN: origin.encode()})  # fmt: skip
    with replace_atomically(path) as temporary:
        parquet.write_table(table, temporary)
