# make demo    see it work: two stacks, an echo, a picture
# make test    everything, with Debian's VDE programs where they can be had
# make check   format, lint and types
# make bench   aioioth beside plain asyncio, and beside its C peers

PYTHON ?= python3
VENV   ?= .venv
PYTEST ?=

BIN := $(VENV)/bin

.PHONY: demo test check bench peers clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py

test: $(VENV)/dev.stamp peers
	$(BIN)/python tests/isolate.py $(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	. $(BIN)/activate && pyright --verifytypes aioioth --ignoreexternal
	. $(BIN)/activate && pyright --verifytypes aioioth_transports --ignoreexternal

bench: $(VENV)/dev.stamp peers
	$(BIN)/python -m benchmarks --output docs

# The programs that the tests of interoperability and the benchmarks talk to.
peers:
	@sh tests/interop/install-peers

$(VENV)/demo.stamp: pyproject.toml
	@sh tests/new-environment "$(PYTHON)" "$(VENV)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml speedups/pyproject.toml speedups/setup.py \
    $(wildcard speedups/src/* speedups/aioioth_speedups/*.py*)
	@sh tests/new-environment "$(PYTHON)" "$(VENV)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --no-deps ./speedups || \
	    echo "aioioth-speedups is left out: it takes a C compiler and Python's headers"
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	    speedups/build speedups/*.egg-info speedups/aioioth_speedups/*.so
