# windrose. `make` alone prints the targets.
#
# Go switches to the version below by itself (through the module proxy), so any
# Go from 1.21 on will do. Tools and caches go to .cache/, which git ignores.

export GOTOOLCHAIN := go1.27.3
export PATH := $(PATH):/usr/local/go/bin

GOLANGCI_VERSION := v2.15.0

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

BIN      := bin/windrose
GOLANGCI := .cache/bin/golangci-lint-$(GOLANGCI_VERSION)
NEED     := tools/need
FUZZTIME ?= 30s
# Stamp the version only where git answers: a tree owned by another user, or an
# unpacked archive, must build too.
BUILDVCS  = $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)

.DEFAULT_GOAL := help
.PHONY: help build up test e2e lint fmt gen gen-check fuzz bench size check clean

help: ## print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-10s %s\n' "$$t" "$$d"; done

build: ## build bin/windrose (static, version stamped from git)
	@$(NEED) go
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(BUILDVCS) -ldflags '-s -w' -o $(BIN) ./cmd/windrose

up: ## build it and run the demo: https://pingdo.net/api and /app on this machine
	@$(NEED) go curl
	@$(MAKE) build
	@exec tools/up

test: ## run every test; what no Kubernetes package is linked into runs under the race detector
	@$(NEED) go gcc curl openssl
	@$(MAKE) build
	@exec tools/test

e2e: ## run the whole-program tests alone
	@$(NEED) go curl openssl
	@$(MAKE) build
	tools/peers jaeger zipkin
	go test -shuffle=on -timeout 15m ./e2e/...

lint: $(GOLANGCI) ## check format, style and import walls
	@$(NEED) go
	$(GOLANGCI) run ./...
	go test -run 'TestImports|TestPackageDocs|TestWalls' .

fmt: $(GOLANGCI) ## format all Go files (gofumpt, goimports)
	$(GOLANGCI) fmt ./...

gen: ## make generated files anew (CRDs, deep copies, reference docs)
	@$(NEED) go
	go generate ./...

gen-check: ## fail if a generated file or go.mod is not current
	@$(NEED) go git
	go mod tidy -diff
	@exec tools/gen-check

fuzz: ## run every fuzz test for FUZZTIME (30s)
	@$(NEED) go
	@exec tools/fuzz $(FUZZTIME)

bench: ## measure windrose beside nginx, HAProxy and Envoy (about 15 minutes; writes docs/performance.md)
	@$(NEED) go gcc nginx libnginx-mod-stream haproxy h2load python3 chrt taskset libssl
	@$(MAKE) build
	go run ./bench

size: build ## print what is longer than the budgets: functions, files, packages, binary
	go run ./tools/size $(BIN)

check: fmt lint test gen-check ## what a commit must pass

clean: ## remove what was built (not the Go caches)
	rm -rf bin .cache examples/pingdo/local

$(GOLANGCI):
	@$(NEED) go
	@echo "installing golangci-lint $(GOLANGCI_VERSION) into .cache/bin (some minutes, once)"
	@GOBIN=$(CURDIR)/.cache/bin GOFLAGS= CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv .cache/bin/golangci-lint $@
