# make demo      sets up, makes a trained network wider and deeper, classifies two photographs before and after
# make test      sets up, runs the tests;  make test-all  also every model of torchvision and timm
# make test-ray  searches on a Ray cluster of two nodes on this machine
# make test-oldest  sets up .venv-oldest with the oldest releases that setup.cfg allows, runs the tests there
# make coverage  widens networks of twelve packages, and writes docs/coverage.md (an hour or two)
# make lint      make types      make docs      make bench (against Torch-Pruning and fvcore)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST := $(VENV)-oldest
SETUP := setup.cfg pyproject.toml

.PHONY: demo test test-all test-ray test-oldest coverage lint types docs bench clean

demo: $(VENV)/.demo
	$(BIN)/python tools/demo.py --out out

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "sweep or not sweep"

test-ray: $(VENV)/.test
	$(BIN)/python -m pytest -m "sweep or not sweep" tests/experiments/evolve/test_ray_engine.py

coverage: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e ".[coverage]"
	$(BIN)/python tools/coverage

lint: $(VENV)/.test
	$(BIN)/python -m ruff check .

test-oldest: $(OLDEST)/.test
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal

# The wheel is built and installed elsewhere, so that what is checked, types and directions of imports, is what a user gets.
types: $(VENV)/.test
	rm -rf build && mkdir -p build/types
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/types .
	$(BIN)/python -m pip install --quiet --no-deps --target build/types/site build/types/*.whl
	cd build/types && MYPYPATH=site $(abspath $(BIN))/python -m mypy -p fxgrow --config-file $(CURDIR)/setup.cfg
	cd build/types && PYTHONPATH=site $(abspath $(BIN))/lint-imports --config $(CURDIR)/setup.cfg --no-cache

docs: $(VENV)/.test
	$(BIN)/python tools/run_doc_blocks.py

bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/python tools/bench_transform.py
	$(BIN)/python tools/bench_flops.py
	$(BIN)/python tools/bench_evolve.py
	$(BIN)/python tools/bench_results.py --eager

clean:
	rm -rf $(VENV) $(OLDEST) build out

# A stamp for each set of packages: installed once, and again when what is needed changes.
$(VENV)/.demo: $(VENV)/pyvenv.cfg $(SETUP)
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/pyvenv.cfg $(SETUP)
	$(BIN)/python -m pip install --quiet -e ".[test,lint]"
	touch $@ $(VENV)/.demo

# uv alone knows how to take the lower end of a range; some of those releases have wheels for Python 3.10 and 3.11 only.
$(OLDEST)/.test: $(OLDEST)/pyvenv.cfg $(SETUP)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/python -m uv pip install --quiet --python $(OLDEST) --resolution lowest-direct -e ".[test,lint]"
	touch $@

%/pyvenv.cfg:
	$(PYTHON) -m venv $*
