"""Exceptions that are shown to people as a sentence instead of a traceback, and the exit statuses they lead to."""

MISTAKE = 2
"""Exit status: something has to be corrected before the same command can succeed."""
TRY_AGAIN = 75
"""Exit status: the same command may succeed next time (EX_TEMPFAIL of sysexits.h)."""


class UserError(Exception):
    """A mistake that the user can correct: says what was found, what was expected, and what to type instead.

    The command line prints the message alone and exits with `status`. Library code raises it for bad
    input (a recipe, a file, a run directory), never for a bug of its own.
    """

    status = MISTAKE


class UnreachableError(UserError):
    """Another process did not answer: nothing to correct in the command."""

    status = TRY_AGAIN
