# Everything here installs or builds what it needs first. As root it also runs what needs root.
.PHONY: build tools images test fuzz differential demo bench lint clean

# Root can run everything, so for root a test that would be skipped has failed.
skip = $(if $(filter 0,$(shell id -u)),TOCSIN_SKIP=never)
oracle_tags = containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper

build: ## bin/tocsin
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/tocsin

tools: ## containerd, ctr, registry and staticcheck, pinned in tools/, into bin/
	tools/build.sh

images: ## the test image, as an OCI layout in .cache/images
	tools/images.sh debian-python

test: build tools ## all tests, with the real programs, then go.podman.io as a second opinion, then 8 s of every fuzz target
	tools/install.sh
	tools/images.sh debian-python
	$(skip) go test -timeout 45m ./...
	cd integration/oracle && go test -tags '$(oracle_tags)' ./...
	tools/fuzz.sh 8s

fuzz: ## every fuzz target for five minutes
	tools/fuzz.sh 5m .cache/fuzz

differential: ## as root: random images that lie, against what containerd unpacks, for an hour or TOCSIN_FUZZ_TIME
	TOCSIN_FUZZ_TIME=$${TOCSIN_FUZZ_TIME:-1h} go test -count=1 -timeout 0 -v -run 'TestDifferentialFor$$' ./integration/differential

demo: ## a Debian container starts from an image whose data has not arrived
	tools/demo.sh

bench: build tools ## time to ready, throughput and memory, side by side
	tools/install.sh
	tools/bench.sh

lint: tools ## gofmt, go vet, staticcheck
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	bin/staticcheck ./...

clean: ## what make made
	rm -rf bin .cache
