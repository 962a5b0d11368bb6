"""Repeated samples: their verdicts, coverage, votes, best of k, weak verifiers, and the page of these."""
