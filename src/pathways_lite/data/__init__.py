"""Text as token stores: sources, tokenizers, building, order, mixtures, reading.

The names here are the public ones of `pathways_lite.data`; importing them needs no JAX.
"""

from typing import TYPE_CHECKING

from pathways_lite.lazy import attach

if TYPE_CHECKING:
    from pathways_lite.data.build import build as build_corpus
    from pathways_lite.data.sources import Source, SourcePlugin
    from pathways_lite.data.store import Store
    from pathways_lite.data.store import open_store as open_corpus

__all__ = ["Source", "SourcePlugin", "Store", "build_corpus", "open_corpus"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "Source": "pathways_lite.data.sources:Source",
            "SourcePlugin": "pathways_lite.data.sources:SourcePlugin",
            "Store": "pathways_lite.data.store:Store",
            "build_corpus": "pathways_lite.data.build:build",
            "open_corpus": "pathways_lite.data.store:open_store",
        },
    )
