"""The one exception that is shown to people as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can correct: says what was found, what was expected, and what to type instead.

    The command line prints the message alone and exits with status 2. Library code raises it for bad
    input (a recipe, a file, a run directory), never for a bug of its own.
    """
