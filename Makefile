# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := hub,postgres,redis,dask,docker,online,gaia,blind,otel,dev

.PHONY: setup demo test test-quick test-stack lint images chaos fuzz audit bench-coadd clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: setup
	$(BIN)/starloom demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A file's tests stay together: they share what is costly to make.
test-quick: lint
	$(BIN)/pytest -m 'not slow' --numprocesses auto --dist loadfile

# The slow ones start servers, kill them and take their time; one after the other.
test: test-quick
	$(BIN)/pytest -m 'slow and not stack'

# The stack of infra/compose.yaml: up, used, killed, down and up again, upgraded, lost and restored, from images made here.
test-stack: setup
	$(BIN)/pytest -m stack

images:
	docker build -f docker/Dockerfile --target cpu -t starloom:latest --build-arg COMMIT=$$(git rev-parse HEAD) .
	docker build -f docker/Dockerfile --target volunteer -t starloom-volunteer:latest \
		--build-arg COMMIT=$$(git rev-parse HEAD) .

# A storm over a whole hub: every program killed at random while missions are stacked (docs/reliability.md). Interrupted
# and called again with the same numbers, it goes on where it was; FRESH=--fresh begins anew.
MISSIONS ?= 30
KILLS ?= 12
SEED ?= 1
chaos: setup
	$(BIN)/python -m tests.chaos.storm --missions $(MISSIONS) --kills $(KILLS) --seed $(SEED) $(FRESH)

# Broken and hostile files by the thousand (docs/security.md); the same seed gives the same files.
COUNT ?= 10000
fuzz: setup
	$(BIN)/python -m tests.security.fuzz --count $(COUNT) --seed $(SEED)

# Known weaknesses of what constraints.txt pins; asks a database on the internet, hence no part of the tests.
audit: .audit/.ready
	.audit/bin/pip-audit --disable-pip --no-deps -r constraints.txt

.audit/.ready:
	$(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

# Hours, and 12 GB of simulated frames in the system's temporary folder; SWarp and Siril join in where installed.
bench-coadd: setup
	cd benchmarks && for job in \
		"coadd_peers_small.py" \
		"coadd_truth.py A12 MIX18 HARD15" \
		"coadd_noise.py A12" \
		"coadd_disc.py DISC3 DISC10" \
		"coadd_streaks.py" \
		"coadd_proper.py" \
		"coadd_speed.py A12 MIX18 --rounds 3 --peers swarp" \
		"coadd_speed.py A12 --rounds 3 --peers siril seiza reproject" \
		"coadd_speed.py A12 --memory-limit 1.5 --memory 1.2GB" \
		"coadd_scaling.py" \
		"coadd_real.py"; \
	do OMP_NUM_THREADS=1 PYTHONPATH=.. ../$(BIN)/python $$job || exit 1; done

clean:
	rm -rf .venv .audit .demo .pytest_cache .mypy_cache .ruff_cache
