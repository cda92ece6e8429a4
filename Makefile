# Everything works in .venv/ with the versions of constraints.txt; it needs Python >= 3.10 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOBS ?= 2

.PHONY: help venv demo test test-slow lint benchmark package clean

help:
	@echo "make demo       simulate two scans of a participant, harmonize them: results in demo/"
	@echo "make test       the test suite"
	@echo "make test-slow  the end-to-end runs that take longer"
	@echo "make lint       style"
	@echo "make benchmark  quality on simulated gaps: DERIVATIVES=... of target scans"
	@echo "make package    sdist and wheel in dist/"
	@echo "make clean      remove what the others made"

venv: $(INSTALLED)

# The CPU build of torch where an index has it; elsewhere the default build of the same version.
$(INSTALLED): pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	cp constraints.txt $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt torch \
	|| { sed -i.orig 's/+cpu//' $(VENV)/constraints.txt \
	     && $(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt torch; }
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt --editable '.[test]'
	touch $@

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/bh-simulate demo/bids --participants 1 --sites siteB siteC
	$(BIN)/bh-bids demo/bids demo/out participant --work-dir demo/work
	$(BIN)/bh-bids demo/bids demo/out group
	@echo "Open demo/out/sub-01.html in a browser."

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/harmonization.py $(DERIVATIVES) --output benchmarks/results

package: $(INSTALLED)
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
