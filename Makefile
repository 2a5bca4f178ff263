# Every target makes its own set-up: a fresh clone needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs clean

help:
	@echo "make demo    train, convert and compare on handwritten digits (no download of data)"
	@echo "make test    the tests, on every supported SpikingJelly release; ARGS='-k name' goes to pytest"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the pages as HTML, in outputs/docs"
	@echo "make clean   remove everything that these commands made, $(VENV) included"

setup: $(READY)

demo: $(READY)
	$(BIN)/python examples/digits_demo.py $(ARGS)

test: $(READY)
	$(BIN)/python -m nox --session docs types
	$(BIN)/python -m nox --session tests -- $(ARGS)

docs: $(READY)
	$(BIN)/python -m nox --session docs

lint: $(READY)
	$(BIN)/python -m nox --session lint types

# The stamp makes a second call immediate, and a change of the dependencies install again.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "This project needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[test,demo,docs]'
	@touch $@

clean:
	rm -rf $(VENV) .nox .pytest_cache .hypothesis .ruff_cache .mypy_cache outputs build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
