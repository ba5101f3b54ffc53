# The whole of the maintainer's day. `make` alone lists the targets.
#
#   PYTHON   makes the environment (default python3.11)
#   VENV     the environment's folder (default .venv)

VENV ?= .venv
export PYTHON VENV

# Runs a command with the environment's Python and programs.
BIN = $$(cd "$(VENV)/bin" && pwd)
IN_VENV = PATH="$(BIN):$$PATH" PYTHON="$(BIN)/python"
# As many processes as there are cores, of one thread each: two of two threads on two cores would
# slow each other down. The tests of a file share their models, so a file stays in one process; in
# the order of their names the long ones do not come last.
PYTEST = OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help install quickstart test test-fast test-all soak mutations format lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "  with PYTHON=python3.12 VENV=.venv312: another Python, another folder"

install: ## make the environment with the tested versions (about 5 minutes; then nothing)
	@scripts/install.sh

quickstart: install ## German-English from raw text to BLEU (at most 10 minutes)
	@$(IN_VENV) examples/quickstart/run.sh

test: lint ## what must pass: lint, then all but the slow tests (10 to 20 minutes with installation)
	$(IN_VENV) $(PYTEST)

test-fast: install ## the tests that start no commands (some minutes)
	$(IN_VENV) $(PYTEST) -m "not slow and not cli"

test-all: lint ## everything, the slow tests too
	$(IN_VENV) $(PYTEST) --run-slow

soak: install ## kills, damaged files, odd options, load: every seed of the trials (an hour)
	$(IN_VENV) $(PYTEST) --soak tests/trials

mutations: install ## plant mistakes, one at a time, and see whether the tests notice (half an hour)
	$(IN_VENV) python tests/mutations/run.py --jobs 2

format: install ## mend what ruff and codespell can mend by themselves
	$(IN_VENV) ruff check --fix --quiet || true
	$(IN_VENV) ruff format
	$(IN_VENV) codespell --write-changes

# Shell scripts: those that git tracks or would offer to add; without git, all there are.
lint: install ## format, rules, types, spelling, shell scripts
	$(IN_VENV) ruff format --check
	$(IN_VENV) ruff check
	$(IN_VENV) mypy fairseq_mem serve/fairseq_mem_text serve/fairseq_mem_serve benchmarks examples scripts
	$(IN_VENV) codespell
	{ git ls-files -z --cached --others --exclude-standard -- '*.sh' .ci/run 2>/dev/null \
	    || find . -path './.?*' -prune -o -name '*.sh' -print0; } | $(IN_VENV) xargs -0 shellcheck

bench: install ## measure against fairseq's own models
	$(IN_VENV) python benchmarks/run.py

clean: ## remove what was built; keep the environment, data, checkpoints, downloads
	@rm -rf build dist *.egg-info serve/build serve/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -path './.?*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "removed build products and caches; kept $(VENV) (rm -r $(VENV) removes it), data," \
	    "checkpoints and downloads"
