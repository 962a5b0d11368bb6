"""Read Tasks and Mixtures registered with SeqIO as a source: the extra `seqio`, with TensorFlow on the CPU.

Only `pathways-lite data build` uses this module. It writes an ordinary token store, so training needs neither SeqIO nor
TensorFlow, and resumes by index.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pathways_lite.data.documents import Document, InputChunk, Skipped, check_text
from pathways_lite.data.files import InputFile
from pathways_lite.data.listing import Listing
from pathways_lite.data.sources import Source
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.extras import install_command
from pathways_lite.recipe.load import importing_from

SEQIO = "seqio:"
_CHUNK_EXAMPLES = 20_000
_CHUNK_BYTES = 1 << 22  # a guess: the size is unknown before a chunk is read


@dataclass(frozen=True)
class SeqioSource(Source):
    """`seqio:NAME` or `seqio:NAME@SPLIT` (train): examples of a Task, or of a Mixture's Tasks at its rates.

    An example's text is its `inputs`, if any, and its `targets` before tokenization; tokens are decoded if the text was
    not kept. Examples are in SeqIO's order without shuffling, and read from the cache if there is one. Each Task is a
    domain.
    """

    has_files: ClassVar[bool] = False

    module: str | None = None  # a module or a Python file that registers the Tasks
    examples: int | None = None  # the most to read; required for a Mixture, as its Tasks may repeat forever

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "module": self.module, "examples": self.examples}

    def files(self, listing: Listing | None = None) -> list[InputFile]:
        """Return no files: SeqIO does not tell which it reads."""
        return []

    def chunks(self) -> Iterator[InputChunk]:
        """Yield chunks of each Task's examples. Raises UserError for an unknown name or split, or too few examples."""
        split = self._name_and_split()[1]
        for task, count in _examples_per_task(self._provider(), split, self.examples):
            domain = self.fields.domain or task
            for first in range(0, count, _CHUNK_EXAMPLES):
                yield SeqioChunk(self, task, split, domain, first, min(count, first + _CHUNK_EXAMPLES))

    def tokenizer(self) -> Tokenizer:
        """Return the vocabulary of the targets. Raises UserError if it is neither SentencePiece nor bytes."""
        seqio = _seqio()
        vocabulary = self._provider().output_features["targets"].vocabulary
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            from pathways_lite.data.sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer(vocabulary.sp_model, f"the vocabulary of {self.address}")
        if isinstance(vocabulary, seqio.ByteVocabulary):
            return ByteTokenizer()
        raise UserError(
            f"{self.address} has a {type(vocabulary).__name__}; a token store can use a SentencePieceVocabulary or a "
            "ByteVocabulary; to replace any other, name a tokenizer with --tokenizer"
        )

    def provider(self, name: str) -> Any:
        """Return the registered Task or Mixture. Raises UserError if there is none."""
        seqio = _seqio()
        if self.module is not None:
            _register(self.module)
        try:
            return seqio.get_mixture_or_task(name)
        except ValueError as error:
            registered = ", ".join(sorted([*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()])[:10]) or "none"
            raise UserError(
                f"SeqIO has no Task or Mixture {name!r} (registered: {registered}); name the module or the file "
                "that registers it with --import"
            ) from error

    def _provider(self) -> Any:
        return self.provider(self._name_and_split()[0])

    def _name_and_split(self) -> tuple[str, str]:
        name, _, split = self.address.removeprefix(SEQIO).partition("@")
        return name, split or "train"


@dataclass(frozen=True)
class SeqioChunk:
    """Examples first .. stop-1 of a Task."""

    source: SeqioSource
    task: str
    split: str
    domain: str
    first: int
    stop: int
    size: int = _CHUNK_BYTES
    input_bytes: int = 0

    def read(self) -> Iterator[Document | Skipped]:
        task = self.source.provider(self.task)
        examples = _dataset(task, self.split).skip(self.first).take(self.stop - self.first)
        features = task.output_features
        for index, example in enumerate(examples.as_numpy_iterator(), self.first):
            name = f"{self.task}/{self.split}/{index}"
            try:
                text = "\n".join(_text(example, key, features) for key in ("inputs", "targets") if key in example)
            except UnicodeDecodeError as error:
                yield Skipped(f"{name}: not UTF-8 ({error.reason} at byte {error.start})")
                continue
            yield check_text(text, name) or Document(name, self.domain, name, text)


def _text(example: dict[str, Any], key: str, features: Any) -> str:
    for name in (f"{key}_pretokenized", key):
        if isinstance(example.get(name), bytes):
            return str(example[name].decode())
    return str(features[key].vocabulary.decode(example[key].tolist()))


def _dataset(task: Any, split: str) -> Any:
    is_cached = task.cache_dir is not None
    return task.get_dataset(
        sequence_length=None, split=split, use_cached=is_cached, shuffle=False, num_epochs=1, trim_output_features=False
    )


def _examples_per_task(provider: Any, split: str, examples: int | None) -> list[tuple[str, int]]:
    """Return the number of examples of each Task: for a Mixture in the ratio of its rates, rounded to add up."""
    seqio = _seqio()
    if split not in provider.splits:
        raise UserError(f"{provider.name} has no split {split!r}.{did_you_mean(split, map(str, provider.splits))}")
    if not isinstance(provider, seqio.Mixture):
        return [(provider.name, _count_available(provider, split, examples))]
    if examples is None:
        raise UserError(f"{provider.name} is a Mixture: say with --examples how many to take at its rates")
    tasks = [task for task in provider.tasks if split in task.splits]
    rates = [provider.get_rate(task) for task in tasks]
    exact = [examples * rate / sum(rates) for rate in rates]
    floors = [int(number) for number in exact]
    rounded_up = sorted(range(len(tasks)), key=lambda i: floors[i] - exact[i])[: examples - sum(floors)]
    counts = [(task, floor + (i in rounded_up)) for i, (task, floor) in enumerate(zip(tasks, floors, strict=True))]
    counts = [(task, count) for task, count in counts if count]
    available = {task.name: _count_available(task, split, count) for task, count in counts}
    scarce, count = min(counts, key=lambda entry: available[entry[0].name] / entry[1])
    if available[scarce.name] < count:
        raise UserError(
            f"{provider.name} takes {count} of {examples} examples from {scarce.name}, which has "
            f"{available[scarce.name]}: they would repeat; use --examples {examples * available[scarce.name] // count} "
            "or fewer"
        )
    return [(task.name, count) for task, count in counts]


def _count_available(task: Any, split: str, limit: int | None) -> int:
    """Count the examples of a Task, up to `limit`."""
    return sum(1 for _ in islice(_dataset(task, split), limit))


_registered: set[str] = set()


def _register(module: str) -> None:
    """Run the module that registers Tasks; once per process, as SeqIO refuses to register a name twice."""
    if module in _registered:
        return
    if Path(module).is_file():
        with importing_from(Path(module).parent):
            runpy.run_path(module)
    else:
        sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"--import {module}: there is no such module or file ({error})") from error
        finally:
            sys.path.remove(str(Path.cwd()))
    _registered.add(module)


def _seqio() -> Any:
    """Import SeqIO and hide accelerators from TensorFlow. Raises UserError if the extra is not installed."""
    try:
        tensorflow, seqio = importlib.import_module("tensorflow"), importlib.import_module("seqio")
    except ImportError as error:
        raise UserError(f"seqio: sources need SeqIO and TensorFlow: {install_command('seqio')}") from error
    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)
    return seqio
