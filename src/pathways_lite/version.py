"""The version of this package: the one place that says it, also to the build (pyproject.toml)."""

__version__ = "0.2.0.dev0"
