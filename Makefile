# SPDX-License-Identifier: GPL-2.0-or-later
#
# Everything below sets up what it needs by itself, in ~/.cache/mesh-relay (or
# XDG_CACHE_HOME); .ci/venv, .ci/tools and .ci/debian say how.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
export PYTHON

ARGS ?=
TESTS ?= tests
FUZZ_INPUTS ?= 10000000
SOAK_MINUTES ?= 30
SIM_RELAYS ?= 1000

# Assigned inside recipes, so that a failed set-up stops them.
in_dev = venv=$$(.ci/venv dev); export PATH="$$venv/bin:$$PATH"

.PHONY: help run test lint unit pages netns test-alerts test-radio test-libp2p other-python bench bench-board bench-radio bench-radio-short bench-libp2p fuzz fuzz-short soak sim fresh lock catalogues picture clean distclean image image-amd64 test-image test-image-survival test-image-arm64 deploy

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## /\1\t/p' Makefile | expand -t 18

run: ## start a relay; ARGS="--help" shows what else it takes
	@venv=$$(.ci/venv run); [[ $$(readlink .venv) != "$$venv" ]] || venv=.venv; exec "$$venv/bin/relay" run $(ARGS)

test: ## all that has to pass before a change goes in
	@.ci/stages lint unit pages netns other-python

lint: ## ruff, its formatter in check mode, mypy, and who imports whom
	@$(in_dev); ruff check . && ruff format --check . && mypy && lint-imports --no-cache

unit: ## every test that needs no root; TESTS=tests/unit/test_x.py for some
	@$(in_dev); tools=$$(.ci/tools); PATH="$$PATH:$$tools:/usr/sbin:/sbin" \
		python -m pytest -n 2 --dist loadfile -m "not netns and not radio and not image and not pages and not libp2p" $(TESTS)

pages: ## the pages in a real browser: languages, sizes, accessibility; screenshots in build/pages
	@$(in_dev); .ci/tools browser >/dev/null; mkdir -p build/pages; python -m pytest -p no:cacheprovider -n 2 -m pages tests/pages $(ARGS)

netns: ## the tests on real networks, in namespaces
	@$(in_dev); tools=$$(.ci/tools); .ci/guest-tree >/dev/null; PATH="$$PATH:$$tools" \
		.ci/netns "$$venv/bin/python" -m pytest -p no:cacheprovider -m "netns and not alerts" $(TESTS)

test-alerts: ## ten relays are broken and mended, watched by a real Prometheus and Alertmanager; minutes of real time, no part of CI
	@$(in_dev); tools=$$(.ci/tools); PATH="$$PATH:$$tools" \
		.ci/netns "$$venv/bin/python" -m pytest -p no:cacheprovider -m alerts tests/netns/test_watching.py $(ARGS)

# Under namespaces, as kubo and the relay find each other by multicast DNS.
test-libp2p: ## IPFS and Berty against stock nodes: go-libp2p, pubsub, boxo, kubo and helia; fetches Go if there is none, and builds them once
	@$(in_dev); tools=$$(.ci/tools); export LIBP2P_PEERS HELIA; LIBP2P_PEERS=$$(.ci/libp2p-peers); HELIA=$$(.ci/helia); \
		PATH="$$PATH:$$tools" .ci/netns "$$venv/bin/python" -m tests.reruns libp2p -m libp2p -n 2 --maxschedchunk 1 \
		tests/libp2p $(ARGS)

# .ci/guest after in_dev: the tests ask it again, and by another Python they would get another environment.
# Guests live in real time, and half of it they wait: so seven at once on two cores. Now and then that
# makes one of them late; so what fails is run once more, within a budget (tests/reruns.py).
test-radio: ## Bluetooth and Wi-Fi: real kernels, drivers and bluetoothd in guests, on air that is simulated
	@$(in_dev); .ci/guest >/dev/null; \
		python -m tests.reruns radio -m radio -n 7 --maxschedchunk 1 tests/radio $(ARGS)

other-python: ## the fast tests on the Python version that this system lacks, in a chroot
	@.ci/tools >/dev/null; .ci/other-python

bench: ## measure, print, and write build/bench.json
	@$(in_dev); mkdir -p build; python -m bench $(ARGS)

bench-radio: ## measure in the radio lab, print, and write build/bench-radio.json
	@$(in_dev); .ci/guest >/dev/null; mkdir -p build; python -m bench.radio $(ARGS)

bench-board: ## measure with the processor, memory and card of a small board, print, and write build/bench-board.json; as root
	@$(in_dev); mkdir -p build; python -m bench.board $(ARGS)

bench-radio-short: ## the same from one run of each, which is worth less
	@$(MAKE) --no-print-directory bench-radio ARGS="--runs 1 --output build/bench-radio-short.json"

bench-libp2p: ## measure relay libp2p beside stock nodes, print, and write build/bench-libp2p.json; fetches Go if there is none
	@$(in_dev); export LIBP2P_PEERS; LIBP2P_PEERS=$$(.ci/libp2p-peers); mkdir -p build; \
		.ci/netns "$$venv/bin/python" -m bench.libp2p $(ARGS)

fuzz-short: ## a minute of fuzzing
	@$(in_dev); mkdir -p build; python -m tests.fuzz --seconds 60 $(ARGS)

fuzz: ## FUZZ_INPUTS inputs into every decoder
	@$(in_dev); mkdir -p build; python -m tests.fuzz --inputs $(FUZZ_INPUTS) $(ARGS)

soak: ## SOAK_MINUTES of traffic; memory has to stay flat
	@$(in_dev); mkdir -p build; python -m bench.soak --minutes $(SOAK_MINUTES) $(ARGS)

sim: ## SIM_RELAYS relays in one process; report and picture in build/
	@$(in_dev); mkdir -p build; python -m tests.sim --relays $(SIM_RELAYS) $(ARGS)

fresh: ## what a newcomer sees: make run on fresh Debians, as root and as a user with sudo
	@.ci/fresh bookworm user; .ci/fresh trixie root

picture: ## draw the picture of the operator's page for the README
	@$(in_dev); .ci/tools browser >/dev/null; python -m tests.pages.picture

catalogues: ## bring the pages' translations up to date with templates and code
	@$(in_dev); python -m tests.pages.catalogues

lock: ## resolve pyproject.toml anew; UPGRADE=1 takes the newest versions
	@.ci/lock

image: ## build the SD card image for Raspberry Pi into build/image/arm64; ARGS="--key FILE" signs it
	@.ci/image arm64 build/image/arm64 $(ARGS)

image-amd64: ## the same for amd64, which the tests boot
	@.ci/image amd64 build/image/amd64 $(ARGS)

test-image: ## build the amd64 image twice, compare, boot it; writes build/image.json
	@.ci/test-image $(ARGS)

test-image-survival: ## power cuts, panic, seizure and damage on the amd64 image; forty minutes, writes build/survival.json
	@.ci/test-image-survival $(ARGS)

test-image-arm64: ## build the image for Raspberry Pi and boot it in an emulator; an hour
	@.ci/test-image-arm64

deploy: ## install or update the relay on a running Debian; HOST=user@address
	@.ci/deploy "$(HOST)" $(ARGS)

clean: ## remove what was built in this clone
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find relay tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	[[ ! -L .venv ]] || rm .venv

distclean: clean ## and the cache of every clone
	@.ci/distclean
