"""How documents stand in a stream of tokens: the token that opens each of them, and the one that closes it, if any.

    EOD t1 .. tn EOD t1 .. tn         opens=EOD: the next document's EOD is also the end of the one before it
    BOS t1 .. tn EOS BOS t1 .. tn     opens=BOS, closes=EOS: as Llama 3 and Gemma were trained

A document in memory is [opens, t1 .. tn], whatever closes it in the stream. It is predicted as t1 .. tn and `end`,
n + 1 tokens in both forms. Where a closing token says that a document ends, nothing is to be learned from the opening
one after it, which always follows: it carries no loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class DocumentFrame(NamedTuple):
    """The ids around a document. No text is encoded to them."""

    opens: int
    closes: int | None = None  # None: the opening token of the next document closes it

    @property
    def end(self) -> int:
        """The token that is predicted after a document's last one."""
        return self.opens if self.closes is None else self.closes

    @property
    def ids(self) -> tuple[int, ...]:
        """Both tokens, or the one that is both."""
        return (self.opens,) if self.closes is None else (self.opens, self.closes)

    @property
    def size(self) -> int:
        """The number of tokens that a document takes in the stream beside its text."""
        return len(self.ids)

    def carries_loss(self, targets: np.ndarray) -> np.ndarray:
        """Return which of the tokens to predict carry loss, bool of the same shape: all but those that only open."""
        return np.ones(targets.shape, bool) if self.closes is None else targets != self.opens

    def is_frame(self, tokens: np.ndarray) -> np.ndarray:
        """Return which tokens open or close a document, bool of the same shape."""
        opens = tokens == self.opens
        return opens if self.closes is None else opens | (tokens == self.closes)

    def to_stream(self, document: np.ndarray) -> np.ndarray:
        """Return a whole document [opens, t1 .. tn] as it stands in the stream."""
        return document if self.closes is None else np.append(document, document.dtype.type(self.closes))

    def from_stream(self, tokens: np.ndarray) -> np.ndarray:
        """Return a document of the stream, or its beginning, without the closing token."""
        return tokens[:-1] if self.closes is not None and len(tokens) and tokens[-1] == self.closes else tokens
