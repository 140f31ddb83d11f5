# make demo     the whole road on synthetic scans: plan, train, predict, evaluate (minutes, no GPU needed)
# make test     lint, format, types, and the test suite
# make check    lint, format and types alone
# make clean    remove everything that the others made

PYTHON ?= python3
BIN    := .venv/bin
# Quiet, and never a version that constraints.txt does not name. Compiling every file of torch in advance would cost more than it saves.
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check install --no-compile -c constraints.txt

# an interrupted step starts afresh
.DELETE_ON_ERROR:
.PHONY: demo test check format install develop clean

demo: install
	@$(BIN)/autoseg demo

test: check
	@$(BIN)/python -m pytest

check: develop
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: develop
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

install: .venv/.installed
develop: .venv/.developing

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing autoseg and what it needs into .venv (once; a minute or two, longer on a slow connection)"
	@$(PIP) -e .
	@touch $@

.venv/.developing: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing autoseg, what it needs and the tools of its developers into .venv (once; a minute or two)"
	@$(PIP) -e '.[dev]'
	@touch .venv/.installed $@

$(BIN)/python:
	@for python in $(PYTHON) python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	        exec $$python -m venv .venv; \
	    fi; \
	done; \
	echo "autoseg needs Python 3.11 or 3.12; found $$($(PYTHON) --version 2>&1). Name one with: make PYTHON=/path/to/python3.12" >&2; exit 2

clean:
	rm -rf .venv build dist *.egg-info autoseg-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
