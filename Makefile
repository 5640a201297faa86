# Everything runs in .venv, which the first target that needs it sets up.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 PYTHONPATH= $(BIN)
WORKERS ?= 2
LINKS := $(addprefix storyzoo/,models inference datasets reports)

.PHONY: help demo test test-all bench links lint clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/installed  ## EM, SVI and NUTS on a mixture of iris, about a minute
	$(BIN)/zoo compare gmm --data iris --set covariance=tied --methods em,svi,nuts \
	    --with nuts.start=em --with nuts.draws=500 --with nuts.warmup=500 --out runs/demo

test: .venv/installed  ## every test that isn't slow
	$(RUN)/pytest -q -n $(WORKERS)

test-all: .venv/installed-bench  ## the slow ones too
	$(RUN)/pytest -q -n $(WORKERS) -m ""

bench: .venv/installed-bench  ## against scikit-learn and others, side by side
	@set -e; for name in em mcmc topics rbm sequence; do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

lint: .venv/installed links  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

links: $(LINKS)  ## lets mypy and editors find the four folders inside the package

$(LINKS):
	ln -s ../$(notdir $@) $@

# -- the environment ---------------------------------------------------------------------------

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test,dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	@touch $@

# Where the venv module lacks ensurepip, as on a bare Debian, virtualenv does the same from pip.
.venv/bin/python:
	$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; \
	    from=$$(mktemp -d); trap 'rm -rf "$$from"' EXIT; \
	    $(PYTHON) -m pip install -q --target "$$from" virtualenv && \
	    PYTHONPATH="$$from" $(PYTHON) -m virtualenv -q .venv; }

clean:  ## remove what make has set up
	rm -rf .venv $(LINKS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
