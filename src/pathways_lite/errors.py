"""Exceptions that are shown as a sentence instead of a traceback, and their exit statuses."""

MISTAKE = 2
"""Exit status: something must be corrected before the same command can succeed."""
TRY_AGAIN = 75
"""Exit status: the same command may succeed next time (EX_TEMPFAIL of sysexits.h)."""


class UserError(Exception):
    """A mistake that the user can correct. The message says what was found, what was expected and what to type.

    The command line prints only the message and exits with `status`. Library code raises it for bad input (a recipe, a
    file, a run directory), never for its own bugs.
    """

    status = MISTAKE


class LostRunError(UserError):
    """Another process writes to the run directory now, or it is no longer there: nothing may be written to it."""


class UnreachableError(UserError):
    """Another process did not answer; there is nothing to correct in the command."""

    status = TRY_AGAIN
