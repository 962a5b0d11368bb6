"""Suffixes of numbers, the same wherever people write them: amounts in recipes, tables and options of fits, sizes."""

POWERS_OF_TEN = {"k": 3, "K": 3, "M": 6, "G": 9, "B": 9, "T": 12, "P": 15, "E": 18}
"""The power of ten of each; B is a billion, as in 7B parameters."""
