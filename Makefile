# make demo     everything on synthetic scans: plan, train, predict, evaluate (minutes, no GPU needed)
# make test     lint, format, types, and the test suite
# make quick    the same without the slow tests: one to two minutes
# make check    lint, format and types alone
# make clean    remove everything that the others made

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN    := .venv/Scripts
EXE    := .exe
else
BIN    := .venv/bin
endif
# Quiet, and never a version that constraints.txt does not name. To compile every file of torch would take longer than all the rest of
# the installation; WARM compiles what is imported, also where PYTHONDONTWRITEBYTECODE is set, and every later start is twice as fast.
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check install --no-compile -c constraints.txt
WARM   := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import autoseg.cli, blosc2, isal.igzip, matplotlib.figure, nibabel, safetensors.torch, \
          scipy.ndimage, skimage.io, skimage.transform, torch, torch._subclasses.fake_tensor, torch.utils.checkpoint, torch.utils.flop_counter'

# As many tests at once as there are cores; each hands its waiting tests to whichever is idle.
CORES  := -n auto --dist worksteal

# an interrupted step starts afresh
.DELETE_ON_ERROR:
.PHONY: demo test quick check format install develop clean

demo: install
	@$(BIN)/autoseg demo

test: check
	@$(BIN)/python -m pytest $(CORES)

quick: check
	@$(BIN)/python -m pytest $(CORES) -m 'not slow'

check: develop
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: develop
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

install: .venv/.installed
develop: .venv/.developing

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python$(EXE)
	@echo "installing autoseg and what it needs into .venv (once; a minute or two, longer on a slow connection)"
	@$(PIP) -e .
	@$(WARM)
	@touch $@

.venv/.developing: pyproject.toml constraints.txt | $(BIN)/python$(EXE)
	@echo "installing autoseg, what it needs and the tools of its developers into .venv (once; a minute or two)"
	@$(PIP) -e '.[dev]'
	@$(WARM)
	@touch .venv/.installed $@

$(BIN)/python$(EXE):
	@for python in $(PYTHON) python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	        exec $$python -m venv .venv; \
	    fi; \
	done; \
	echo "autoseg needs Python 3.11 or 3.12; found $$($(PYTHON) --version 2>&1). Name one with: make PYTHON=/path/to/python3.12" >&2; exit 2

clean:
	rm -rf .venv build dist *.egg-info autoseg-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
