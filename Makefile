# rowsync: one place to build, to test and to try everything.
#
#   make demo      the founding scenario, phase by phase; installs and builds what it needs first
#   make check     every test
#   make asan      units, end-to-end tests and scenarios on binaries that watch over their memory
#   make fuzz      looks for inputs that break a parser; SECONDS=600 for each, ONLY=gateway_jwt
#   make up        a PostgreSQL and a gateway to play with; make psql, make down
#
# PG=17 picks a PostgreSQL version, CC=clang a compiler, SANITIZE=address,undefined instrumented
# binaries (in a folder of their own) for whatever is built or tested; the extension stays plain.

SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
RUN := $(PYTHON) test/run
export PYTHONDONTWRITEBYTECODE = 1

# The newest server in Debian's folders, else whatever pg_config is on PATH. Looked up when used:
# `deps` may have installed it a moment ago.
PG_CONFIG ?= $(or $(patsubst %/postgres,%/pg_config,$(if $(PG),$(wildcard \
    /usr/lib/postgresql/$(PG)/bin/postgres),$(lastword $(shell \
    ls -v /usr/lib/postgresql/*/bin/postgres 2>/dev/null)))),pg_config)
export PG

STAGE := $(CURDIR)/build/stage
PARTS := gateway client-sqlite

# PostgreSQL's own flags and headers are made for gcc, and clang must not stumble over those.
FOR_CLANG := COPT='-Wno-ignored-optimization-argument -Wno-unknown-warning-option \
    -Wno-ignored-attributes'
EXTENSION = --no-print-directory -C pg_extension PG_CONFIG=$(PG_CONFIG) \
    $(if $(findstring clang,$(CC)),$(FOR_CLANG))

.PHONY: all deps ready stage unit install clang check check-pgtap check-isolation check-unit \
        check-corpus check-random check-upgrade check-e2e check-assert check-valgrind asan tsan \
        fuzzers fuzz scenario demo \
        bench up down psql lint format clean

all: stage
	@for part in $(PARTS); do $(MAKE) --no-print-directory -C $$part all || exit; done

# The extension as it would lie in the system's folders, for servers started with extension_destdir.
# Objects of another PostgreSQL version are no use.
stage:
	@mkdir -p build
	@version=$$($(PG_CONFIG) --version) && \
	if [ "$$version" != "$$(cat build/pg-version 2>/dev/null)" ]; then \
	    $(MAKE) $(EXTENSION) -s clean && \
	    rm -rf $(STAGE) && echo "$$version" >build/pg-version; \
	fi
	@$(MAKE) $(EXTENSION) all
	@$(MAKE) $(EXTENSION) -s install DESTDIR=$(STAGE) >/dev/null

unit: all
	@for part in $(PARTS); do $(MAKE) --no-print-directory -C $$part unit || exit; done

# Into the system, or below DESTDIR.
install: all
	$(MAKE) $(EXTENSION) install DESTDIR=$(DESTDIR)
	@for part in $(PARTS); do $(MAKE) -C $$part install DESTDIR=$(DESTDIR) || exit; done

deps:
	@.ci/deps >&2

# In two steps, for nothing may begin before `deps` is done, and `all` works without it.
ready: deps
	@$(RUN) build unit

# Everything once more with the other compiler, for its warnings; the objects lie apart.
clang:
	@mkdir -p build/clang
	@rm -rf build/clang/pg_extension build/clang/sql
	@cp -r pg_extension sql build/clang/ && rm -f build/clang/pg_extension/{*.so,src/*.o}
	@$(MAKE) --no-print-directory -C build/clang/pg_extension all CC=clang PG_CONFIG=$(PG_CONFIG) \
	    $(FOR_CLANG)
	@for part in $(PARTS); do $(MAKE) --no-print-directory -C $$part all unit CC=clang \
	    BUILD=$(CURDIR)/build/clang || exit; done

check: ready
	@$(RUN) build clang fuzzers
	@$(RUN) check

check-corpus: fuzzers

check-pgtap check-isolation check-unit check-corpus check-random check-upgrade check-e2e: ready
	@$(RUN) $(@:check-%=%)

# The extension's scripts on a server under valgrind, which must be installed; too long for `check`.
# ONLY="capture prune" names scripts.
check-valgrind: ready
	@$(RUN) valgrind

# The extension on a PostgreSQL built from source that checks itself (test/assert-server), which takes
# minutes the first time. SUITES=valgrind sees more there; PG_SETTINGS=debug_discard_caches=1 is told
# to the server.
ASSERT := $(CURDIR)/build/assert
ASSERT_SERVER = PG_CONFIG=$(ASSERT)/root/server/bin/pg_config STAGE=$(ASSERT)/stage
SUITES = pgtap isolation random
check-assert: deps
	@PG_CONFIG=$(PG_CONFIG) test/assert-server
	@rm -rf $(ASSERT)/pg_extension $(ASSERT)/sql $(ASSERT)/stage && cp -r pg_extension sql $(ASSERT)/
	@rm -f $(ASSERT)/pg_extension/src/*.o $(ASSERT)/pg_extension/*.so
	@$(MAKE) -s --no-print-directory -j$$(nproc) -C $(ASSERT)/pg_extension all $(ASSERT_SERVER)
	@$(MAKE) -s -C $(ASSERT)/pg_extension install DESTDIR=$(ASSERT)/stage $(ASSERT_SERVER) >/dev/null
	@$(ASSERT_SERVER) $(RUN) $(SUITES)

# Any report of a sanitizer fails the run.
asan: export SANITIZE := address,undefined
tsan: export SANITIZE := thread
asan tsan:
	@$(MAKE) -s --no-print-directory ready
	@$(RUN) unit e2e scenario

fuzzers: deps
	@for part in $(PARTS); do $(MAKE) -s --no-print-directory -j$$(nproc) -C $$part fuzz || exit; done

# What is found is kept in test/fuzz/corpus, and what broke something fails `make check` from then on.
SECONDS = 60
fuzz: fuzzers
	@$(RUN) fuzz --seconds $(SECONDS) $(ONLY)

scenario: ready
	@$(RUN) scenario

demo: ready
	@$(RUN) demo

# Figures beside their floors. ONLY=server names a part; ARGS goes to it (see docs/benchmarks.md).
bench: ready
	@for part in $(or $(ONLY),server gateway watch client); do $(PYTHON) bench/$$part $(ARGS) || exit; done

up: ready
	@$(RUN) up

down:
	@$(RUN) down

psql:
	@$(RUN) psql

SOURCES = $(shell git ls-files '*.c' '*.h')

lint:
	clang-format --dry-run -Werror $(SOURCES)

format:
	clang-format -i $(SOURCES)

clean: down
	@$(MAKE) $(EXTENSION) -s clean
	@for part in $(PARTS); do $(MAKE) -s --no-print-directory -C $$part clean || exit; done
	rm -rf build
