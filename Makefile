# Every target sets up what it needs itself: Python >= 3.10, make and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench tables docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/crossres demo

# A file's tests share what its fixtures trained, so a file stays with one process; one thread each, or they wait for each other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile \
		--cov=crossres --cov-report=term:skip-covered

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# Step times of every method, side by side in one run -> results/bench/steps.json
bench: $(READY)
	$(BIN)/python benchmarks/steps.py

# The README's tables and the methods' pages from results/ and the docstrings
tables: $(READY)
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/methods.py

# The pages as a site in build/site; a warning is an error
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) build dist src/*.egg-info
