# make setup | up | demo [ONCE=1] | test [ARGS="tests/api -k name"] | lint | audit | clean
#
# Everything lives in .venv and (at run time) .lcl, both inside this folder. PYTHON=/path/to/python chooses
# the interpreter; otherwise the first one below that is new enough and can make virtual environments.
.DELETE_ON_ERROR:
.PHONY: setup up demo test lint audit clean help

PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
USABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check install

help:
	@sed -n '1s/^# //p' Makefile

setup: .venv/.service

up: setup
	@exec .venv/bin/python -m deploy.local up

demo: setup
	@exec .venv/bin/python -m deploy.local demo $(if $(filter-out 0 no false,$(ONCE)),--once)

# Bytecode is kept whatever the machine's setting: without, each of the hundreds of processes compiles torch's and its
# companions' source anew, which is two thirds of the time that the import takes.
test: .venv/.test
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest $(ARGS)

lint: .venv/.test
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

audit: .venv/.test
	@$(PIP) pip-audit
	@.venv/bin/python -m pip_audit --skip-editable

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

.venv/.service: pyproject.toml | .venv/.made
	@echo "installing into .venv (about 2 GB, a few minutes the first time)"
	@$(PIP) --editable '.[service]'
	@touch $@

# one installation of both; what tests import is compiled when they do, and the rest of 2 GB never
.venv/.test: pyproject.toml | .venv/.made
	@echo "installing with the test tools into .venv (about 2 GB, a few minutes the first time)"
	@$(PIP) --no-compile --editable '.[service,test]'
	@touch .venv/.service $@
