# `make demo` trains on faces it draws itself; `make test` runs every test. Both install what they need.
PYTHON ?= python3
BIN := .venv/bin
UV := uv==0.13.9
BUILD_PACKAGES := g++ libopencv-dev libturbojpeg0-dev pkg-config python3-dev python3-venv
SLURM_PACKAGES := iproute2 mariadb-server-core munge slurm-client slurm-wlm-mysql-plugin slurmctld slurmd slurmdbd
BROWSER_PACKAGES := chromium chromium-driver

.PHONY: demo test lint lock system slurm browser clean

demo: .venv/ready
	$(BIN)/python launch/demo.py

test: .venv/ready slurm browser lint
	$(BIN)/pytest $(PYTEST)

lint: .venv/ready
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports --no-cache

lock: .venv/ready
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --extra test \
	  --no-header --no-annotate setup.cfg -o requirements.lock

.venv/ready: requirements.lock setup.cfg pyproject.toml | system
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "$$($(PYTHON) --version) is not one of 3.10 to 3.12: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet $(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Installs Debian packages where that is allowed, else prints the line that does.
# $(1): the packages; $(2): what goes on without them (a shell command that fails stops make).
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

slurm:  # the tests bring up a real cluster; without these packages they skip and say so
	$(call debian,$(SLURM_PACKAGES),true)

browser:  # the explorer is tested in one; without these packages that test skips and says so
	$(call debian,$(BROWSER_PACKAGES),true)

clean:
	rm -rf .venv runs data build *.egg-info
