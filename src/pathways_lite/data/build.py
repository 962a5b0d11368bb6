"""Build a token store from text: read and tokenize in worker processes, resumable at any time.

The steps, each in a module of its own: `train_tokenizer` loads or trains the tokenizer, `sources` split the input into
chunks, `workers` tokenize groups of them into `shards`, and `assemble` writes the store from the shards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.cpu_cores import usable_cores
from pathways_lite.data.assemble import Contents, survey, write_store
from pathways_lite.data.documents import InputChunk, utf8_name
from pathways_lite.data.files import READING, InputFile
from pathways_lite.data.frame_tokens import resolve_frame
from pathways_lite.data.preflight import no_document_error, require_apart, require_documents, require_domains
from pathways_lite.data.shards import (
    HeldOutShares,
    ShardCounts,
    ShardSpec,
    count_documents,
    held_out_text,
    load_whole_shard,
    select_held_out,
)
from pathways_lite.data.sources import Source
from pathways_lite.data.store import MANIFEST, VERSION, Store, open_store
from pathways_lite.data.store_lock import clear_workspace, lock_store, replaced_store, store_workspace
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.data.train_tokenizer import TokenizerPhase, load_or_train_tokenizer, tokenizer_identity
from pathways_lite.data.workers import write_shards
from pathways_lite.data.zarr_io import is_remote, read_file
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.errors import UserError
from pathways_lite.paths import storage_address

_MIN_SHARD, _MAX_SHARD = 1 << 20, 64 << 20  # bytes of text in a shard

Phase = TokenizerPhase | Literal["tokenise", "write"]


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
    bos: str | None = None,
    eos: str | None = None,
    held_out: float | HeldOutShares | Sequence[str | Source] = 0.01,
    workers: int | None = None,
    workspace: Path | None = None,
    replace_store: bool = False,
    report: Report = lambda progress: None,
) -> Store:
    """Build the token store `out` from `sources`, or finish building it after an interruption.

    The result does not depend on the number of workers, on interruptions, or on where the files are.

    Args:
      sources: see `Source`; text is parsed by `Source.parse`.
      out: local directory, or gs:// or s3:// prefix.
      tokenizer: `bytes`; `sentencepiece:SIZE`, trained on 256 bytes of text per token (64 MB at most), spread evenly
        over the sources; a path of a `.model`, a `tokenizer.json`, or another store; or a tokenizer itself.
      bos, eos: names of the tokens that open and close a document, or "auto" (`frame_tokens.resolve_frame`); None: the
        tokenizer's EOD does both.
      held_out: share of the documents that are never in training, chosen by a hash of their id; at least one of every
        domain with two or more documents; or shares by domain. Or sources whose documents are held out, and no others.
      workers: processes; None: one per core; 0: this process.
      workspace: local directory for unfinished work; None: OUT.building, if `out` is local.
      replace_store: build even if `out` holds a store, which is replaced when the new one is complete.
      report: called with the progress, often.

    Raises UserError if a source is missing, has no readable document, or changes meanwhile, if a tokenizer cannot be
    read or trained, if `out` is a different store or the workspace holds the unfinished build of one, or if another
    process is building it.
    """
    address = storage_address(out)
    training_sources = _parse_sources(sources)
    if not training_sources:
        raise UserError("there is nothing to build from; name a file, a directory, or python:")
    if replace_store:
        with replaced_store(address) as new:
            options: dict[str, Any] = {"tokenizer": tokenizer, "bos": bos, "eos": eos, "held_out": held_out}
            build(training_sources, new, **options, workers=workers, workspace=workspace, report=report)
        return open_store(address)
    shares, held_out_sources = HeldOutShares(0.0), list[Source]()
    if isinstance(held_out, HeldOutShares):
        shares = held_out
    elif isinstance(held_out, Sequence):
        held_out_sources = _parse_sources(held_out)
    else:
        shares = HeldOutShares(held_out)
    if workers is not None and workers < 0:
        raise UserError(f"workers={workers} must be at least 0; 0 works in this process")
    directory = _workspace(address, workspace)
    outputs = [directory] if is_remote(address) else [Path(address), directory, store_workspace(address)]
    training_sources = [source.without(outputs) for source in training_sources]
    held_out_sources = [source.without(outputs) for source in held_out_sources]
    require_apart(training_sources, held_out_sources)
    all_sources = training_sources + held_out_sources
    frame_names = {name: token for name, token in (("bos", bos), ("eos", eos)) if token is not None}
    held_out_names = [utf8_name(source.address) for source in held_out_sources]
    plan = _Plan.make(all_sources, tokenizer, frame_names, held_out_names or shares)
    if read_file(address, MANIFEST) is not None:
        store = _open_existing(address, plan)
        if plan.read(directory) == plan.content:  # killed after the last write, before it could clean up
            shutil.rmtree(directory, ignore_errors=True)
        return store
    if not plan.is_started(directory):
        require_documents(all_sources)
        require_domains(all_sources, shares.by_domain)
    with lock_store(address, directory):
        if read_file(address, MANIFEST) is not None:  # by the process that has just released the lock
            return _open_existing(address, plan)
        plan.start_or_resume(directory)
        try:
            trained = load_or_train_tokenizer(
                directory / "tokenizer",
                tokenizer,
                training_sources,
                lambda phase: report(Progress(phase, plan.input_bytes, ShardCounts())),
            )
            frame = resolve_frame(trained, bos, eos)
            processes = len(usable_cores()) if workers is None else workers
            specs = _shard_specs(all_sources, plan.input_bytes, frame)
            shards = _make_shards(directory / "shards", specs, trained, processes, plan.input_bytes, report)
            plan.require_unchanged(all_sources, directory)
            contents = survey(shards)
            _require_documents(all_sources, contents, directory)
            held_out_by_source = contents.source >= len(training_sources)
            by_domain = shares.of(contents.domains)
            held = select_held_out(contents.domain, contents.group, by_domain) | held_out_by_source
            _write(address, shards, contents, trained, frame, held, plan, report)
            clear_workspace(directory)
        except BaseException as error:
            # Where nothing is lost, nothing should bar a corrected command or lie around. A trained tokenizer is kept
            # after an interruption, but not where the arguments were wrong.
            kept = ("shards/*.npz",) if isinstance(error, UserError) else ("shards/*.npz", "tokenizer/*")
            if not any(any(directory.glob(pattern)) for pattern in kept):
                clear_workspace(directory)
            raise
    return open_store(address)


def _write(
    address: str,
    shards: Sequence[Path],
    contents: Contents,
    tokenizer: Tokenizer,
    frame: DocumentFrame,
    held: np.ndarray,
    plan: _Plan,
    report: Report,
) -> None:
    """Write the store from its shards, and report the progress."""
    total = plan.input_bytes
    counts = ShardCounts(len(contents.length), int(contents.length.sum()), int(contents.text_bytes.sum()))
    counts = replace(counts, skipped=contents.skipped_documents, input_bytes=total)
    report(Progress("write", total, counts))
    write_store(
        address,
        shards,
        contents,
        tokenizer,
        frame=frame,
        held=held,
        plan=plan.content,
        progress=lambda documents: report(Progress("write", total, replace(counts, documents=documents))),
    )


# ---- the plan ----


def _parse_sources(sources: Sequence[str | Source]) -> list[Source]:
    return [Source.parse(source) if isinstance(source, str) else source for source in sources]


@dataclass(frozen=True)
class _Plan:
    """Everything that determines a store's content."""

    content: dict[str, Any]
    states: list[list[FileState]]  # of the files of each source

    @property
    def input_bytes(self) -> int:
        return sum(size for source in self.states for _, size, _ in source)

    @classmethod
    def make(
        cls,
        sources: Sequence[Source],
        tokenizer: str | Tokenizer,
        frame: Mapping[str, str],
        held_out: HeldOutShares | list[str],
    ) -> _Plan:
        states = _file_states(sources)
        content = {
            "version": VERSION,
            "sources": [source.to_json() for source in sources],
            "files": hashlib.sha256(json.dumps(states).encode()).hexdigest(),
            "tokenizer": tokenizer_identity(tokenizer),
            "held_out": held_out.to_json() if isinstance(held_out, HeldOutShares) else held_out,
            "reading": READING,
            **({"frame": dict(frame)} if frame else {}),
        }
        return cls(content, states)

    def is_started(self, directory: Path) -> bool:
        """Return whether this build, perhaps with other shares held out, was started in `directory`."""
        started = self.read(directory)
        return started is not None and not self._describe_differences_of_shards(started)

    def _describe_differences_of_shards(self, other: dict[str, Any]) -> str:
        """Describe how another build's shards differ: not by the shares that will be held out of them."""
        return self.describe_differences(other | {"held_out": self.content["held_out"]})

    def start_or_resume(self, directory: Path) -> None:
        """Start the build in `directory`, or resume it.

        Raises UserError if another build was started there and has tokenized something.
        """
        shards, started = directory / "shards", self.read(directory)
        different = self._describe_differences_of_shards(started) if started is not None else ""
        if different and any(shards.glob("*.npz")):
            raise UserError(
                f"{directory} holds an unfinished build with {different}; "
                f"finish that one with its own arguments, or delete the directory"
            )
        if different or started is None:
            for unusable in (shards, directory / "tokenizer"):
                shutil.rmtree(unusable, ignore_errors=True)
        if started != self.content:
            directory.mkdir(parents=True, exist_ok=True)
            write_text_atomically(directory / "plan.json", json.dumps(self.content, indent=2))

    def require_unchanged(self, sources: Sequence[Source], directory: Path) -> None:
        """Raise UserError and delete the unfinished work if files are not as they were when the build began."""
        now = {entry for source in _file_states(sources) for entry in source}
        changed = sorted({name for source in self.states for name, *rest in source if (name, *rest) not in now})
        changed += sorted({name for name, *_ in now} - {name for source in self.states for name, *_ in source})
        if changed:
            clear_workspace(directory)
            more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
            raise UserError(
                f"{changed[0]}{more} changed while the store was built from it, so the store would hold neither the "
                "old text nor the new; nothing was written. Give the same command when nothing writes there"
            )

    @staticmethod
    def read(directory: Path) -> dict[str, Any] | None:
        """Return the content of the plan of the build that was started in `directory`, None if there is none."""
        try:
            content: dict[str, Any] = json.loads((directory / "plan.json").read_text())
        except (FileNotFoundError, ValueError):  # not there, or of a machine that lost its power
            return None
        return content

    def describe_differences(self, other: dict[str, Any]) -> str:
        """Describe how the content `other` differs from this plan's; empty if it is equal."""
        there, asked = held_out_text(other.get("held_out")), held_out_text(self.content["held_out"])
        descriptions = {
            "version": "another version of the format",
            "sources": "other sources",
            "files": "other files, or files that were changed since",
            "tokenizer": f"tokenizer {other.get('tokenizer')} instead of {self.content['tokenizer']}",
            "held_out": f"{there} held out instead of {asked}",
            "reading": "another version's way of reading files",
            "frame": f"{_frame_text(other.get('frame'))} instead of {_frame_text(self.content.get('frame'))}",
        }
        return " and ".join(text for name, text in descriptions.items() if other.get(name) != self.content.get(name))


def _frame_text(frame: Mapping[str, str] | None) -> str:
    return " ".join(f"--{name} {token}" for name, token in (frame or {}).items()) or "neither --bos nor --eos"


FileState = tuple[str, int, int]
"""Name, size and time of the last change of a file."""


def _file_states(sources: Sequence[Source]) -> list[list[FileState]]:
    return [[state for file in source.files() if (state := _file_state(file))] for source in sources]


def _file_state(file: InputFile) -> FileState | None:
    try:
        return file.state()
    except FileNotFoundError:  # deleted after the directory was read
        return None


def _open_existing(address: str, plan: _Plan) -> Store:
    """Open the store at `address`. Raises UserError if it was built by another plan."""
    store = open_store(address)
    # A whole store stays what it is, whichever version has read its files.
    if different := plan.describe_differences(store.manifest.plan | {"reading": READING}):
        raise UserError(
            f"{address} holds a store built from {different}; name another directory, or put this one in "
            "its place with --replace"
        )
    return store


def _workspace(address: str, workspace: Path | None) -> Path:
    """Return the directory for unfinished work. It is deleted in the end, so it is a new one inside `workspace`."""
    if workspace is not None:
        return workspace / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}.building"
    if is_remote(address):
        raise UserError(f"{address} is remote: name a local directory for unfinished work with --workspace")
    return store_workspace(address)


def _require_documents(sources: Sequence[Source], contents: Contents, directory: Path) -> None:
    """Raise UserError and delete the unfinished work, which is useless then, if a source has no document."""
    for number, source in enumerate(sources):
        if not (contents.source == number).any():
            clear_workspace(directory)
            raise no_document_error(source, [sentence for n, sentence in contents.skipped if n == number])


# ---- the shards ----


def _shard_specs(sources: Sequence[Source], total: int, frame: DocumentFrame) -> Iterator[ShardSpec]:
    """Group the input chunks into shards, always in the same way."""
    target = min(max(total // 256, _MIN_SHARD), _MAX_SHARD)
    number, size = 0, 0
    chunks: list[tuple[int, InputChunk]] = []
    for source_number, source in enumerate(sources):
        for chunk in source.chunks():
            chunks.append((source_number, chunk))
            size += chunk.size
            if size >= target:
                yield ShardSpec(number, tuple(chunks), frame)
                number, size, chunks = number + 1, 0, []
    if chunks:
        yield ShardSpec(number, tuple(chunks), frame)


def _make_shards(
    directory: Path, specs: Iterator[ShardSpec], tokenizer: Tokenizer, workers: int, total: int, report: Report
) -> list[Path]:
    """Write all shards that do not exist yet, or are damaged; return the paths of all, in order."""
    directory.mkdir(exist_ok=True)
    shards: list[Path] = []
    done = ShardCounts()

    def missing() -> Iterator[tuple[ShardSpec, Path]]:
        nonlocal done
        for spec in specs:
            path = directory / f"{spec.number:06d}.npz"
            shards.append(path)
            shard = load_whole_shard(path)
            if shard is None:
                yield spec, path
            else:
                done += count_documents(shard, spec.input_bytes)

    for counts in write_shards(missing(), tokenizer, workers):
        done += counts
        report(Progress("tokenise", total, done))
    return shards
