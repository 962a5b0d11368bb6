"""Run `pathways-lite` as `python -m pathways_lite`."""

from pathways_lite.cli.main import main

main()
