# Every target sets up what it needs itself: Python >= 3.10, make and pip are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PAGE_VENV := .venv-page
PAGE_READY := $(PAGE_VENV)/.ready

.PHONY: demo test page-test lint bench tables docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/crossres demo

# A file's tests share what its fixtures trained, so a file stays with one process; one thread each, or they wait for each other
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile

# gradio asks for an older Pillow than the rest, so the page has an environment of its own
$(PAGE_READY): pyproject.toml constraints.txt constraints-page.txt
	$(PYTHON) -m venv $(PAGE_VENV)
	grep -v '^pillow==' constraints.txt | cat - constraints-page.txt > $(PAGE_VENV)/constraints.txt
	$(PAGE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(PAGE_VENV)/constraints.txt \
		--editable '.[train,onnx,page]' pytest playwright
	touch $@

# The web page and the report as a person meets them, in Chromium: the system's, or Playwright's own
page-test: $(PAGE_READY)
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| $(PAGE_VENV)/bin/playwright install chromium
	OMP_NUM_THREADS=1 $(PAGE_VENV)/bin/python -m pytest tests/deploy/test_page.py tests/deploy/test_page_browser.py \
		tests/report/test_page_browser.py

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

# The pages as a site in build/site; a warning is an error. They are read from the source: no torch is needed
docs:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) $(PAGE_VENV) build dist src/*.egg-info
