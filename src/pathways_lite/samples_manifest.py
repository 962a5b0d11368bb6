"""The manifest of a directory of samples: its form, which those who draw samples and those who judge them share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError, similar_path

KIND = "pathways_lite.samples"
MANIFEST = "manifest.json"


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return what the samples of a directory were drawn from and how. Raises UserError where it holds none."""
    path = directory / MANIFEST
    if not path.is_file():
        missing = f"{directory} has no samples: there is no {MANIFEST} in it"
        raise UserError(f"{missing}; give the OUT of `sample`{similar_path(directory)}")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind != KIND:
        raise UserError(f"{directory} holds no samples: its manifest is of kind {kind!r}, not {KIND!r}")
    return dict(manifest)
