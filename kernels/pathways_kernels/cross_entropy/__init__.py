"""Cross-entropy from hidden states and the output embedding, with log Z, without the logits of all tokens at once."""

from pathways_kernels.cross_entropy.api import cross_entropy

__all__ = ["cross_entropy"]
