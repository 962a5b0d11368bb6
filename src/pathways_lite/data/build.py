"""Text into a token store: reading and tokenising by worker processes, resumable at any time."""

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
from pathways_lite.data.shards import Shard, ShardCounts, ShardSpec, count_documents
from pathways_lite.data.shards import held_out as split_by_hash
from pathways_lite.data.sources import Source
from pathways_lite.data.store import MANIFEST, VERSION, Store, open_store
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer, save_tokenizer
from pathways_lite.data.workers import tokenise_all
from pathways_lite.data.zarr_io import is_remote, read_file
from pathways_lite.errors import UserError

# Text that a tokenizer is trained on, per token of its vocabulary: a token that is met once in 256 bytes of text
# times the vocabulary is seldom worth its place. The bound keeps the largest vocabularies to some minutes.
SAMPLE_BYTES_PER_TOKEN, MAX_SAMPLE_BYTES = 256, 64 << 20
_MIN_SHARD, _MAX_SHARD = 1 << 20, 64 << 20  # bytes of text in a shard
_TRAINED = "sentencepiece"

Phase = Literal["sample", "train tokenizer", "tokenise", "write"]


@dataclass(frozen=True)
class Progress:
    """How far a build is."""

    phase: Phase
    input_bytes: int  # of the input files, in all
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

    The result does not depend on the number of workers, on interruptions, or on where the files lie.

    Args:
      sources: see `Source`; text is parsed by `Source.parse`.
      out: local directory, or gs:// or s3:// prefix.
      tokenizer: `bytes`; `sentencepiece:SIZE`, trained on 256 bytes of text per token (64 MB at most), spread evenly
        over the sources; a path of a `.model`, a `tokenizer.json`, or another store; or a tokenizer itself.
      held_out: share of the documents that are never in training, chosen by hash of their id; every domain
        of at least two documents gets at least one. Or sources whose documents are, and no others.
      workers: processes; None: one per core; 0: this process.
      workspace: local directory in which unfinished work is kept; None: in OUT.building, where `out` is local.
      report: called with the progress, often.

    Raises UserError: a source that is not there or has no good document, a tokenizer that cannot be read or
    trained, or an `out` that holds, or is being made into, something else.
    """
    address = str(out)
    training = _parsed(sources)
    if not training:
        raise UserError("there is nothing to build from; name a file, a directory, or python:")
    share, apart = (0.0, _parsed(held_out)) if isinstance(held_out, Sequence) else (held_out, [])
    if not 0 <= share < 1:
        raise UserError(f"held_out={share} must be at least 0 and below 1, e.g. 0.01 for 1 %")
    parsed = training + apart
    plan = _Plan.make(parsed, tokenizer, [source.address for source in apart] or share)
    place = _workspace(address, workspace)
    if read_file(address, MANIFEST) is not None:
        store = _existing(address, plan)
        if plan.begun(place) == plan.content:  # killed after the last write, before it could clean up
            shutil.rmtree(place)
        return store
    plan.enter(place)
    total = plan.input_bytes
    trained = _tokenizer(
        place / "tokenizer", tokenizer, training, lambda phase: report(Progress(phase, total, ShardCounts()))
    )
    processes = len(usable_cores()) if workers is None else workers
    shards = _tokenise(place / "shards", parsed, trained, processes, total, report)
    contents = survey(shards)
    _require_documents(parsed, contents, place)
    everything = ShardCounts(len(contents.length), int(contents.length.sum()), int(contents.text_bytes.sum()))
    everything = replace(everything, skipped=len(contents.skipped), input_bytes=total)
    report(Progress("write", total, everything))
    write_store(
        address,
        shards,
        contents,
        trained,
        held=split_by_hash(contents.domain, contents.group, share) | (contents.source >= len(training)),
        plan=plan.content,
        progress=lambda documents: report(Progress("write", total, replace(everything, documents=documents))),
    )
    shutil.rmtree(place)
    return open_store(address)


# ---- what is asked for ----


def _parsed(sources: Sequence[str | Source]) -> list[Source]:
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
        }
        return cls(content, sum(size for source in states for _, size, _ in source))

    def enter(self, place: Path) -> None:
        """Begin in `place`, or go on there with what this plan began."""
        begun = self.begun(place)
        if begun is None:
            place.mkdir(parents=True, exist_ok=True)
            write_text_atomically(place / "plan.json", json.dumps(self.content, indent=2))
            return
        different = self.differences(begun)
        if different:
            raise UserError(
                f"{place} holds an unfinished build with {different}; "
                f"finish that one with its own arguments, or delete the directory"
            )

    @staticmethod
    def begun(place: Path) -> dict[str, Any] | None:
        """The content of the plan that was begun in `place`, if any."""
        file = place / "plan.json"
        return json.loads(file.read_text()) if file.exists() else None

    def differences(self, other: dict[str, Any]) -> str:
        """In what `other` differs from this plan, in words; empty if in nothing."""
        words = {
            "version": "another version of the format",
            "sources": "other sources",
            "files": "other files, or files that were changed since",
            "tokenizer": f"tokenizer {other.get('tokenizer')} instead of {self.content['tokenizer']}",
            "held_out": f"held_out={other.get('held_out')} instead of {self.content['held_out']}",
        }
        return " and ".join(text for name, text in words.items() if other.get(name) != self.content[name])


def _existing(address: str, plan: _Plan) -> Store:
    """The store at `address`, if it is what was asked for."""
    store = open_store(address)
    different = plan.differences(store.manifest.plan)
    if different:
        raise UserError(f"{address} holds a store built from {different}; name another directory, or delete that one")
    return store


def _workspace(address: str, workspace: Path | None) -> Path:
    if workspace is not None:
        # A directory of its own in there, as it is deleted in the end.
        return workspace / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}.building"
    if is_remote(address):
        raise UserError(f"{address} is remote: say with --workspace in which local directory unfinished work is kept")
    return Path(address.rstrip("/") + ".building")


def _require_documents(sources: Sequence[Source], contents: Contents, place: Path) -> None:
    """Every source must have given a document; if not, what was made of them is of no use."""
    for number, source in enumerate(sources):
        if not (contents.source == number).any():
            shutil.rmtree(place)
            problems = [sentence for n, sentence in contents.skipped if n == number]
            why = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
            raise UserError(f"{source.address}: not one document could be read from it{why}")


# ---- the tokenizer ----


def _tokenizer_identity(request: str | Tokenizer) -> str:
    """What determines the tokenizer, with the sources, whatever its path."""
    if not isinstance(request, str):
        return request.fingerprint
    if request == ByteTokenizer.kind or request.startswith(f"{_TRAINED}:"):
        return request
    return load_tokenizer(request).fingerprint


def _tokenizer(
    directory: Path, request: str | Tokenizer, sources: Sequence[Source], phase: Callable[[Phase], None]
) -> Tokenizer:
    """The tokenizer asked for; a trained one is kept in `directory`, so that it is trained only once."""
    if not isinstance(request, str):
        return request
    if request == ByteTokenizer.kind:
        return ByteTokenizer()
    if not request.startswith(f"{_TRAINED}:"):
        return load_tokenizer(request)
    if not directory.exists():
        size = request.removeprefix(f"{_TRAINED}:")
        if not size.isdigit():
            raise UserError(f"--tokenizer {request}: {size!r} is no number of tokens; write e.g. {_TRAINED}:8192")
        from pathways_lite.data.sentencepiece import train_sentencepiece

        phase("sample")
        texts = sample(sources, min(SAMPLE_BYTES_PER_TOKEN * int(size), MAX_SAMPLE_BYTES))
        phase("train tokenizer")
        with replace_atomically(directory) as temporary:
            save_tokenizer(train_sentencepiece(texts, int(size)), temporary)
    return load_tokenizer(directory)


def sample(sources: Sequence[Source], size: int) -> list[str]:
    """About `size` bytes of text, spread evenly over all pieces of the sources; always the same ones."""
    chosen: list[tuple[int, int, InputChunk]] = []  # a heap, the largest key first
    total = 0
    pieces = (piece for source in sources for piece in source.pieces() if piece.size)
    for number, piece in enumerate(pieces):
        key = int.from_bytes(hashlib.blake2b(str(number).encode(), digest_size=8).digest())
        heapq.heappush(chosen, (-key, number, piece))
        total += piece.size
        while total - chosen[0][2].size >= size:
            total -= heapq.heappop(chosen)[2].size
    # So that a single huge piece does not crowd out the others.
    allowance = max(1 << 16, 2 * size // max(1, len(chosen)))
    texts = []
    for _, _, piece in sorted(chosen, key=lambda entry: entry[1]):
        left = allowance
        for item in piece.read():
            if isinstance(item, Document):
                texts.append(item.text[:left])
                left -= len(item.text)
            if left <= 0:
                break
    return texts


# ---- the shards ----


def _work(sources: Sequence[Source], total: int) -> Iterator[ShardSpec]:
    """The input cut into shards: always at the same places."""
    target = min(max(total // 256, _MIN_SHARD), _MAX_SHARD)
    number, size = 0, 0
    pieces: list[tuple[int, InputChunk]] = []
    for source_number, source in enumerate(sources):
        for piece in source.pieces():
            pieces.append((source_number, piece))
            size += piece.size
            if size >= target:
                yield ShardSpec(number, tuple(pieces))
                number, size, pieces = number + 1, 0, []
    if pieces:
        yield ShardSpec(number, tuple(pieces))


def _tokenise(
    directory: Path, sources: Sequence[Source], tokenizer: Tokenizer, workers: int, total: int, report: Report
) -> list[Path]:
    """Make all shards that are not there yet; returns all of them, in order."""
    directory.mkdir(exist_ok=True)
    shards: list[Path] = []
    done = ShardCounts()

    def missing() -> Iterator[tuple[ShardSpec, Path]]:
        nonlocal done
        for work in _work(sources, total):
            path = directory / f"{work.number:06d}.npz"
            shards.append(path)
            if path.exists():
                done += count_documents(Shard.load(path, tokens=False), work.input_bytes)
            else:
                yield work, path

    for made in tokenise_all(missing(), tokenizer, workers):
        done += made
        report(Progress("tokenise", total, done))
    return shards
