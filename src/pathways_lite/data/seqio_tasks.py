"""Tasks and Mixtures registered with SeqIO, as a source of text: the extra `seqio`, with TensorFlow on the CPU.

Only `pathways-lite data build` reads them. What it writes is a token store like any other, so training needs neither
SeqIO nor TensorFlow, and goes on by index.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pathways_lite.data.documents import Document, InputChunk, Skipped, check_text
from pathways_lite.data.sources import InputFile, Source
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.errors import UserError

SEQIO = "seqio:"
_PIECE = 20_000  # examples
_GUESS = 1 << 22  # bytes in a piece, which nobody knows before it is read


@dataclass(frozen=True)
class SeqioSource(Source):
    """`seqio:NAME` or `seqio:NAME@SPLIT` (train): examples of a Task, or of a Mixture's Tasks at its rates.

    An example's text is its `targets` before tokenisation, after its `inputs` where it has any; tokens are decoded
    where the text was not kept. Examples come in SeqIO's order without shuffling, the cached ones where there is a
    cache. Each Task is a domain.
    """

    module: str | None = None  # registers them: a module, or a Python file
    examples: int | None = None  # at most so many; a Mixture needs it, as its Tasks may repeat for ever

    def files(self) -> list[InputFile]:
        """None: what is read is not known by files."""
        return []

    def pieces(self) -> Iterator[InputChunk]:
        """Parts of each Task's examples. Raises UserError for a name, a split or a number that there is not."""
        split = self._name_and_split()[1]
        for task, count in _shares(self._provider(), split, self.examples):
            domain = self.fields.domain or task
            for first in range(0, count, _PIECE):
                yield SeqioPiece(self, task, split, domain, first, min(count, first + _PIECE))

    def tokenizer(self) -> Tokenizer:
        """The vocabulary of the targets. Raises UserError where it is neither SentencePiece nor bytes."""
        seqio = _seqio()
        vocabulary = self._provider().output_features["targets"].vocabulary
        if isinstance(vocabulary, seqio.SentencePieceVocabulary):
            from pathways_lite.data.sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer(vocabulary.sp_model, f"the vocabulary of {self.address}")
        if isinstance(vocabulary, seqio.ByteVocabulary):
            return ByteTokenizer()
        raise UserError(
            f"{self.address} has a {type(vocabulary).__name__}; a token store can take over a SentencePieceVocabulary "
            "or a ByteVocabulary, or has its text tokenised by --tokenizer"
        )

    def provider(self, name: str) -> Any:
        """The registered Task or Mixture. Raises UserError where there is none."""
        seqio = _seqio()
        if self.module is not None:
            _register(self.module)
        try:
            return seqio.get_mixture_or_task(name)
        except ValueError as error:
            known = ", ".join(sorted([*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()])[:10]) or "none"
            raise UserError(
                f"SeqIO has no Task or Mixture {name!r} (registered: {known}); name the module or the file that "
                "registers it with --import"
            ) from error

    def _provider(self) -> Any:
        return self.provider(self._name_and_split()[0])

    def _name_and_split(self) -> tuple[str, str]:
        name, _, split = self.address.removeprefix(SEQIO).partition("@")
        return name, split or "train"


@dataclass(frozen=True)
class SeqioPiece:
    """Examples first .. stop-1 of a Task."""

    source: SeqioSource
    task: str
    split: str
    domain: str
    first: int
    stop: int
    size: int = _GUESS
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
    cached = task.cache_dir is not None
    return task.get_dataset(
        sequence_length=None, split=split, use_cached=cached, shuffle=False, num_epochs=1, trim_output_features=False
    )


def _shares(provider: Any, split: str, examples: int | None) -> list[tuple[str, int]]:
    """How many examples of which Task: those of a Mixture in the ratio of its rates, rounded to add up."""
    seqio = _seqio()
    if split not in provider.splits:
        raise UserError(f"{provider.name} has no split {split!r}; it has: {', '.join(map(str, provider.splits))}")
    if not isinstance(provider, seqio.Mixture):
        return [(provider.name, _available(provider, split, examples))]
    if examples is None:
        raise UserError(f"{provider.name} is a Mixture: say with --examples how many to take at its rates")
    tasks = [task for task in provider.tasks if split in task.splits]
    rates = [provider.get_rate(task) for task in tasks]
    wanted = [examples * rate / sum(rates) for rate in rates]
    counts = [int(number) for number in wanted]
    left = sorted(range(len(tasks)), key=lambda i: counts[i] - wanted[i])[: examples - sum(counts)]
    shares = [(task, count + (i in left)) for i, (task, count) in enumerate(zip(tasks, counts, strict=True))]
    shares = [(task, count) for task, count in shares if count]
    available = {task.name: _available(task, split, count) for task, count in shares}
    scarce, count = min(shares, key=lambda share: available[share[0].name] / share[1])
    if available[scarce.name] < count:
        raise UserError(
            f"{provider.name} takes {count} of {examples} examples from {scarce.name}, which has "
            f"{available[scarce.name]}: they would repeat; use --examples {examples * available[scarce.name] // count} "
            "or fewer"
        )
    return [(task.name, count) for task, count in shares]


def _available(task: Any, split: str, wanted: int | None) -> int:
    """How many examples there are, up to those wanted."""
    return sum(1 for _ in islice(_dataset(task, split), wanted))


def _register(module: str) -> None:
    """Run what registers Tasks; once in a process, as SeqIO refuses to register a name twice."""
    if module in _registered:
        return
    if Path(module).is_file():
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


_registered: set[str] = set()


def _seqio() -> Any:
    """SeqIO, without accelerators for TensorFlow. Raises UserError where the extra is not installed."""
    try:
        tensorflow, seqio = importlib.import_module("tensorflow"), importlib.import_module("seqio")
    except ImportError as error:
        raise UserError("seqio: sources need SeqIO and TensorFlow: make install EXTRA=seqio") from error
    for kind in ("GPU", "TPU"):
        tensorflow.config.set_visible_devices([], kind)
    return seqio
