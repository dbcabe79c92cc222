# Two commands are enough: `make run` and `make test`. Everything is installed into .venv, from locked versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each of these files exists only while the installation that it represents is complete.
MADE := $(VENV)/.made
RUNTIME := $(VENV)/.runtime
TESTS := $(VENV)/.tests
JOBS ?= 5

# What is compiled once serves every process. In some containers Python is set to keep nothing, and then each start of a
# process compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run demo test check bench bench-cpu bench-export bench-jobs bench-pages bench-recovery fraud-figures ha overload upgrade-trial image-test chaos fuzz mutants format diagram dashboards picture screenshots lock sbom clean

help:
	@echo 'make run     everything on this machine, with a PostgreSQL of its own; Ctrl-C stops it'
	@echo 'make demo    the same with three tickets and a month of invented donations: pages and console to look at'
	@echo 'make test    the whole suite'
	@echo 'make check   format, lint, strict types and the rules of who may import whom'
	@echo 'make bench   figures of this machine, about a quarter of an hour; ROUNDS=1 takes minutes, SHORT=1 one (needs wrk);'
	@echo '              PEERS=1 adds the rows of programs of others, which come from npm (needs node, npm)'
	@echo 'make bench-cpu shows the CPU time of an event by process, three minutes; ROUNDS=1 takes one (needs wrk)'
	@echo 'make bench-export exports a million rows, by command and beside webhooks, three minutes; ROWS=100000 does less'
	@echo 'make bench-recovery replays and reconciles an account with 100,000 objects, five minutes; OBJECTS=20000 does less'
	@echo 'make bench-pages measures the public pages and those of the console with a million donations, three minutes; ROWS=100000 fills less'
	@echo 'make bench-jobs shows what deliveries notice while the jobs process works, two minutes; OBJECTS=2000 less'
	@echo 'make overload shows what too many deliveries and 1,000 hostile clients of each kind do to a process, eight minutes;'
	@echo '              KIND=slow-heads,cut-bodies THROUGH=haproxy measures a part, SHORT=1 takes three (needs wrk, haproxy)'
	@echo 'make upgrade-trial  upgrades former releases under 300 events a second, two minutes'
	@echo 'make image-test  builds the image and runs its containers, three minutes (needs root, mmdebstrap, buildah, podman, runc)'
	@echo 'make fraud-figures   how many signals of fraud are right, and how many attacks they find; DAYS=1000 SEED=7 judges others'
	@echo 'make chaos   200 faults under load, about half an hour; FAULTS=20 SEED=7 does fewer, and others, SITE=jobs those of'
	@echo '              the jobs only (or proxies, embedded)'
	@echo 'make ha      20 faults of hosts done to a cluster of deploy/ha under load, a quarter of an hour; ROUNDS=4 does fewer;'
	@echo '              THROUGH=haproxy leads through HAProxy (as root; needs etcd-server, postgresql-15, haproxy)'
	@echo 'make fuzz    20,000 unforeseen inputs, in a minute; N=1000000 SEED=7 tries more, and others'
	@echo 'make format  puts the code into shape'
	@echo 'make mutants shows that the suite finds faults put into the code (SAMPLE=n: every nth)'
	@echo 'make diagram draws the diagram of the facts in deploy/docs/explanation.md'
	@echo 'make dashboards writes deploy/grafana/*.json'
	@echo 'make picture draws deploy/grafana/on-call.svg from real data, three minutes (needs prometheus)'
	@echo 'make screenshots draws the pictures of the pages in deploy/docs/pictures/ (needs chromium)'
	@echo 'make lock    renews the locked versions, and the list of them in deploy/sbom.json (needs uv)'
	@echo 'make sbom    renews only that list (needs uv)'
	@echo 'make clean   removes what make installed; the data in .donationd/ stays'

run: $(RUNTIME)
	@exec $(BIN)/donationd up --embedded --stop-with $$PPID

demo: $(RUNTIME)
	@exec $(BIN)/donationd demo --stop-with $$PPID

# Files run side by side, because many of them wait for processes most of the time, in the order of
# tests/support/order.py: by itself xdist begins with the files of most tests, and ends with those that take longest.
# ARGS=tests/unit/test_facts.py runs one.
test: $(TESTS)
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder)

check: $(TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(TESTS)
	@$(BIN)/python -m tests.bench

bench-cpu: $(TESTS)
	@ROUNDS=$(ROUNDS) $(BIN)/python -m tests.bench.cpu

bench-export: $(TESTS)
	@$(BIN)/python -m tests.bench.export

bench-recovery: $(TESTS)
	@$(BIN)/python -m tests.bench.recovery

bench-pages: $(TESTS)
	@$(BIN)/python -m tests.bench.pages

bench-jobs: $(TESTS)
	@$(BIN)/python -m tests.bench.jobs

fraud-figures: $(TESTS)
	@DAYS=$(DAYS) SEED=$(SEED) $(BIN)/python -m tests.bench.fraud

overload: $(TESTS)
	@$(BIN)/python -m tests.bench.overload

upgrade-trial: $(TESTS)
	@$(BIN)/python -m tests.bench.upgrade

image-test: $(TESTS)
	@$(BIN)/python -m tests.image

chaos: $(TESTS)
	@FAULTS=$(FAULTS) SEED=$(SEED) $(if $(SITE),SITE=$(SITE)) $(BIN)/python -m tests.chaos

ha: $(TESTS)
	@ROUNDS=$(ROUNDS) SEED=$(SEED) THROUGH=$(THROUGH) $(BIN)/python -m tests.ha

fuzz: $(TESTS)
	@N=$(N) SEED=$(SEED) $(BIN)/python -m tests.fuzz

format: $(TESTS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(TESTS)
	$(BIN)/python -m tests.mutants

diagram: $(TESTS)
	$(BIN)/python -m tests.support.diagram

dashboards: $(TESTS)
	$(BIN)/python -m tests.support.dashboards

picture: $(TESTS)
	$(BIN)/python -m tests.support.picture

screenshots: $(TESTS)
	$(BIN)/python -m tests.support.screenshots

lock:
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --extra embedded setup.py -o deploy/requirements.lock
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --extra test setup.py -o tests/requirements.lock
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    deploy/ha/requirements.in -o deploy/ha/requirements.lock
	$(MAKE) sbom

# From what the lock installs, not only from the lock: licences and dependencies are in the packages themselves.
sbom:
	uv venv --quiet --clear --python $(PYTHON) build/sbom
	uv pip sync --quiet --python build/sbom/bin/python --require-hashes deploy/requirements.lock
	uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-reproducible -o deploy/sbom.json \
	    build/sbom/bin/python

clean:
	rm -rf $(VENV) build *.egg-info

$(MADE):
	@command -v $(PYTHON) >/dev/null || { echo 'donationd needs Python 3.11 or newer: apt-get install python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'donationd needs Python 3.11 or newer; name one with PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	    || { echo 'Python lacks its venv module: apt-get install python3-venv'; exit 1; }
	@echo 'Making $(VENV) …'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# After an interruption pip takes a package for installed that lacks some of its files, or refuses to replace it. So
# nothing counts as made while it works, and the next run begins with an empty folder.
$(RUNTIME): deploy/requirements.lock setup.py $(MADE)
	@echo 'Installing what donationd needs …'
	@rm -f $(MADE) $(RUNTIME) $(TESTS)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(MADE) $@

$(TESTS): tests/requirements.lock $(RUNTIME)
	@echo 'Installing what the tests need …'
	@rm -f $(MADE) $(RUNTIME) $(TESTS)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $(MADE) $(RUNTIME) $@
