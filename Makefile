# make train   environment, installation, and the default experiment on real data
# make quick   each law once, within a minute: nothing is compiled and no process started
# make test    the suite, in the same environment
# make avx2    the suite as a processor without AVX-512 runs it
# make slow    what the suite leaves out; make slow PART=layers/lowrank runs one folder or file of it
# make check   style and types
# make docs    the site, in build/site: open build/site/index.html, no network is needed
# make bench   every bar, against the peers of .[peers] where the script names some

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes; one that dies is not replaced, so the run ends with the name of the test it ran.
IN_TWO := -n 2 --dist worksteal --max-worker-restart 0
# A processor without AVX-512, as oneDNN and torch see it.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
BENCHMARKS := start_up train_loop parity baseline_parity residual residual_bytes_gpt hyperbolic \
  hyperbolic_parity lipschitz certify certify_exact lowrank lowrank_speed compress compare_digits \
  pretrained exported token_files recomputation compile_blocks geometry geometry_models \
  geometry_graphs geometry_parity geometry_range compress_parity adapter_parity

.PHONY: train quick test avx2 slow check docs bench clean

train: $(VENV)/installed
	$(BIN)/archzoo train

quick: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_TWO) -p tests.quick \
	  -m "not slow and not compiles and not processes and not long"

test: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_TWO)

avx2: $(VENV)/installed
	$(AVX2) $(BIN)/python -m pytest $(IN_TWO)

slow: $(VENV)/installed
	$(BIN)/python -m pytest $(IN_TWO) -m slow -o run_limit=300 tests/$(PART)

check: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	mkdir -p .typing && ln -sfn .. .typing/archzoo
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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

$(VENV)/documented: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
