# Two commands are all there is to set up: `make study` and `make test`. Both install into .venv first.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin
# Tests of one file share what was slow to make, and stay together; in the order of their names no slow file is left for last.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: study check test test-all lint lab install clean

study: .venv/installed
	$(BIN)/python -m ovit_core.study $(PROFILE)

# Three tiers: five minutes on two idle cores, everyday (13), everything (30).
check: .venv/installed
	$(PYTEST) -m "not notebook and not browser and not slow"

# The browser's tests measure seconds, and so run alone.
test: .venv/installed
	$(PYTEST) -m "not slow and not browser"
	$(BIN)/python -m pytest -m "browser and not slow"

test-all: .venv/installed
	$(PYTEST) -m "not browser"
	$(BIN)/python -m pytest -m browser

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lab: .venv/installed
	$(BIN)/python -m ovit_core.study lab $(if $(filter command%,$(origin PROFILE)),$(PROFILE)) $(LAB)

install: .venv/installed

# The mark is renewed when the list of dependencies changes. CONSTRAINTS=constraints.txt installs the versions of the
# committed figures.
.venv/installed: pyproject.toml
	@echo "Installing into .venv: about 6 GB of packages (torch brings CUDA), a few minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar on $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[test]'
	touch $@

# What git ignores but the installation and the data: runs, copies of notebooks, rows, cached models.
clean:
	rm -rf runs lab results cache
