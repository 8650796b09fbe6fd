# make demo   set up and run the main job on embedded data
# make test   set up and run the tests but the slow ones, which CI runs with `pytest -m slow` (MARK= for others)
# make check  what must hold before a commit: lint, format, types, tests
# make docs   build the documentation as a site; any warning is an error. To read it: python3 -m http.server -d site
# make dist   build the wheel and the source archive, and try them in fresh environments (DIST= for options of .ci/dist.py)
# The versions in constraints.txt are installed; for the newest: make demo CONSTRAINTS=

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
# What an installation says is shown where it fails.
define install
	@echo "installing mmard with $(1) into .venv: some minutes the first time"
	@$(BIN)/pip install --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[$(1)]' >.venv/install.log 2>&1 \
		|| { cat .venv/install.log; exit 1; }
endef

MARK ?= not slow
QUICK := -m "$(MARK)" -n 2 --dist loadfile  # two processes, a file of tests each: one makes what its tests share

.PHONY: demo test check docs dist format clean

.venv/user: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -m venv .venv
	$(call install,all)
	@touch $@

.venv/dev: .venv/user
	$(call install,dev)
	@touch $@

demo: .venv/user
	@$(BIN)/mmard demo

test: .venv/dev
	$(BIN)/pytest $(QUICK)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest $(QUICK)

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/dev
	$(BIN)/python .ci/dist.py $(DIST)

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
