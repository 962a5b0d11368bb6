"""Pretrain transformers in JAX and find out whether a training-efficiency method pays.

`import pathways_lite as pl` gives the names of docs/library.md. Each is imported when it is first used.
"""

from typing import TYPE_CHECKING

from pathways_lite.lazy import attach

if TYPE_CHECKING:
    from pathways_lite import data, recipe
    from pathways_lite.errors import UserError
    from pathways_lite.library.fit import fit
    from pathways_lite.library.loop import Loop
    from pathways_lite.library.study import study
    from pathways_lite.library.train import train
    from pathways_lite.library.trained import Trained, from_hf, load

from pathways_lite.version import __version__

__all__ = [
    "Loop", "Trained", "UserError", "__version__", "data", "fit", "from_hf", "load", "recipe", "study", "train",
]  # fmt: skip

if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__, __dir__ = attach(
        __name__,
        {
            "Loop": "pathways_lite.library.loop:Loop",
            "Trained": "pathways_lite.library.trained:Trained",
            "UserError": "pathways_lite.errors:UserError",
            "data": "pathways_lite.data",
            "fit": "pathways_lite.library.fit:fit",
            "from_hf": "pathways_lite.library.trained:from_hf",
            "load": "pathways_lite.library.trained:load",
            "recipe": "pathways_lite.recipe",
            "study": "pathways_lite.library.study:study",
            "train": "pathways_lite.library.train:train",
        },
    )
