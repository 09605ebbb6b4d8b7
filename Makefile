# `make demo` and `make test` do everything on a fresh machine: environment, installation, work.
# Nothing is written outside this directory. `make help` lists the targets.

PYTHON ?= python3
# Processes of the test run; 2 is what the time limits are set for.
JOBS ?= 2
# Passed on to pytest, such as ARGS="-k scan".
ARGS ?=

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

export PIP_NO_CACHE_DIR := 1
export HF_HOME := $(CURDIR)/build/huggingface
export XDG_CACHE_HOME := $(CURDIR)/build/cache
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format parity bench-export clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 16

venv: $(STAMP) ## the environment .venv with everything installed

# torch comes first and alone: whichever build of it the package index offers (or PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS point to) is then kept by all that depends on it.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $@

$(STAMP)-bench: $(STAMP)
	$(PIP) --editable '.[dev,bench]'
	touch $@

demo: $(STAMP) ## export both example models, run them in PyTorch and ONNX Runtime, compare
	$(BIN)/python -m examples.demo

test: $(STAMP) ## all tests that need no GPU
	$(BIN)/pytest -n $(JOBS) $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

parity: $(STAMP) ## every family, dialect and length against transformers
	$(BIN)/python -m benchmarks --suite parity --check

bench-export: $(STAMP)-bench ## time and memory of an export, against their limits
	$(BIN)/python -m benchmarks --suite export --check

clean: ## remove what was built, but not the environment
	rm -rf build dist
