"""Build a token store from text: read and tokenize in worker processes, resumable at any time.

The steps, each in a module of its own: `sources` split the input into chunks, `workers` tokenize groups of them into
`shards`, and `assemble` writes the store from the shards.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pathways_lite.atomic_file import replace_atomically, write_text_atomically
from pathways_lite.cpu_cores import usable_cores
from pathways_lite.data.assemble import Contents, survey, write_store
from pathways_lite.data.documents import Document, InputChunk
from pathways_lite.data.files import READING
from pathways_lite.data.shards import Shard, ShardCounts, ShardSpec, count_documents, select_held_out
from pathways_lite.data.sources import Source
from pathways_lite.data.store import MANIFEST, VERSION, Store, open_store
from pathways_lite.data.tokenizer_files import load_tokenizer, save_tokenizer
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.data.workers import write_shards
from pathways_lite.data.zarr_io import is_remote, read_file
from pathways_lite.errors import UserError
from pathways_lite.paths import absolute_path, storage_address

# Text that a tokenizer is trained on, per token of its vocabulary: a token that is rarer than once in 256 bytes times
# the vocabulary size is seldom worth its place. The bound keeps training of the largest vocabularies to a few minutes.
SAMPLE_BYTES_PER_TOKEN, MAX_SAMPLE_BYTES = 256, 64 << 20
_MIN_SHARD, _MAX_SHARD = 1 << 20, 64 << 20  # bytes of text in a shard
_TRAINED = "sentencepiece"

Phase = Literal["sample", "train tokenizer", "tokenise", "write"]


@dataclass(frozen=True)
class Progress:
    """The state of a build, for display."""

    phase: Phase
    input_bytes: int  # total size of the input files
    done: ShardCounts


Report = Callable[[Progress], None]


def build(
    sources: Sequence[str | Source],
    out: str | Path,
    *,
    tokenizer: str | Tokenizer = "sentencepiece:8192",
    held_out: float | Sequence[str | Source] = 0.01,
    workers: int | None = None,
    workspace: Path | None = None,
    report: Report = lambda progress: None,
) -> Store:
    """Build the token store `out` from `sources`, or finish building it after an interruption.

    The result does not depend on the number of workers, on interruptions, or on where the files are.

    Args:
      sources: see `Source`; text is parsed by `Source.parse`.
      out: local directory, or gs:// or s3:// prefix.
      tokenizer: `bytes`; `sentencepiece:SIZE`, trained on 256 bytes of text per token (64 MB at most), spread evenly
        over the sources; a path of a `.model`, a `tokenizer.json`, or another store; or a tokenizer itself.
      held_out: share of the documents that are never in training, chosen by a hash of their id; at least one of every
        domain with two or more documents. Or sources whose documents are held out, and no others.
      workers: processes; None: one per core; 0: this process.
      workspace: local directory for unfinished work; None: OUT.building, if `out` is local.
      report: called with the progress, often.

    Raises UserError if a source is missing or has no readable document, if a tokenizer cannot be read or trained, or if
    `out` is, or is being built as, a different store.
    """
    address = storage_address(out)
    training_sources = _parse_sources(sources)
    if not training_sources:
        raise UserError("there is nothing to build from; name a file, a directory, or python:")
    share, held_out_sources = (0.0, _parse_sources(held_out)) if isinstance(held_out, Sequence) else (held_out, [])
    if not 0 <= share < 1:
        raise UserError(f"held_out={share} must be at least 0 and below 1, e.g. 0.01 for 1 %")
    directory = _workspace(address, workspace)
    outputs = [directory] if is_remote(address) else [Path(address), directory]
    training_sources = [source.without(outputs) for source in training_sources]
    held_out_sources = [source.without(outputs) for source in held_out_sources]
    all_sources = training_sources + held_out_sources
    plan = _Plan.make(all_sources, tokenizer, [source.address for source in held_out_sources] or share)
    if read_file(address, MANIFEST) is not None:
        store = _open_existing(address, plan)
        if plan.read(directory) == plan.content:  # killed after the last write, before it could clean up
            shutil.rmtree(directory)
        return store
    plan.start_or_resume(directory)
    total = plan.input_bytes
    trained = _load_or_train_tokenizer(
        directory / "tokenizer",
        tokenizer,
        training_sources,
        lambda phase: report(Progress(phase, total, ShardCounts())),
    )
    processes = len(usable_cores()) if workers is None else workers
    shards = _make_shards(directory / "shards", all_sources, trained, processes, total, report)
    contents = survey(shards)
    _require_documents(all_sources, contents, directory)
    counts = ShardCounts(len(contents.length), int(contents.length.sum()), int(contents.text_bytes.sum()))
    counts = replace(counts, skipped=contents.skipped_documents, input_bytes=total)
    report(Progress("write", total, counts))
    write_store(
        address,
        shards,
        contents,
        trained,
        held=select_held_out(contents.domain, contents.group, share) | (contents.source >= len(training_sources)),
        plan=plan.content,
        progress=lambda documents: report(Progress("write", total, replace(counts, documents=documents))),
    )
    shutil.rmtree(directory)
    return open_store(address)


# ---- the plan ----


def _parse_sources(sources: Sequence[str | Source]) -> list[Source]:
    return [Source.parse(source) if isinstance(source, str) else source for source in sources]


@dataclass(frozen=True)
class _Plan:
    """Everything that determines a store's content."""

    content: dict[str, Any]
    input_bytes: int

    @classmethod
    def make(cls, sources: Sequence[Source], tokenizer: str | Tokenizer, held_out: float | list[str]) -> _Plan:
        states = [[file.state() for file in source.files()] for source in sources]
        content = {
            "version": VERSION,
            "sources": [source.to_json() for source in sources],
            "files": hashlib.sha256(json.dumps(states).encode()).hexdigest(),
            "tokenizer": _tokenizer_identity(tokenizer),
            "held_out": held_out,
            "reading": READING,
        }
        return cls(content, sum(size for source in states for _, size, _ in source))

    def start_or_resume(self, directory: Path) -> None:
        """Start the build in `directory`, or resume it. Raises UserError if another build was started there."""
        started = self.read(directory)
        if started is None:
            directory.mkdir(parents=True, exist_ok=True)
            write_text_atomically(directory / "plan.json", json.dumps(self.content, indent=2))
            return
        if different := self.describe_differences(started):
            raise UserError(
                f"{directory} holds an unfinished build with {different}; "
                f"finish that one with its own arguments, or delete the directory"
            )

    @staticmethod
    def read(directory: Path) -> dict[str, Any] | None:
        """Return the content of the plan of the build that was started in `directory`, None if there is none."""
        file = directory / "plan.json"
        return json.loads(file.read_text()) if file.exists() else None

    def describe_differences(self, other: dict[str, Any]) -> str:
        """Describe how the content `other` differs from this plan's; empty if it is equal."""
        descriptions = {
            "version": "another version of the format",
            "sources": "other sources",
            "files": "other files, or files that were changed since",
            "tokenizer": f"tokenizer {other.get('tokenizer')} instead of {self.content['tokenizer']}",
            "held_out": f"held_out={other.get('held_out')} instead of {self.content['held_out']}",
            "reading": "another version's way of reading files",
        }
        return " and ".join(text for name, text in descriptions.items() if other.get(name) != self.content[name])


def _open_existing(address: str, plan: _Plan) -> Store:
    """Open the store at `address`. Raises UserError if it was built by another plan."""
    store = open_store(address)
    # A whole store stays what it is, whichever version has read its files.
    if different := plan.describe_differences(store.manifest.plan | {"reading": READING}):
        raise UserError(f"{address} holds a store built from {different}; name another directory, or delete that one")
    return store


def _workspace(address: str, workspace: Path | None) -> Path:
    """Return the directory for unfinished work. It is deleted in the end, so it is a new one inside `workspace`."""
    if workspace is not None:
        return workspace / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}.building"
    if is_remote(address):
        raise UserError(f"{address} is remote: name a local directory for unfinished work with --workspace")
    path = Path(address) if Path(address).name not in ("", "..") else Path(absolute_path(address))
    return path.with_name(f"{path.name}.building")


def _require_documents(sources: Sequence[Source], contents: Contents, directory: Path) -> None:
    """Raise UserError and delete the unfinished work, which is useless then, if a source has no document."""
    for number, source in enumerate(sources):
        if not (contents.source == number).any():
            shutil.rmtree(directory)
            problems = [sentence for n, sentence in contents.skipped if n == number]
            why = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
            raise UserError(f"{source.address}: not one document could be read from it{why}")


# ---- the tokenizer ----


def _tokenizer_identity(request: str | Tokenizer) -> str:
    """Return what, together with the sources, determines the tokenizer; its path does not matter."""
    if not isinstance(request, str):
        return request.fingerprint
    if request == ByteTokenizer.kind or request.startswith(f"{_TRAINED}:"):
        return request
    return load_tokenizer(request).fingerprint


def _load_or_train_tokenizer(
    directory: Path, request: str | Tokenizer, sources: Sequence[Source], report_phase: Callable[[Phase], None]
) -> Tokenizer:
    """Return the requested tokenizer; a trained one is saved in `directory`, so that it is trained only once."""
    if not isinstance(request, str):
        return request
    if request == ByteTokenizer.kind:
        return ByteTokenizer()
    if not request.startswith(f"{_TRAINED}:"):
        return load_tokenizer(request)
    if not directory.exists():
        size = request.removeprefix(f"{_TRAINED}:")
        if not size.isdigit():
            raise UserError(f"--tokenizer {request}: {size!r} is not a number of tokens; write e.g. {_TRAINED}:8192")
        from pathways_lite.data.sentencepiece import train_sentencepiece

        report_phase("sample")
        texts = sample_texts(sources, min(SAMPLE_BYTES_PER_TOKEN * int(size), MAX_SAMPLE_BYTES))
        report_phase("train tokenizer")
        with replace_atomically(directory) as temporary:
            save_tokenizer(train_sentencepiece(texts, int(size)), temporary)
    return load_tokenizer(directory)


def sample_texts(sources: Sequence[Source], size: int) -> list[str]:
    """Sample about `size` bytes of text, spread evenly over all chunks of the sources; deterministic."""
    chosen: list[tuple[int, int, InputChunk]] = []  # a heap, the largest key first
    total = 0
    chunks = (chunk for source in sources for chunk in source.chunks() if chunk.size)
    for number, chunk in enumerate(chunks):
        key = int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=8).digest())
        heapq.heappush(chosen, (-key, number, chunk))
        total += chunk.size
        while total - chosen[0][2].size >= size:
            total -= heapq.heappop(chosen)[2].size
    # So that a single huge chunk does not crowd out the others.
    allowance = max(1 << 16, 2 * size // max(1, len(chosen)))
    texts = []
    for _, _, chunk in sorted(chosen, key=lambda entry: entry[1]):
        remaining = allowance
        for item in chunk.read():
            if isinstance(item, Document):
                texts.append(item.text[:remaining])
                remaining -= len(item.text)
            if remaining <= 0:
                break
    return texts


# ---- the shards ----


def _shard_specs(sources: Sequence[Source], total: int) -> Iterator[ShardSpec]:
    """Group the input chunks into shards, always in the same way."""
    target = min(max(total // 256, _MIN_SHARD), _MAX_SHARD)
    number, size = 0, 0
    chunks: list[tuple[int, InputChunk]] = []
    for source_number, source in enumerate(sources):
        for chunk in source.chunks():
            chunks.append((source_number, chunk))
            size += chunk.size
            if size >= target:
                yield ShardSpec(number, tuple(chunks))
                number, size, chunks = number + 1, 0, []
    if chunks:
        yield ShardSpec(number, tuple(chunks))


def _make_shards(
    directory: Path, sources: Sequence[Source], tokenizer: Tokenizer, workers: int, total: int, report: Report
) -> list[Path]:
    """Write all shards that do not exist yet; return the paths of all, in order."""
    directory.mkdir(exist_ok=True)
    shards: list[Path] = []
    done = ShardCounts()

    def missing() -> Iterator[tuple[ShardSpec, Path]]:
        nonlocal done
        for spec in _shard_specs(sources, total):
            path = directory / f"{spec.number:06d}.npz"
            shards.append(path)
            if path.exists():
                done += count_documents(Shard.load(path, tokens=False), spec.input_bytes)
            else:
                yield spec, path

    for counts in write_shards(missing(), tokenizer, workers):
        done += counts
        report(Progress("tokenise", total, done))
    return shards
