"""Directories of samples: parts in Parquet, which a killed command goes on with, byte for byte.

    OUT/manifest.json                       what was asked: checkpoint, problems, rule of sampling, seed
    OUT/part-p000000-s000000-000256.parquet problems 0 and after, samples 0 to 255 of each
    OUT/seconds.json                        how long each part took

`judging/samples.py` reads them. A part holds a fixed number of problems, and is written when all of its samples are
there. More samples of the same problems are further parts.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pathways_kernels.attention import Spans
from pathways_lite.atomic_file import replace_atomically, write_text_atomically
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import attended_pairs, flops_with_spans
from pathways_lite.recipe import Model
from pathways_lite.samples_manifest import KIND, MANIFEST, read_manifest

SECONDS = "seconds.json"
_COUNTS = b"pathways_lite.account"  # metadata of a part: tokens and FLOPs
PROBLEMS_PER_PART = 16
_PART = re.compile(r"part-p\d+-s(\d+)-(\d+)\.parquet")

SCHEMA = pa.schema(
    {
        "problem": pa.string(), "sample": pa.int32(), "text": pa.string(), "finish": pa.string(),
        "tokens": pa.list_(pa.int32()), "logp_model": pa.list_(pa.float32()), "logp_drawn": pa.list_(pa.float32()),
    }
)  # fmt: skip
"""A row per sample: the problem's id, the sample's number, what was written after the prompt, why it ended, and its
tokens with their log probabilities (see `Sample`)."""


@dataclass(frozen=True)
class Account:
    """What sampling has cost. A prompt is read once for all samples of a part."""

    tokens_read: int = 0
    tokens_written: int = 0
    flops: int = 0
    seconds: float = 0.0

    def __add__(self, other: Account) -> Account:
        return Account(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class Part:
    """A part to draw: problems by index, and the numbers of their samples."""

    problems: range
    samples: range

    @property
    def file_name(self) -> str:
        return f"part-p{self.problems.start:06d}-s{self.samples.start:06d}-{self.samples.stop:06d}.parquet"


class SampleDirectory:
    """The samples of one set of problems by one checkpoint.

    Args:
      manifest: what is asked, without the number of samples; the same for all parts.

    Raises UserError where `path` holds samples that were asked otherwise, with what differs, or something else.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self._manifest = {"kind": KIND, **manifest}
        file = path / MANIFEST
        if not file.exists():
            if path.is_dir() and any(p.suffix == ".parquet" for p in path.iterdir()):
                raise UserError(f"{path} holds Parquet files but no {MANIFEST}; name another directory")
            path.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, json.dumps(self._manifest, indent=1, ensure_ascii=False) + "\n")
            return
        stored = read_manifest(path)
        for name, asked in json.loads(json.dumps(self._manifest)).items():
            if stored.get(name) != asked and name not in ("checkpoint", "problems"):  # places may differ
                raise UserError(
                    f"{path} holds samples with {name}={stored.get(name)!r}, not {asked!r}; ask the same to go on, or "
                    "name another directory with --out"
                )

    def missing(self, problems: int, samples: int) -> list[Part]:
        """Return the parts that are not there yet, for so many samples of so many problems."""
        drawn = self._drawn(samples)
        ranges = [*drawn, range(drawn[-1].stop if drawn else 0, samples)]
        parts = [
            Part(range(first, min(problems, first + PROBLEMS_PER_PART)), numbers)
            for numbers in ranges
            if len(numbers)
            for first in range(0, problems, PROBLEMS_PER_PART)
        ]
        return [part for part in parts if not (self.path / part.file_name).exists()]

    def _drawn(self, samples: int) -> list[range]:
        """Return the ranges of sample numbers of which parts exist. Raises UserError where there are more."""
        found = filter(None, (_PART.fullmatch(path.name) for path in self.path.iterdir()))
        ranges = sorted({(int(match[1]), int(match[2])) for match in found})
        if ranges and ranges[-1][1] > samples:
            raise UserError(f"{self.path} has {ranges[-1][1]:,} samples of some problems; ask for as many or more")
        return [range(*limits) for limits in ranges]

    def write(self, part: Part, rows: Iterable[Mapping[str, Any]], account: Account) -> None:
        """Write a part whole, sorted by problem and number, and add up what it has cost."""
        counts = asdict(account)
        seconds = _read_seconds(self.path) | {part.file_name: counts.pop("seconds")}
        table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata({_COUNTS: json.dumps(counts).encode()}))
        with replace_atomically(self.path / part.file_name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        write_text_atomically(self.path / SECONDS, json.dumps(seconds, indent=1) + "\n")


def read_account(path: Path) -> Account:
    """Return what the samples in `path` have cost."""
    seconds = _read_seconds(path)
    total = Account()
    for file in sorted(path.glob("part-*.parquet")):
        counts = json.loads((pq.read_schema(file).metadata or {}).get(_COUNTS, b"{}"))
        total += Account(**counts, seconds=seconds.get(file.name, 0.0))
    return total


def _read_seconds(path: Path) -> dict[str, float]:
    file = path / SECONDS
    return dict(json.loads(file.read_text())) if file.exists() else {}


def sampling_cost(config: Model, prompt_tokens: Sequence[int], written: Sequence[Sequence[int]]) -> Account:
    """Count tokens and FLOPs of samples, without seconds.

    Args:
      prompt_tokens: the length of each prompt. written: the lengths of its samples.
    """
    pairs = functools.lru_cache(maxsize=None)(lambda length: _causal_pairs(config, length))
    read, wrote = sum(prompt_tokens), sum(map(sum, written))
    attended = sum(
        pairs(prompt) + sum(pairs(prompt + count) - pairs(prompt) for count in counts)
        for prompt, counts in zip(prompt_tokens, written, strict=True)
    )
    return Account(read, wrote, flops_with_spans(config, read + wrote, attended, backward=False))


def _causal_pairs(config: Model, length: int) -> int:
    """Count what the tokens of a text attend to, in all layers."""
    stop = np.arange(1, length + 1)[None]
    return attended_pairs(config, Spans(np.zeros_like(stop), stop))
