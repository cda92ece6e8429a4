# Everything works in .venv/ with the versions of constraints.txt; it needs Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOBS ?= 2

.PHONY: help venv demo end-to-end test test-oldest test-newest test-slow test-cluster test-container \
	test-browser docs lint benchmark scale package image clean

help:
	@echo "make demo            simulate two scans of a participant, harmonize them: results in demo/"
	@echo "make end-to-end      the same, and compare the files with .circleci/outputs.txt"
	@echo "make test            the test suite"
	@echo "make test-oldest     the suite with the oldest dependencies (PYTHON=python3.10)"
	@echo "make test-newest     the suite with the newest dependencies (PYTHON=python3.13)"
	@echo "make test-slow       the end-to-end runs that take longer"
	@echo "make test-cluster    on a real Slurm (root; Debian: slurm-wlm munge bubblewrap)"
	@echo "make test-container  build the image and run it (root; Debian: buildah debootstrap bubblewrap)"
	@echo "make test-browser    the reports in Chromium; pictures of them in build/screenshots"
	@echo "make docs            the documentation, in docs/_build/html"
	@echo "make lint            style and types"
	@echo "make benchmark       quality on simulated gaps: DERIVATIVES=... of target scans"
	@echo "make scale           time and memory with up to 5000 participants"
	@echo "make package         sdist and wheel in dist/, installed and looked into"
	@echo "make image           the container image, by Docker: IMAGE=name:tag"
	@echo "make clean           remove what the others made"

venv: $(INSTALLED)

# The CPU build of torch where an index has it; elsewhere the default build of the same version.
$(INSTALLED): pyproject.toml setup.cfg $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	cp $(CONSTRAINTS) $(VENV)/constraints.txt
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

# Where the difference is meant: copy demo/outputs.txt to .circleci/.
end-to-end: demo
	cd demo/out && find . -type f | sed 's|/log/[^/]*/|/log/RUN/|' | LC_ALL=C sort > ../outputs.txt
	diff -u .circleci/outputs.txt demo/outputs.txt

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --timeout 1800

test-cluster: $(INSTALLED)
	$(BIN)/python -m pytest -s --timeout 7200 tests/cluster

test-container:
	tests/container/build.sh
	tests/container/run.sh

# BH_REPORTS names a folder with reports of real scans to open as well.
test-browser: $(INSTALLED)
	BH_SCREENSHOTS=build/screenshots BH_REPORTS=$(or $(BH_REPORTS),demo/out) \
	    $(BIN)/python -m pytest -m browser -rA

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt --editable '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python -m pytest -q -p no:cacheprovider --doctest-modules bh_bids
	@echo "Open docs/_build/html/index.html in a browser."

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/harmonization.py $(DERIVATIVES) --output benchmarks/results

scale: $(INSTALLED)
	$(BIN)/python benchmarks/scale.py start --participants 10 100 1000 5000
	$(BIN)/python benchmarks/scale.py build --participants 1000
	$(BIN)/python benchmarks/scale.py group --participants 5000
	$(BIN)/python benchmarks/scale.py gpu --participants 32

package: $(INSTALLED)
	$(BIN)/python -m pip install --quiet build
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tests/check_package.py dist

IMAGE ?= bh-bids:0.4.0
image:
	docker build --tag $(IMAGE) .
	docker run --rm --read-only --network none --user 4711 --tmpfs /tmp $(IMAGE) --version

clean:
	rm -rf .venv .venv-oldest .venv-newest demo build dist *.egg-info .pytest_cache .ruff_cache \
		.mypy_cache .hypothesis docs/_build docs/auto_examples docs/api
