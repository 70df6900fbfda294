# make run:  the quickstart, from nothing to figures.   make test:  lint, types, tests.
# make test-extras:  what needs PyTorch, Dask, Ray or a browser.
# All need only Python 3.11 or later and make; everything else goes into .venv.

# The first interpreter that runs and is recent enough (a name on the PATH may be a shim that leads nowhere).
RECENT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c '$(RECENT)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

# Tests that need measured data, which cannot ship, run where MOESIM_DATA names its folder.

.PHONY: run test test-extras bench clean

run: $(VENV)/.installed
	$(BIN)/moesim run experiments/quickstart.yaml --overwrite
	@echo "figures: $(CURDIR)/results/quickstart/figures"

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy --strict moesim
	$(BIN)/pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

# What needs PyTorch, which is large (the reference model, and a machine measured and predicted at small size), real local
# clusters of Dask and Ray, and a browser, Debian's chromium (the report).
test-extras: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,calibrate,explore,ray,browser]'
	$(BIN)/pytest -q tests/extras

# A quiet machine, and numba (pip install -e '.[fast]'), show the most.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/uncertainty.py
	$(BIN)/python benchmarks/sweep.py

# The stamps make a reinstall happen only when pyproject.toml changes.
$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 found; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) results .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
