# Everything that a user runs, starting from a fresh machine. It needs Python 3.11 or newer, make and a package registry, and uses uv if it
# is installed. `make` alone lists the targets.

PYTHON ?= python3
# Arguments that are passed on: make train ARGS="scheduler=step epochs=5", make test ARGS="tests/models/test_models.py -x".
ARGS ?=
# The launcher of sweeps that carry out several runs at once. pool forks processes, which is reliable only on Linux.
LAUNCHER ?= $(if $(filter Linux,$(shell uname)),pool,joblib)
# Number of processes for the tests, with one thread each.
WORKERS ?= 2

# What torch, MKL, oneDNN, OpenBLAS and the C library compute with where there is neither AVX nor a fused multiply-add: sums in another
# order, other last digits. A test whose bound was read off one processor fails here.
OLD_PROCESSOR := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem \
	GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LISTS := pyproject.toml constraints.txt

ifneq ($(shell command -v uv 2>/dev/null),)
CREATE = uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
INSTALL = uv pip install --python $(BIN)/python
else
CREATE = $(PYTHON) -m venv $(VENV)
INSTALL = { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; } && $(BIN)/python -m pip install --progress-bar off
endif

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow test-portable check docs sweep bench bench-peers soak tensorboard clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

install: $(STAMP)-test ## Create .venv with everything that training, sweeps, tests and checks need

train: $(STAMP)-train ## Install what training needs, then train; set options with ARGS="scheduler=step"
	$(BIN)/python train.py $(ARGS)

test: $(STAMP)-test ## Install what the tests need, then run the fast ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: $(STAMP)-test ## Run all tests, including the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "" $(ARGS)

test-portable: $(STAMP)-test ## Run the fast tests with the arithmetic of an old processor: they must hold on any
	$(OLD_PROCESSOR) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: $(STAMP)-test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)-test ## Write the parts of docs/ that are made from conf/ and from commands
	$(BIN)/python -m docs.make_options
	$(BIN)/python -m docs.make_results
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_samples.py

# The report comes even if some runs were refused; the exit status stays that of the sweep.
sweep: SWEEP := $(or $(patsubst hydra.sweep.dir=%,%,$(filter hydra.sweep.dir=%,$(ARGS))),outputs/sweep/$(shell date +%Y-%m-%d_%H-%M-%S))
sweep: $(STAMP)-sweep ## Four schedules x two batch sizes on digits, two runs at once, and their report
	$(BIN)/python train.py -m hydra/launcher=$(LAUNCHER) hydra.launcher.n_jobs=2 threads=1 hydra.sweep.dir=$(SWEEP) \
		scheduler=constant,step,cosine,onecycle batch=small,large batch.reference_size=32 batch.lr_rule=sqrt $(ARGS); \
	status=$$?; if ls -d $(SWEEP)/*/ >/dev/null 2>&1; then $(BIN)/python report.py $(SWEEP) --out $(SWEEP)/report || exit; fi; exit $$status

bench: $(STAMP)-test ## Run the benchmarks, some minutes on an idle machine; ARGS="steps --rounds 3" runs a part
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(STAMP)-test ## Compare with the code that users would otherwise write
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks peers $(ARGS)

soak: $(STAMP)-test ## A thousand runs in one process, 200 in the pool: do memory and open files grow? ARGS="--runs 100 --pool 20"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak $(ARGS)

tensorboard: $(STAMP)-train ## Show all runs under outputs/ in a browser
	$(BIN)/tensorboard --logdir outputs $(ARGS)

clean: ## Remove .venv and caches, but keep outputs/ and data/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"error: $(PYTHON) is Python {v[0]}.{v[1]}; noisescale needs 3.11 or newer: make PYTHON=python3.11 ..." if v < (3, 11) else 0)'
	$(CREATE)

# A stamp that is newer than both lists means that everything is installed, so a second call installs nothing.
$(STAMP)-train: $(LISTS) | $(BIN)/python
	$(INSTALL) -c constraints.txt -e ".[template]"
	@touch $@

$(STAMP)-sweep: $(LISTS) | $(BIN)/python
	$(INSTALL) -c constraints.txt -e ".[template,joblib]"
	@touch $(STAMP)-train $@

$(STAMP)-test: $(LISTS) | $(BIN)/python
	$(INSTALL) -c constraints.txt -e ".[template,joblib,submitit,dev]"
	@touch $(STAMP)-train $(STAMP)-sweep $@
