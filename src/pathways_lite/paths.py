"""Read the paths that users write, on the command line and in recipes: the one place that gives them a meaning.

Any path that the shell can use works: relative ones, `~`, `..`, links, spaces and any UTF-8. What cannot work is told
before anything is read or written: an address of a storage (`gs://…`) where only files of this machine will do, and
names that are not UTF-8, which neither recipes in JSON nor TensorStore can hold.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pathways_lite.errors import UserError

STORAGES = ("gs", "s3")
"""Schemes of addresses at which a corpus may be."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# What pathlib makes of a URL: `gs:/bucket`. Only of well-known schemes, since a directory's name may end in a colon.
_URL_AS_PATH = re.compile(r"(gs|s3|hf|https?|file|hdfs|abfss?|az):/", re.IGNORECASE)


def url_scheme(text: str | Path) -> str | None:
    """Return `gs` for `gs://bucket/name`, None for a path in the file system."""
    match = (_URL_AS_PATH if isinstance(text, Path) else _URL).match(str(text))
    return match[1].lower() if match else None


def local_path(text: str | Path) -> Path:
    """Return the path in the file system that the user wrote, `~` expanded; text and `Path` are both fine.

    Raises UserError for a URL, an empty path, an unknown user's `~`, and for names that are not UTF-8.
    """
    path = input_path(text)
    absolute_path(path)
    return path


def input_path(text: str | Path) -> Path:
    """Return the path like `local_path`, of a file that is only read as bytes: its name may be any bytes."""
    written = str(text)
    if not written:
        raise UserError("an empty path was given; write . for the current directory")
    if "\0" in written:
        raise UserError(f"{written!r} is not a path: it contains a zero byte")
    if scheme := url_scheme(text):
        raise UserError(_refusal(written, scheme))
    if isinstance(text, Path):
        return text
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{written}: there is no user {Path(text).parts[0][1:]}; write ./~… for such a name") from None


def storage_address(text: str | Path) -> str:
    """Return the address of a corpus: a `gs://` or `s3://` URL as it is, anything else as `local_path` reads it."""
    scheme = url_scheme(text)
    if scheme is None:
        return str(local_path(text))
    if scheme not in STORAGES or isinstance(text, Path):
        raise UserError(f"{text}: {scheme}:// is not a supported storage; use a local path, gs:// or s3://")
    return text


def absolute_path(path: str | Path) -> str:
    """Return the absolute path without `.`, `..` and links, as Orbax and TensorStore need it.

    `..` after a link is the parent of the link's target, as for the shell's commands. Raises UserError if a name in it
    is not UTF-8.
    """
    absolute = os.path.realpath(path)
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{ascii(absolute)[1:-1]} is not UTF-8; rename it, or give the path of a link to it with such a name"
        ) from None
    return absolute


def user_cache() -> Path:
    """Return the directory for what can be computed again: `$XDG_CACHE_HOME/pathways-lite`, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "pathways-lite"


def _refusal(written: str, scheme: str) -> str:
    rest = re.sub(r"^[^:]*:/+", "", written)
    if scheme == "file":
        return f"{written} is a URL; write the path alone: /{rest.removeprefix('localhost/')}"
    instead = {
        "gs": f"mount the bucket (gcsfuse), or copy it: gcloud storage cp -r gs://{rest} .",
        "s3": f"mount the bucket (mount-s3), or copy it: aws s3 cp --recursive s3://{rest} .",
        "hf": "download it first: hf download NAME --local-dir DIRECTORY",
    }.get(scheme, "copy it to this machine first")
    return f"{scheme}://{rest}: {scheme}:// does not work here, only files and directories of this machine; {instead}"
