# Every target installs its dependencies into .venv. `make help` lists the targets.
BIN := .venv/bin
UV := uv==0.13.9
BUILD_PACKAGES := g++ libopencv-dev libturbojpeg0-dev pkg-config python3-dev python3-venv
SLURM_PACKAGES := iproute2 mariadb-server-core munge slurm-client slurm-wlm-mysql-plugin slurmctld slurmd slurmdbd
BROWSER_PACKAGES := chromium chromium-driver

# PYTHON=python3.13 chooses the interpreter of .venv; a .venv with another interpreter is rebuilt.
FITS := import sys; sys.exit(sys.version_info < (3, 10))
ifdef PYTHON
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell test -x $(BIN)/python && $(BIN)/python -V))
.PHONY: .venv/ready
endif
else
PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 \
  "$$(uv python find --no-project '>=3.10' 2>/dev/null)"; \
  do "$$p" -c '$(FITS)' 2>/dev/null && echo "$$p" && break; done)
endif

TABLE := runs/faults.md

.PHONY: help demo test test-cluster quick lint lock system slurm browser clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

demo: .venv/ready  ## draw faces, prepare them, train on them
	$(BIN)/python launch/demo.py

test: .venv/ready slurm browser lint  ## every test and all checks (PYTEST="-k name": arguments of pytest)
	$(BIN)/pytest $(PYTEST)

test-cluster: .venv/ready slurm  ## trainings that survive faults, as a table (PYTEST="-k sigstop": some of it)
	$(BIN)/pytest -n 2 -o python_files='fault_*.py' tests/cluster/faults --table $(TABLE) $(PYTEST)

quick: .venv/ready  ## the fast tests, in two processes
	$(BIN)/pytest -q -n 2 -m "not long and not slurm and not browser and not gpu" $(PYTEST)

lint: .venv/ready  ## style, imports, types
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

lock: .venv/ready  ## newest versions into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
	  --no-header --no-annotate setup.cfg -o requirements.lock

.venv/ready: requirements.lock setup.cfg pyproject.toml | system
	@python="$(PYTHON)"; $${python:-false} -c '$(FITS)' || { echo "no Python from 3.10 on$${python:+: $$python}; \
	install one (apt-get install python3, or uv python install 3.13), or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet $(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Installs Debian packages as root; otherwise prints the command to run.
# $(1): the packages; $(2): a shell command to run if they are missing; its failure stops make.
define debian
@command -v dpkg-query >/dev/null || exit 0; \
missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
[ -z "$$missing" ] && exit 0; \
if [ $$(id -u) = 0 ]; then \
  echo "installing" $$missing; \
  export DEBIAN_FRONTEND=noninteractive; \
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
else \
  echo "missing: run  sudo apt-get install --no-install-recommends" $$missing >&2; $(2); \
fi
endef

system:  # ffcv compiles against OpenCV and TurboJPEG
	$(call debian,$(BUILD_PACKAGES),exit 1)

slurm:  # the tests start a real cluster; without these packages they are skipped with a message
	$(call debian,$(SLURM_PACKAGES),true)

browser:  # a test opens the explorer in a browser; without these packages it is skipped
	$(call debian,$(BROWSER_PACKAGES),true)

clean:  ## remove .venv, runs and data
	rm -rf .venv runs data build *.egg-info
