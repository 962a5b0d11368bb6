"""Files of samples as the judge reads them: texts and scores by problem, without their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.samples_manifest import read_manifest

_COLUMNS = ("problem", "sample", "text")
_SCORES = "logp_model"


@dataclass(frozen=True)
class Samples:
    """Samples of a directory, sorted by problem in the order of the files, then by number.

    Attributes:
      manifest: what the samples were drawn from and how.
      problem: the id of each sample's problem [rows].
      sample: its number [rows].
      text: the continuation [rows].
      log_probability: of the whole continuation under the model, in nats [rows]; NaN where it was not kept.
      tokens: how many tokens that is of [rows].
    """

    manifest: Mapping[str, Any]
    problem: list[str]
    sample: np.ndarray
    text: list[str]
    log_probability: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.problem)


def read_samples(directory: Path) -> Samples:
    """Read all samples of a directory. Raises UserError if there are none, or a file is damaged or has one twice."""
    import pyarrow as pa
    from pyarrow import parquet

    manifest = read_manifest(directory)
    parts = []
    for path in sorted(directory.glob("part-*.parquet")):
        try:
            names = parquet.read_schema(path).names
            if missing := [name for name in _COLUMNS if name not in names]:
                raise UserError(f"{path} is no file of samples: it has no column {missing[0]}")
            parts.append(parquet.read_table(path, columns=[n for n in (*_COLUMNS, _SCORES) if n in names]))
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is damaged: {error}; delete it, and `sample` draws its samples again") from error
    if not sum(map(len, parts)):
        raise UserError(f"{directory} has no samples yet: no part-*.parquet with rows; run `sample` first")
    scores = [_log_probabilities(part) for part in parts]
    problem = [str(value) for part in parts for value in part["problem"].to_pylist()]
    sample = np.concatenate([np.asarray(part["sample"].to_pylist(), np.int64) for part in parts])
    text = [value or "" for part in parts for value in part["text"].to_pylist()]
    places: dict[str, int] = {}
    place = np.array([places.setdefault(name, len(places)) for name in problem])
    order = np.lexsort((sample, place))
    twice = np.flatnonzero((np.diff(place[order]) == 0) & (np.diff(sample[order]) == 0))
    if len(twice):
        row = order[twice[0]]
        raise UserError(f"{directory} has sample {sample[row]} of problem {problem[row]!r} twice; remove a part")
    return Samples(
        manifest, [problem[i] for i in order], sample[order], [text[i] for i in order],
        np.concatenate([sums for sums, _ in scores])[order], np.concatenate([counts for _, counts in scores])[order],
    )  # fmt: skip


def _log_probabilities(part: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums and the counts [rows] of a column of lists; NaN and 0 where there is no list."""
    if _SCORES not in part.column_names:
        return np.full(len(part), np.nan), np.zeros(len(part), np.int64)
    from pyarrow import compute

    lists = part[_SCORES].combine_chunks()
    counts = compute.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = compute.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float64)
    sums = np.where(lists.is_null().to_numpy(zero_copy_only=False), np.nan, 0.0)
    starts = np.cumsum(counts) - counts
    filled = counts > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums, counts
