"""Tokenising by several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pathways_lite.data.shards import ShardCounts, ShardSpec, count_documents, tokenise
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError

_tokenizer: Tokenizer  # of a worker process


def tokenise_all(work: Iterator[tuple[ShardSpec, Path]], tokenizer: Tokenizer, workers: int) -> Iterator[ShardCounts]:
    """Write the shard of each work to its path; yields what came of each, as they get ready."""
    if not workers:
        for item, path in work:
            yield _write(item, path, tokenizer)
        return
    # Not forked: TensorStore and JAX run threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(tokenizer,))
    pending: set[Future[ShardCounts]] = set()
    try:
        for item, path in work:
            pending.add(pool.submit(_run, item, path))
            if len(pending) >= 2 * workers:  # no more input in memory than keeps all of them busy
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise UserError(
            "a tokenising process was killed (out of memory?); the same command goes on from here, "
            "with less memory if it is given fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer
    os.environ["RAYON_NUM_THREADS"] = "1"  # the processes are the parallelism, not HF tokenizers' threads
    gc.set_threshold(100_000)  # syntax trees are many objects without cycles
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Processes of a pool would wait forever for work of a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: ShardSpec, path: Path) -> ShardCounts:
    return _write(work, path, _tokenizer)


def _write(work: ShardSpec, path: Path, tokenizer: Tokenizer) -> ShardCounts:
    shard = tokenise(work, tokenizer)
    shard.save(path)
    return count_documents(shard, work.input_bytes)
