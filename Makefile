# make setup | up [EXECUTOR=ray] | demo [ONCE=1] | test [ARGS="tests/api -k name"] | test-all | check | lint | docs | client | audit | sbom | lock [UPGRADE=1] | check-env | clean
#
# Everything lives in .venv and (at run time) .lcl, both inside this folder. PYTHON=/path/to/python chooses
# the interpreter; otherwise the first one below that is new enough and can make virtual environments. TORCH_INDEX=URL
# is the package index that torch comes from, such as https://download.pytorch.org/whl/cpu; without it, pip's own.
.DELETE_ON_ERROR:
.PHONY: setup up demo test test-all check lint docs client audit sbom lock check-env clean help

PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
USABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check install
# Each file is compared with its SHA-256 in the lock file, and nothing beside the lock file is installed.
LOCKED := $(PIP) --require-hashes --no-deps
# Then the project itself. All that pip still has to fetch is torch, whose build depends on the machine, and what that
# build brings. setuptools is the locked one, which is why its build is not isolated.
PROJECT := PYTHONWARNINGS=ignore $(PIP) --no-build-isolation $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
COMPILE := .venv/bin/uv pip compile --quiet $(if $(filter-out 0 no false,$(UPGRADE)),--upgrade) pyproject.toml --group build

help:
	@sed -n '1s/^# //p' Makefile

setup: .venv/.service

# The guide, which api and page serve, is built beside the start where its sources have changed.
GUIDE := build/site/index.html
BUILD_GUIDE := (nice $(MAKE) --silent $(GUIDE) >/dev/null 2>&1 &)
$(GUIDE): $(wildcard *.md docs/*.md docs/*/*.md scripts/*_pages.py api/cli/*.py lcl_core/specs/*.py)
	@.venv/bin/python -m scripts.build_docs

up: setup
	@$(BUILD_GUIDE); exec env $(if $(EXECUTOR),LCL_EXECUTOR=$(EXECUTOR)) .venv/bin/python -m deploy.local up

demo: setup
	@$(BUILD_GUIDE); exec .venv/bin/python -m deploy.local demo $(if $(filter-out 0 no false,$(ONCE)),--once)

# Bytecode is kept whatever the machine's setting: without, each of the hundreds of processes compiles torch's and its
# companions' source anew, which is two thirds of the time that the import takes.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest
test: .venv/.test
	@$(PYTEST) -m "not extended" $(ARGS)

# Everything: lint and types, and what make test leaves out.
test-all: lint
	@$(PYTEST) $(ARGS)

# What a change should pass before it is pushed, in two minutes: lint, types, rules of the source tree, tests without processes.
QUICK := test_architecture.py docs
QUICK += $(addprefix lcl_core/,specs studies estimate ops data/corpus data/formats data/sampling)
QUICK += $(addprefix lcl_core/evaluation/,test_metrics.py test_caption_metrics.py test_significance.py)
QUICK := $(addprefix tests/,$(QUICK))
check: lint
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not extended" $(QUICK)

lint: .venv/.test
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports --no-cache

# The documentation site as static files with a search. No network is needed, neither to build nor to read it.
docs: .venv/.service
	@.venv/bin/python -m scripts.build_docs

# The client of the service as a wheel of its own, lcl-client. No network is needed.
client: .venv/.service
	@.venv/bin/python -m scripts.build_client

# Asks PyPI for known vulnerabilities of what the lock file names, and of the torch that is installed. Ends with an error
# where PyPI cannot say.
AUDIT := .venv/bin/python -m pip_audit --strict --disable-pip --progress-spinner off
audit: .venv/.test
	@$(AUDIT) --require-hashes --requirement requirements/test.lock
	@$(AUDIT) --require-hashes --requirement requirements/extras.lock
	@.venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch").partition("+")[0])' \
	  | $(AUDIT) --no-deps --requirement /dev/stdin

# The libraries of the service as CycloneDX, with versions and hashes. No network is needed.
sbom: .venv/.test
	@mkdir -p build
	@.venv/bin/cyclonedx-py requirements requirements/service.lock --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON --output-file build/sbom.cdx.json
	@echo build/sbom.cdx.json

# What LCL_EXTRAS may add to the image.
IMAGE_EXTRAS := interop qdrant ray
# Versions stay as they are wherever pyproject.toml still admits them; UPGRADE=1 takes the newest.
lock: .venv/.test
	@$(COMPILE) --extra service --extra test --group supply-chain --output-file requirements/test.lock
	@$(COMPILE) --extra service --constraint requirements/test.lock --output-file requirements/service.lock
	@$(COMPILE) --extra service $(IMAGE_EXTRAS:%=--extra %) --constraint requirements/test.lock --output-file requirements/extras.lock
	@$(COMPILE) --extra service --extra docs --constraint requirements/test.lock --output-file requirements/docs.lock

# The names in .env that the compose files do not read, such as misspelt ones: compose itself ignores them.
check-env:
	@awk '{ sub(/^[ \t]*(export[ \t]+)?/, "") } \
	  FNR == NR { sub(/^# /, "") } \
	  !/^[A-Za-z_][A-Za-z0-9_]*[ \t]*=/ { next } \
	  { sub(/[ \t]*=.*/, "") } \
	  FNR == NR { known[$$0]; next } \
	  !($$0 in known || /^COMPOSE_/) { print FILENAME ":" FNR ": " $$0 " has no effect; .env.example has the names"; found = 1 } \
	  END { exit found }' .env.example .env

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/.made:
	@for python in $(PYTHONS); do \
	  if "$$python" -c '$(USABLE)' >/dev/null 2>&1; then \
	    echo "making .venv with $$("$$python" --version)"; \
	    "$$python" -m venv --clear .venv && touch $@ && exit 0; exit 1; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with the venv module among: $(PYTHONS)." >&2; \
	echo "Install one (Debian: apt install python3-venv) or say make PYTHON=/path/to/python." >&2; \
	exit 1

# the service, with what builds its guide
.venv/.service: pyproject.toml requirements/docs.lock | .venv/.made
	@echo "installing into .venv (about 2 GB, a few minutes the first time)"
	@$(LOCKED) --only-binary :all: --requirement requirements/docs.lock
	@$(PROJECT) --editable '.[service,docs]'
	@touch $@

# what tests import is compiled when they do, and the rest of 2 GB never
.venv/.test: pyproject.toml requirements/test.lock | .venv/.made
	@echo "installing with the test tools into .venv (about 2 GB, a few minutes the first time)"
	@$(LOCKED) --no-compile --requirement requirements/test.lock
	@$(PROJECT) --no-compile --editable '.[service,test]'
	@touch .venv/.service $@
