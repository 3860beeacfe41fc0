# Everything a person or CI does with this repository. `make` alone lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup lab test bench lint format notebooks train clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP)  ## make .venv with everything pinned in constraints.txt

$(STAMP): pyproject.toml constraints.txt apt.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "labkit needs Python 3.11 or later; name one: make setup PYTHON=python3.12"; exit 1; }
	@bash scripts/apt.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements 2>/dev/null
	@touch $@

lab: setup  ## open the notebooks in JupyterLab
	$(BIN)/labkit lab

test: setup  ## run all tests and check every notebook
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-cell-timeout 600 tests notebooks

bench: setup  ## measure transports, streams, the ruler, the engine and the simulator
	$(BIN)/labkit bench all

lint: setup  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy notebooks/conftest.py
	$(BIN)/mypy conftest.py
	$(BIN)/lint-imports

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: setup  ## run every notebook and save it with its outputs
	$(BIN)/python scripts/run_notebooks.py

train: setup  ## train the text model again (about five minutes)
	$(BIN)/python -m labkit.models.train

clean:  ## remove what setup made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
