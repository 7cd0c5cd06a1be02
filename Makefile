# make demo    install into .venv and train CGCL on the built-in street scenes, on the CPU
# make test    install into .venv with the test extras and run everything that CI runs
# make docs    install into .venv with the test extras and build the site of the documentation in build/docs
# make lint    what pre-commit runs: ruff, clang-format and mypy
# make fuzz    search for faults with calls and examples drawn at random, the ops' for MINUTES=10
# make gpu     build, test, sanitize and time on a GPU, with what a PyTorch image has; DRY_RUN=1 needs no GPU
# make bench   time the ops and a training step beside eager PyTorch and torch.compile
# make cost    time a training step of every method, in one run, and measure its peak memory
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# As build-system.requires in pyproject.toml. They go into the environment itself, so that torch is downloaded once.
BUILD_NEEDS = "setuptools>=77" "torch>=2.11" ninja "pybind11>=2.13" numpy
# Another torch than that: the oldest supported, unless TORCH says which.
TORCH = 2.11.0
OTHER = build/torch-$(TORCH)
NATIVE = setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu*')
DEMO = runs/demo
MINUTES = 10

# Threads that spin for long while they wait nearly stop beside another program; a user's own choice stays.
WAITING = $(if $(GOMP_SPINCOUNT)$(OMP_WAIT_POLICY),,GOMP_SPINCOUNT=2500)

IN_PROCESSES = -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint mypy pytest docs oldest fuzz gpu bench cost bench-smoke sanitize wheel-test clean

demo: $(VENV)/.installed
	$(BIN)/python -m cgcl_fast.info
	rm -rf $(DEMO)
	$(BIN)/python -m cgcl_fast.train --output $(DEMO)
	@echo "Sample grid, a street a row, and for each domain a translation by a reference, by a random style, and the truth:"
	@ls $(CURDIR)/$(DEMO)/samples/*.png | tail -n 1

test: lint docs pytest oldest bench-smoke sanitize

CXX_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu*')
lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy

mypy: $(VENV)/.tested
	$(BIN)/mypy

# A process for each core, each with one thread: OpenMP's threads wait for each other, and long where cores are taken.
pytest: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests $(IN_PROCESSES)

# A warning is an error, and so is a name in a docstring that is nowhere.
docs: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going -q -b html docs build/docs
	@echo "The documentation: $(CURDIR)/build/docs/index.html"

# The oldest torch supported, with the binaries that were built with the newest: the tests of the ops, which torch.compile
# and torch.library do not treat alike in all versions.
oldest: $(VENV)/.tested $(OTHER)/.installed
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest tests/ops -q $(IN_PROCESSES)

# What pytest draws from fixed seeds, from others each time: ten times hypothesis' examples, and calls of the ops until
# the time is up, natively and in Triton's interpreter at once. Each failure says how to have it again.
fuzz: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -m hypothesis --hypothesis-profile=fuzz -n auto --maxprocesses 8; \
	    status=$$?; OMP_NUM_THREADS=1 $(BIN)/python tests/ops/fuzz.py --minutes $(MINUTES) && exit $$status

# The benchmarks run once each, without timing: they show that they work.
bench-smoke: $(VENV)/.tested
	$(WAITING) $(BIN)/python -m pytest benchmarks --benchmark-disable -q

bench: $(VENV)/.tested
	$(BIN)/python -m benchmarks.run --output build/bench.json
	$(BIN)/python -m benchmarks.report build/bench.json

cost: $(VENV)/.tested
	$(BIN)/python -m benchmarks.run --select "step and 256 and cgcl_fast" --repeats 2 --output build/cost.json
	$(BIN)/python -m benchmarks.report build/cost.json

# Installs nothing and makes no environment: PYTHON is one with PyTorch, Triton, pytest and a CUDA compiler beside it.
gpu:
	$(PYTHON) scripts/gpu.py $(if $(DRY_RUN),--dry-run)

# The tests of the ops on CPU kernels built with AddressSanitizer and UndefinedBehaviorSanitizer. torch.compile's tests are
# left out: they run compilers, which have leaks and faults of their own.
SANITIZERS = $(shell for name in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$name.so; done)
sanitize: $(VENV)/.tested
	CGCL_FAST_SANITIZE=address,undefined CGCL_FAST_REQUIRE_NATIVE=1 CGCL_FAST_NO_CUDA=1 $(BIN)/python setup.py -q build_ext \
	    --build-lib build/sanitize/lib --build-temp build/sanitize/temp > /dev/null
	$(WAITING) CGCL_FAST_LIBRARY=$(CURDIR)/build/sanitize/lib/cgcl_fast/_C.so LD_PRELOAD="$(SANITIZERS)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(BIN)/python -m pytest tests/ops -q -x -k "not compile"

# One wheel, on another torch than it was built with: the tests of the ops, without building again.
wheel-test: $(VENV)/.tested $(OTHER)/.installed
	rm -rf build/wheel
	CGCL_FAST_REQUIRE_NATIVE=1 $(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(OTHER)/bin/python -m pip install --no-deps --force-reinstall build/wheel/*.whl
	$(OTHER)/bin/python -m cgcl_fast.info
	OMP_NUM_THREADS=1 $(OTHER)/bin/pytest tests/ops -q $(IN_PROCESSES)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build-needs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check $(BUILD_NEEDS)
	touch $@

$(VENV)/.installed: $(VENV)/.build-needs $(NATIVE)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.build-needs $(NATIVE)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --editable ".[test]"
	touch $(VENV)/.installed $@

$(OTHER)/.installed:
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --disable-pip-version-check torch==$(TORCH) numpy pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf build dist *.egg-info cgcl_fast/*.so cgcl_fast/_C*.problem.txt .pytest_cache .mypy_cache .ruff_cache .hypothesis
