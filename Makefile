# Pilotfish. `make help` lists what there is to do.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# The steps of `make test` share two cores and one terminal.
.NOTPARALLEL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Fetched tools and the fetched Envoy live here, outside the repository.
export PILOTFISH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pilotfish

GOLANGCI_LINT_VERSION := v2.15.0
FUZZTIME ?= 5s
BENCH ?=

BIN := bin
UNIT = $$(go list ./... | grep -v /test/e2e)
say = @printf '\n== %s\n'

.PHONY: help
help: ## Say what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  make run takes GATEWAY_PORT (8080), PROFILE (lean, full-duplex), ENDPOINTS (a file of your own servers),'
	@echo '  GRPC_PORT (9002), GRPC_HEALTH_PORT (9003), METRICS_PORT (9090), ENVOY_ADMIN_PORT (9901), ACCESS_LOG (a file)'
	@echo '  LOAD (3 sends three times as much as the servers can take, and shows the queue),'
	@echo '  and every setting of the picker, for example: make run ROUTING_STRATEGY=DEFAULT'
	@echo '  make fuzz takes FUZZTIME (5s, for each target); make bench takes BENCH (flags, e.g. BENCH=--quick)'

.PHONY: build
build: go ## Build the picker, bin/epp, and the bench tool, bin/bench
	@[ -d $(BIN) ] || echo 'building; the first time takes a minute or two ...'
	@go build -o $(BIN)/ ./cmd/epp ./bench

.PHONY: run
run: build ## Run four simulated model servers, the picker and Envoy, until Ctrl-C
	@ENVOY=$$(hack/fetch-envoy.sh); export ENVOY; exec $(BIN)/bench $(if $(LOAD),overload --live --load $(LOAD) --epp $(BIN)/epp,run)

.PHONY: test
test: lint vet unit race fuzz e2e ## Everything: lint, unit, race, fuzz for some seconds, end to end through Envoy

.PHONY: bench
bench: build ## Measure what the picker costs beside references of the same run, for ten minutes
	@exec $(BIN)/bench cost --epp $(BIN)/epp $(BENCH)

.PHONY: lint
lint: go ## Check style, and that the generated parts of the documents are up to date
	$(say) lint
	@"$$(hack/tool.sh github.com/golangci/golangci-lint/v2/cmd/golangci-lint $(GOLANGCI_LINT_VERSION))" run ./...
	@hack/settings-table.sh --check

.PHONY: fuzz
fuzz: go ## Run every fuzz target for some seconds
	$(say) fuzz
	@hack/fuzz.sh $(FUZZTIME)

.PHONY: generate
generate: go ## Bring the generated parts of the documents up to date
	@hack/settings-table.sh

.PHONY: clean
clean: ## Remove what was built here; the cache of tools stays
	@rm -rf $(BIN) out

# The steps of `make test` that are no targets of their own in the help.

.PHONY: vet
vet: go
	$(say) vet
	@go vet ./...

.PHONY: unit
unit: go
	$(say) 'unit tests'
	@ENVOY=$$(hack/fetch-envoy.sh) go test -timeout 5m $(UNIT)

# The race detector needs a C compiler.
.PHONY: race
race: go
	$(say) 'unit tests with the race detector'
	@if [ "$$(go env CGO_ENABLED)" = 1 ] && command -v "$$(go env CC)" >/dev/null; then \
		ENVOY=$$(hack/fetch-envoy.sh) go test -race -timeout 8m $(UNIT); \
	else \
		echo 'SKIPPED: no C compiler ($(shell go env CC)) was found, and the race detector needs one (for example: apt-get install gcc libc6-dev)'; \
	fi

.PHONY: e2e
e2e: go
	$(say) 'end to end, through Envoy'
	@ENVOY=$$(hack/fetch-envoy.sh) go test -count=1 -v -timeout 15m ./test/e2e/... | grep -v -e '^=== ' -e 'no test files'

.PHONY: go
go:
	@command -v go >/dev/null || { echo 'Go was not found; version 1.26 or later is needed'; exit 1; }
