"""`python -m pathways_lite` is `pathways-lite`."""

from pathways_lite.cli.main import main

main()
