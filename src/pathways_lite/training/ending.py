"""How long a run takes after its last step: compressors, samples and pages, recorded on this machine for any shape.

A shape that was not trained before has no measured end, but much of it hardly depends on the shape: the compressors
on their text alone, pages on neither. The samples of a model are estimated from those of the nearest in size.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.evaluation.compressors import are_kept, compressed_bits_per_byte
from pathways_lite.models.accounting import parameter_count
from pathways_lite.training.speed import Speed, speeds_directory, stage_shape
from pathways_lite.training.stage import StageSpec

COMPRESSING, SAMPLING, PAGES = "comparing with compressors", "writing samples", "drawing pages"

_FILE = "endings.json"
_KEPT = 64  # records
_NEAR = 4.0  # ratio of parameters up to which another model's samples are an estimate, not a lower bound
_PROBE_BYTES = 1 << 18  # to compress, where no run has compressed anything yet


@dataclass(frozen=True)
class Ending:
    """What the end of one run took, in seconds of wall-clock time."""

    shape: str
    parameters: int
    domains: int  # of which one sample each was written
    samples: float | None  # None: without samples
    compressed: int  # bytes, by every compressor; 0 where results were kept from before
    compressors: float
    pages: float | None  # None: without pages


@dataclass(frozen=True)
class EstimatedEnding:
    """Seconds by part; None: unknown, so that the total is a lower bound."""

    compressors: float | None
    samples: float | None
    pages: float | None
    is_near: bool = True  # a model of about this size wrote samples here

    @property
    def total(self) -> float:
        """Return the seconds that are known."""
        return math.fsum(part or 0.0 for part in (self.compressors, self.samples, self.pages))

    @property
    def unknown(self) -> str:
        """Say what was not measured on this machine yet, so that the total is a lower bound; "" where all was."""
        parts = {COMPRESSING: self.compressors, SAMPLING: self.samples, PAGES: self.pages}
        missing = [name for name, seconds in parts.items() if seconds is None]
        if not self.is_near and self.samples is not None:
            missing.append("samples of a model of this size and of as many domains")
        return ", ".join(missing)


class PhaseTimes:
    """The seconds of the named phases of an end, which `show` shows; no phase is inside another."""

    def __init__(self, show: Callable[[str], AbstractContextManager[object]]) -> None:
        self._show = show
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to the phase's."""
        begin = time.perf_counter()
        try:
            with self._show(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def held_out_bytes(spec: StageSpec) -> int:
    """Return about how many bytes of held-out text the stage's evaluation scores, which is what is compressed."""
    store, total = spec.store, 0.0
    for domain in store.domains:
        tokens = store.tokens(domain, "held_out")
        share = min(1.0, spec.stage.evaluation.tokens / tokens) if tokens else 0.0
        total += share * store.text_bytes(domain, "held_out")
    return round(total)


def keep_ending(spec: StageSpec, seconds: dict[str, float], *, kept: bool) -> None:
    """Record the `seconds` of the phases at the end of a stage. `kept`: the compressors' results were there before."""
    ending = Ending(
        shape=stage_shape(spec.stage),
        parameters=parameter_count(spec.stage.model),
        domains=len(spec.store.domains),
        samples=seconds.get(SAMPLING),
        compressed=0 if kept else held_out_bytes(spec),
        compressors=seconds.get(COMPRESSING, 0.0),
        pages=seconds.get(PAGES),
    )
    _keep(ending)


def _keep(ending: Ending) -> None:
    path = speeds_directory() / _FILE
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [asdict(one) for one in [*_read(path.parent), ending][-_KEPT:]]
        write_text_atomically(path, json.dumps(records), shared=True)


def estimate_ending(
    spec: StageSpec, *, probe: bool, samples: bool = True, pages: bool = True, directory: Path | None = None
) -> EstimatedEnding:
    """Estimate the end of a stage from those of all shapes.

    `probe`: compress some of the held-out text now where no run has compressed anything yet. `samples`, `pages`: the
    run has them. `directory`: of the records; None: of this process's devices.
    """
    records = _read(directory or speeds_directory())
    writing: float | None = 0.0
    is_near = True
    if samples:
        writing, is_near = _samples(records, parameter_count(spec.stage.model), len(spec.store.domains))
    drawn = [record.pages for record in records if record.pages is not None]
    drawing = 0.0 if not pages else statistics.median(drawn) if drawn else None
    return EstimatedEnding(_compressors(spec, records, probe=probe), writing, drawing, is_near)


def with_ending(speed: Speed, ending: EstimatedEnding) -> tuple[Speed, str]:
    """Return the speed with the end of a run, and what of it was not measured here yet ("" where all was).

    Runs of earlier versions have measured their end with the rest, except for the pages.
    """
    if not (speed.calibrated or speed.without_ending):
        ending = EstimatedEnding(0.0, 0.0, ending.pages)
    return replace(speed, fixed=speed.fixed + ending.total, without_ending=False), ending.unknown


def _samples(records: Sequence[Ending], parameters: int, domains: int) -> tuple[float | None, bool]:
    """Return the seconds of the samples of the model nearest in size, and whether it is near.

    Most of them compile the sampler, which is done once for all domains. A shape's longest time is used: later ones may
    have found the programs in the compilation cache.
    """
    written = [record for record in records if record.samples is not None and record.parameters > 0]
    if not written:
        return None, True
    distance = {record.shape: abs(math.log(record.parameters / parameters)) for record in written}
    shape = min(distance, key=lambda name: distance[name])
    nearest = [record for record in written if record.shape == shape]
    longest = max(nearest, key=lambda record: record.samples or 0.0)
    is_near = distance[shape] <= math.log(_NEAR) and domains <= longest.domains
    return longest.samples, is_near


def _compressors(spec: StageSpec, records: Sequence[Ending], *, probe: bool) -> float | None:
    store, budget = spec.store, spec.stage.evaluation.tokens
    if are_kept(store, budget):
        return 0.0
    size = held_out_bytes(spec)
    rates = [r.compressors / r.compressed for r in records if r.compressed >= _PROBE_BYTES]
    rates = rates or [r.compressors / r.compressed for r in records if r.compressed]
    if rates:
        return size * statistics.median(rates)
    return size * _measured_rate(spec) if probe else None


def _measured_rate(spec: StageSpec) -> float:
    """Return the seconds per byte that the compressors take on the beginning of the corpus' held-out text; keep it."""
    store, tokenizer = spec.store, spec.store.tokenizer()
    text = b"".join(
        tokenizer.decode(document.tokens[1:].tolist()).encode()
        for domain in store.domains
        for document in store.held_out(domain, _PROBE_BYTES // (4 * len(store.domains)))
    )
    begin = time.perf_counter()
    compressed_bits_per_byte([text])
    seconds, size = time.perf_counter() - begin, max(1, len(text))
    _keep(Ending(stage_shape(spec.stage), 0, len(store.domains), None, size, seconds, None))
    return seconds / size


def _read(directory: Path) -> list[Ending]:
    with suppress(OSError, ValueError):
        values = json.loads((directory / _FILE).read_text())
        if isinstance(values, list):
            return [ending for value in values if (ending := _parse(value)) is not None]
    return []


def _parse(value: Any) -> Ending | None:
    """Read a record from JSON; None for anything else, e.g. of another version."""
    try:
        return Ending(**value)
    except TypeError:
        return None
