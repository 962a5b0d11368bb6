"""Exceptions that are shown as a sentence instead of a traceback, and their exit statuses."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MISTAKE = 2
"""Exit status: something must be corrected before the same command can succeed."""
TRY_AGAIN = 75
"""Exit status: the same command may succeed next time (EX_TEMPFAIL of sysexits.h)."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 device`, `2 devices`; `plural`: where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


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


def without_prefix(message: str) -> str:
    """Return a message of pydantic without the `Value error, ` that it puts before those of our own."""
    return message.removeprefix("Value error, ")


# ---- what was meant ----

_CLOSE = 0.6  # the least share of letters in common; two letters swapped in a word of three leave 0.67


def closest_names(name: str, candidates: Iterable[str], count: int = 1) -> list[str]:
    """Return at most `count` candidates that are like a name, the most similar first; upper and lower case are one."""
    folded = {candidate.lower(): candidate for candidate in candidates}
    return [folded[close] for close in difflib.get_close_matches(name.lower(), folded, n=count, cutoff=_CLOSE)]


def did_you_mean(name: str, candidates: Iterable[str], *, meant: str | None = None, listed: bool = True) -> str:
    """Return what to write after a sentence that a name is not among the candidates: a similar one, and all of them.

    meant: what the name is known to stand for, instead of a similar one. listed: whether all candidates follow, as
    where there are few. The result begins with a space, or is "" where there is nothing to say.
    """
    candidates = list(candidates)
    meant = meant or next(iter(closest_names(name, candidates)), None)
    hint = "" if meant is None else f" Did you mean {meant!r}?"
    return hint + (f" There are: {', '.join(candidates)}" if listed and candidates else "")


def similar_path(path: str | Path) -> str:
    """Return `. Did you mean 'runs/mine'?` for a path that does not exist and is like one that does; otherwise "".

    One name of the path may be wrong, wherever it is in the path.
    """
    path = Path(path)
    with suppress(OSError):
        if path.exists():
            return ""
        wrong = next(part for part in [*reversed(path.parents), path] if not part.exists())
        names = [beside.name for beside in wrong.parent.iterdir()]
        for close in closest_names(wrong.name, names, count=3):
            candidate = wrong.parent / close / path.relative_to(wrong)
            if candidate.exists():
                return "." + did_you_mean(wrong.name, (), meant=str(candidate))
    return ""


# ---- what the operating system refuses ----

_ADVICE = {
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some of your quota and give the same command again",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.ENOTDIR: "a file is in the place of a directory; name another place",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another place, or remove it",
    errno.EMFILE: "raise the limit, e.g. ulimit -n 65536",
}

# TensorStore and Orbax raise ValueError("STATUS: what failed: \"path\": why [os_error_code='28'] [details]").
_TENSORSTORE = re.compile(
    r"(RESOURCE_EXHAUSTED|OUT_OF_RANGE|NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|FAILED_PRECONDITION|ALREADY_EXISTS"
    r"|DATA_LOSS|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|INTERNAL|UNKNOWN): (.*)",
    re.DOTALL,
)
_TRY_AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")


def explain_system_error(error: BaseException) -> UserError | None:
    """Return a sentence with the path for what the operating system or a storage refused; None for another error."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        reason = error.strerror or str(error) or type(error).__name__
        advice = _ADVICE.get(error.errno or 0)
        similar = similar_path(paths[0]) if paths and error.errno == errno.ENOENT else ""
        return UserError(
            ": ".join([" and ".join(paths) or "the system refused", reason]) + (f"; {advice}" * bool(advice)) + similar
        )
    if isinstance(error, ValueError) and (match := _TENSORSTORE.match(str(error))):
        status, text = match.groups()
        text = re.split(r" \[(?:os_error_code|source locations|tensorstore_spec|http_|grpc_)", text)[0].strip()
        quoted = re.findall(r'"(/[^"]*)"', text)
        reason = text.rpartition(": ")[2]
        sentence = f"{quoted[-1].removesuffix('.__lock')}: {reason}" if quoted else text
        return (UnreachableError if status in _TRY_AGAIN else UserError)(sentence)
    return None
