"""Laws of the loss, fitted to tables of runs.

Functions that need SciPy or matplotlib import them themselves: each takes about a second, and what is wrong with a
table or an option should be said before.
"""
