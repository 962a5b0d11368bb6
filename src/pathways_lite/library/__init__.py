"""The public face, thin over the packages below: train, load, loop, study and fit, as docs/library.md shows them."""

import sys

from pathways_lite.accelerators import leave_out_missing_tpu
from pathways_lite.cpu_cores import set_threads

if "jax" not in sys.modules:  # the command line sets the same before JAX starts, so that numbers are the same
    leave_out_missing_tpu()
    set_threads(None)
