# `make demo` and `make test` do all set-up by themselves; it is redone only when pyproject.toml or constraints.txt change.
#
#   make PYTHON=python3.13 ...      another interpreter (3.11 or newer)
#   make TORCH_INDEX=<address> ...  where to get torch: PyTorch's own index of CPU wheels avoids gigabytes of CUDA libraries

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := protos compression ps_server worker deploy benchmarks

.PHONY: help demo test test-large lint types protos links clean

help:
	@echo "make demo     train a small GPT with 2 servers and 2 workers on this machine"
	@echo "make test     lint, type checks and all tests; make test-large: a model of 200 million parameters, minutes"
	@echo "make lint     ruff only;  make types: mypy only;  make protos: regenerate the wire contract;  make clean"

demo: $(READY)
	$(BIN)/pushpull launch --servers 2 --workers 2 --set push_codec=int8 --set pull_codec=bf16 examples/char_gpt.py

test: lint types
	$(BIN)/pytest

# Minutes, and about 14 GiB of memory: a model of 200 million parameters.
test-large: $(READY)
	$(BIN)/pytest -m slow -s tests/training/test_large_model.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) links
	$(BIN)/mypy

protos: $(READY)
	$(BIN)/python -m pushpull.protos.generate

# Type checkers find the package `pushpull` through these links; running and testing do not need them.
links:
	@mkdir -p build/import/pushpull
	@for package in $(PACKAGES); do ln -sfn ../../../$$package build/import/pushpull/$$package; done

# torch comes first and alone, so that TORCH_INDEX (or pip's own configuration) decides which build of it is used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("pushpull needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.13" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,examples]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
