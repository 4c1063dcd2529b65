# Short names for the tasks in noxfile.py. Needs only make and Python 3.11+.
# `make test` and `make demo` install everything else.
.DEFAULT_GOAL := help
.PHONY: help all build build-docker docker-build format lint test coverage clean demo bench soak \
	fuzz audit mutants python programs

IMAGE ?= nexus-auth:latest
# Extra arguments, such as: make test ARGS='-k hotkey'  or  make demo ARGS=--keep
ARGS ?=

NOX := PATH="$(CURDIR)/.venv/bin:$$PATH" nox --session
PROGRAMS := nginx redis-server caddy haproxy
# Tests also open the status page in a browser, run the alert rules with promtool, complete a command
# in each shell, make authorities with openssl, and run the commands that reload a proxy (procps).
TEST_PROGRAMS := $(PROGRAMS) chromium openssl procps prometheus zsh tcsh

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

all: ## format, lint, test and build
	$(MAKE) format
	$(MAKE) lint
	$(MAKE) build
	$(MAKE) test

build: python ## build the wheel and the source archive into dist/, and try the wheel
	@$(NOX) build -- $(ARGS)

build-docker: ## build the container image (IMAGE=name:tag)
	docker build --tag $(IMAGE) .

docker-build: build-docker # the name in the original's Makefile

format: python ## rewrite the code in the house format
	@$(NOX) format

lint: python ## check format, lint, types and documentation links
	@$(NOX) lint types docs

test: programs ## run all tests (ARGS='-k something' for some)
	@$(NOX) tests -- $(ARGS)

coverage: programs ## run all tests and measure what they reach
	@$(NOX) coverage -- $(ARGS)

demo: ## show a real proxy that grants a registered hotkey and denies unknown callers
	@scripts/bootstrap.sh nginx
	@.venv/bin/nexus-auth demo $(ARGS)

bench: ## measure speed against a yardstick (installs wrk)
	@scripts/bootstrap.sh $(PROGRAMS) wrk
	@$(NOX) bench -- $(ARGS)

audit: python ## check the packages in .venv for known vulnerabilities
	@$(NOX) audit -- $(ARGS)

fuzz: python ## look for inputs that break a promise, for FUZZ_SECONDS (70 by default)
	@$(NOX) fuzz -- $(ARGS)

mutants: python ## measure which mistakes the unit tests notice (ARGS=domain/evaluate.py)
	@$(NOX) mutants -- $(ARGS)

soak: programs ## run two minutes of traffic while everything around the service fails
	@$(NOX) soak -- $(ARGS)

clean: ## remove what the other targets made
	rm -rf .venv .nox .mypy_cache .pytest_cache .ruff_cache .hypothesis .fuzz build dist site htmlcov \
		.coverage .coverage.* coverage.xml
	find src tests fuzz -depth -name __pycache__ -type d -exec rm -rf {} +

# What the targets above need.
python:
	@scripts/bootstrap.sh

programs:
	@scripts/bootstrap.sh $(TEST_PROGRAMS)
