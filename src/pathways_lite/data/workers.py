"""Tokenize shards in several processes, for `build`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pathways_lite.data.child_process import end_with_parent
from pathways_lite.data.shards import ShardCounts, ShardSpec, count_documents, tokenize
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError

_tokenizer: Tokenizer  # of a worker process


def write_shards(specs: Iterator[tuple[ShardSpec, Path]], tokenizer: Tokenizer, workers: int) -> Iterator[ShardCounts]:
    """Tokenize each shard and write it to its path; yield the counts of each as it is finished.

    With 0 `workers`, this process does it. Raises UserError if a worker process was killed.
    """
    if not workers:
        for spec, path in specs:
            yield _write_shard(spec, path, tokenizer)
        return
    # Not forked: TensorStore and JAX run threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(tokenizer,))
    pending: set[Future[ShardCounts]] = set()
    try:
        for spec, path in specs:
            pending.add(pool.submit(_write_shard_in_worker, spec, path))
            if len(pending) >= 2 * workers:  # no more input in memory than keeps all workers busy
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise UserError(
            "a tokenizing process was killed (out of memory?); the same command continues from here, "
            "and needs less memory with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer
    os.environ["RAYON_NUM_THREADS"] = "1"  # the processes are the parallelism, not HF tokenizers' threads
    gc.set_threshold(100_000)  # syntax trees are many objects without cycles
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()


def _write_shard_in_worker(spec: ShardSpec, path: Path) -> ShardCounts:
    return _write_shard(spec, path, _tokenizer)


def _write_shard(spec: ShardSpec, path: Path, tokenizer: Tokenizer) -> ShardCounts:
    shard = tokenize(spec, tokenizer)
    shard.save(path)
    return count_documents(shard, spec.input_bytes)
