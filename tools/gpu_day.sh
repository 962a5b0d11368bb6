#!/usr/bin/env bash
# Everything to try on the day a GPU is there, in 12 minutes; tools/gpu_day.sh --help says what, docs/kernels.md how to
# read the page that it writes. PYTHON=... names the interpreter; else .venv's where it has JAX for CUDA, else python3.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    for plugin in .venv/lib/python3*/site-packages/jax_cuda*_plugin; do
        [[ -d $plugin ]] && PYTHON=.venv/bin/python
    done
    [[ " $* " == *" --dry-run "* && -x .venv/bin/python ]] && PYTHON=.venv/bin/python
fi
export PYTHONPATH="src:kernels:tools:tests${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m gpu_day "$@"
