#!/usr/bin/env python3
"""Measure how fast text is tokenized and how fast batches are loaded. Prints one JSON line.

    python tools/bench_data.py                        the Python installation's text
    python tools/bench_data.py --text novels.jsonl.gz --megabytes 20

`tokenise_mb_per_s` is for one core: reading and encoding into a shard, in CPU seconds, which other processes disturb
less than wall-clock time; `cold` means that all words are new to the cache. `loader_tokens_per_s` is for one core:
batches of a store as the training loop gets them, read by Grain in threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from itertools import islice
from pathlib import Path

from pathways_lite.data.build import build
from pathways_lite.data.documents import Document
from pathways_lite.data.pipeline import DataStream
from pathways_lite.data.sentencepiece import train_sentencepiece
from pathways_lite.data.shards import ShardSpec, tokenize
from pathways_lite.data.sources import Source
from pathways_lite.data.tokenizers import ByteTokenizer, Tokenizer
from pathways_lite.data.train_tokenizer import SAMPLE_BYTES_PER_TOKEN, sample_texts
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Data, Ramp, Steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="python:", help="source to read, as for `pathways-lite data build`")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of text to tokenize")
    parser.add_argument("--vocab-size", type=int, default=8192, help="of the SentencePiece vocabulary trained for it")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="to read batches for")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # one core
    with tempfile.TemporaryDirectory() as directory:
        result = {
            **bench_tokenizer(Source.parse(arguments.text), arguments.megabytes, arguments.vocab_size),
            **bench_loader(Path(directory), arguments.seq_len, arguments.batch_size, arguments.seconds),
            "cpu": platform.processor() or platform.machine(),
        }
    print(json.dumps(result))


def bench_tokenizer(source: Source, megabytes: float, vocab_size: int) -> dict[str, float]:
    """Measure text bytes per CPU second, from a source's chunks to a shard, and CPU seconds to train a tokenizer."""
    now = time.process_time
    start = now()
    texts = sample_texts([source], SAMPLE_BYTES_PER_TOKEN * vocab_size)
    sampled = now()
    tokenizer: Tokenizer = train_sentencepiece(texts, vocab_size)
    trained = now()
    chunks, size = [], 0
    for chunk in source.chunks():
        chunks.append((0, chunk))
        size += chunk.size
        if size >= megabytes * 1e6:
            break
    result = {"sample_s": sampled - start, "train_tokenizer_s": trained - sampled}
    start = now()
    documents = [item.text for _, chunk in chunks for item in chunk.read() if isinstance(item, Document)]
    result["read_mb_per_s"] = size / 1e6 / (now() - start)
    encoded = sum(len(text.encode()) for text in documents)
    del documents
    for name in ("tokenise_cold_mb_per_s", "tokenise_mb_per_s"):
        start = now()
        tokens = len(tokenize(ShardSpec(0, tuple(chunks), DocumentFrame(tokenizer.eod)), tokenizer).tokens)
        result[name] = size / 1e6 / (now() - start)
    return {name: round(value, 3) for name, value in result.items()} | {"bytes_per_token": round(encoded / tokens, 3)}


def bench_loader(directory: Path, seq_len: int, batch_size: int, seconds: float) -> dict[str, float]:
    """Measure tokens per second of batches from a store of random bytes as text."""
    text = directory / "random.txt"
    text.write_bytes(os.urandom(8 << 20).hex().encode())
    store = build([str(text)], directory / "store", tokenizer=ByteTokenizer.kind, workers=0)
    timeline = Timeline(Ramp(steps=((0, batch_size),)), seq_len, 1, 1, Steps(n=1))
    data = Data(corpus=store.address, seq_len=seq_len)
    stream = DataStream(store, data, timeline).read(0, 1_000_000)
    for _ in islice(stream, 20):
        pass
    start = time.perf_counter()
    tokens = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        tokens += next(stream).tokens.size
    stream.close()
    return {"loader_tokens_per_s": round(tokens / elapsed)}


if __name__ == "__main__":
    main()
