"""Every test runs on the CPU: a TPU or GPU library that happens to be installed must not be opened."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
