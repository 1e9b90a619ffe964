# make train   environment, installation, and the default experiment on real data
# make test    the suite, in the same environment
# make check   style and types

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCHMARKS := train_loop parity residual residual_bytes_gpt hyperbolic hyperbolic_parity lipschitz \
  lowrank lowrank_speed

.PHONY: train test slow check bench clean

train: $(VENV)/installed
	$(BIN)/archzoo-train

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

check: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	mkdir -p .typing && ln -sfn .. .typing/archzoo
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/installed
	for script in $(BENCHMARKS); do $(BIN)/python benchmarks/$$script.py --check || exit 1; done

# The stamp is written last, so an installation that was interrupted is done again.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else \
	  "archzoo needs Python 3.11 to 3.13, got %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
