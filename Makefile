# One verb per target. `make demo` and `make test` are all a fresh machine needs (Python >= 3.11).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo
# Two workers on two cores want one thread each; compiled test modules are kept even where the environment says not to.
SUITE := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1

.PHONY: demo test coverage test-slow test-fast check types format lint imports bars bench scoreboard docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip compiles on one core; some files are templates
	touch $(READY)

demo: $(READY)  ## the whole path on a simulated corpus, in minutes on a laptop CPU; ends with a report
	$(BIN)/plm-scaling demo -o $(DEMO)

test: $(READY)  ## the test suite, a file to a worker; what needs Slurm, a browser, kills or long statistics is in test-slow
	$(SUITE) $(BIN)/pytest -n 2 --dist loadfile -m "not slow and not slurm"

coverage: $(READY)  ## the same suite traced, which takes half as long again; fails below 90 %
	$(SUITE) $(BIN)/pytest -n 2 --dist loadfile -m "not slow and not slurm" --cov --cov-report=term:skip-covered

test-fast: $(READY)  ## what one runs while editing: no training
	$(BIN)/pytest -n 2 -m "not slow and not slurm" --ignore=tests/training --ignore=tests/faults --ignore=tests/end_to_end

test-slow: $(READY)  ## kills, a browser, a real Slurm, long statistics: half of it is waiting, hence three workers on two cores
	$(SUITE) $(BIN)/pytest -n 3 --dist loadgroup -m "slow or slurm"

check: $(READY)  ## format, lint, types, import directions, structure bars; side by side, types take the longest
	@$(MAKE) --no-print-directory -j 2 types format lint imports bars

types:
	$(BIN)/mypy

format:
	$(BIN)/ruff format --check --quiet .

lint:
	$(BIN)/ruff check --quiet .

imports:
	$(BIN)/lint-imports --no-logo > .import-linter.log || { cat .import-linter.log; exit 1; }

bars:
	$(BIN)/python tests/structure/bars.py

# These ask for data, for a folder or for hours; their first lines say how they are called.
NAMED := $(patsubst %,benchmarks/bench_%.py,adaptive completion dominated floors generated study)

bench: $(READY)  ## every benchmark that needs no arguments, peers beside ours; figures belong in benchmarks/RESULTS.md
	for file in $(filter-out $(NAMED),$(wildcard benchmarks/bench_*.py)); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

scoreboard: $(READY)  ## fit small, predict large on every published table at hand, beside peers; writes benchmarks/scoreboard.md
	$(BIN)/python benchmarks/scoreboard.py

docs: $(READY)  ## regenerate docs/cli.md from --help
	$(BIN)/python docs/make_cli_md.py

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .import_linter_cache .hypothesis
