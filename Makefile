# make demo and make test need nothing set up; see README.md and CONTRIBUTING.md.
.PHONY: help demo test race faults lint fuzz redis bench bench-ring picture

FUZZTIME ?= 10s
STATICCHECK = go tool -modfile=tools/go.mod staticcheck

help:
	@echo 'make demo   the life of a session, on embedded servers (ARGS="-addr host:port" for yours)'
	@echo 'make test   all the tests; finds or installs Redis'
	@echo 'make race   all the tests with the race detector'
	@echo 'make faults Redis Cluster and Sentinel under fire, with a table (LONG=1: the long form)'
	@echo 'make lint   gofmt, vet, staticcheck, go mod tidy'
	@echo 'make bench  placement: speed and balance'
	@echo 'make bench-ring  a ring of servers while a node is away, and what each call sends'
	@echo 'make picture  docs/ring.svg'
	@echo 'make fuzz   each fuzz target for FUZZTIME ($(FUZZTIME))'

demo:
	@go run ./examples/demo $(ARGS)

# One package after the other: some break servers and watch what happens.
test: redis
	go test -p 1 -timeout 20m $(TESTFLAGS) ./...

race: redis
	go test -p 1 -race -timeout 30m ./...

# Some minutes; with LONG=1, on a quiet machine, half an hour.
faults: redis
	go test -count=1 -v -timeout 90m -run 'Cluster|Sentinel' ./integration/faults $(if $(LONG),-args -long) | grep -v '^=== '
	go test -count=1 -timeout 30m -run 'LostReplyMatrix|FailoverUndoesNothing|CancelledCall' ./integration $(if $(LONG),-args -long)

# Finds what the integration tests run on, and says so.
redis:
	@scripts/find-redis

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'gofmt: the files above'; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	go mod tidy -diff
	cd tools && go mod tidy -diff
	cd bench && go mod tidy -diff

# Placement: its speed beside other rings, its balance.
bench:
	cd bench && go test -bench . -run '^$$' ./...

# On real servers, some of which are killed and paused meanwhile.
bench-ring: redis
	go test -run '^$$' -bench Ring -benchtime 1x ./integration

# docs/ring.svg
picture:
	cd bench && go run ./cmd/ringpicture -o ../docs/ring.svg

fuzz:
	@scripts/fuzz $(FUZZTIME)
