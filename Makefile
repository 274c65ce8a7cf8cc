# tierd: make help lists the targets.
#
#   VENDOR=system     link the system's static libraries (pkg-config) instead of building them with musl
#   VENDOR_CACHE=DIR  where built libraries are kept between builds
#   PREFIX, DESTDIR   where make install puts things
#   PYTEST_ARGS       further arguments for the integration tests, e.g. PYTEST_ARGS='-k golden'

VERSION      := 0.1.0
PREFIX       ?= /usr/local
VENDOR       ?= musl
VENDOR_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tierd/vendor
PYTHON       ?= /usr/bin/python3
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS    += -j$(shell getconf _NPROCESSORS_ONLN)
endif

ifneq ($(filter-out musl system,$(VENDOR)),)
$(error VENDOR=$(VENDOR) is not allowed; allowed is musl (the default) or system)
endif

B       := $(if $(filter system,$(VENDOR)),build/system,build/musl)
BIN     := build/tierd
SOURCES := src/main.c $(wildcard src/*/*.c)
OBJECTS := $(SOURCES:src/%.c=$(B)/%.o)
GIT     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

WARN   := -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wsign-compare -Wconversion
CFLAGS ?= -O2 -g
BASE_CFLAGS := -std=c17 -D_GNU_SOURCE -Isrc -Ibuild/gen $(WARN) -fPIE -ffunction-sections -fdata-sections \
               -fstack-protector-strong -fno-strict-aliasing

# ---- the linked libraries ----

VENDOR_DIR := build/vendor/musl
LIBS       := openssl mariadb hiredis yyjson c-ares
STAMPS     := $(LIBS:%=$(VENDOR_DIR)/%/ok)

ifeq ($(VENDOR),musl)
CC_      := musl-gcc
INCLUDES := -isystem $(VENDOR_DIR)/yyjson/include -isystem $(VENDOR_DIR)/hiredis/include -isystem $(VENDOR_DIR)/c-ares/include \
            -isystem $(VENDOR_DIR)/openssl/include -isystem $(VENDOR_DIR)/mariadb/include/mariadb
ARCHIVES := $(VENDOR_DIR)/hiredis/lib/libhiredis_ssl.a $(VENDOR_DIR)/hiredis/lib/libhiredis.a \
            $(VENDOR_DIR)/mariadb/lib/libmariadbclient.a $(VENDOR_DIR)/openssl/lib/libssl.a \
            $(VENDOR_DIR)/openssl/lib/libcrypto.a $(VENDOR_DIR)/yyjson/lib/libyyjson.a $(VENDOR_DIR)/c-ares/lib/libcares.a
# where musl-gcc's own start files are: beside the specs that it names
MUSL_LIB  = $(shell sed -n 's/.*-specs[ =]"*\([^" ]*\)\/musl-gcc.specs.*/\1/p' $$(command -v musl-gcc))
GCC_LIB   = $(shell gcc -print-file-name=crtbeginS.o | xargs dirname)
# musl-gcc -static-pie silently makes a dynamic program; naming the start files makes a real one.
LINK      = musl-gcc -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,text,-z,relro,-z,now,-z,noexecstack \
            -Wl,--gc-sections,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free -o $@ $(MUSL_LIB)/rcrt1.o $(MUSL_LIB)/crti.o $(GCC_LIB)/crtbeginS.o \
            $(OBJECTS) $(ARCHIVES) $(GCC_LIB)/crtendS.o $(MUSL_LIB)/crtn.o
LIBC_TEXT = musl $(shell $(firstword $(wildcard /lib/ld-musl-*.so.1) /bin/true) 2>&1 | awk '/^Version/ { print $$2 }')
DEPS     := build/deps-build.ok
else
CC_      := $(or $(HOST_CC),cc)
STAMPS   := build/vendor/system.mk
-include build/vendor/system.mk
INCLUDES  = $(SYSTEM_INCLUDES)
LINK      = $(CC_) -pie -Wl,-z,relro,-z,now,--gc-sections -o $@ $(OBJECTS) $(SYSTEM_LIBS)
LIBC_TEXT = $(shell ldd --version 2>&1 | head -n 1)
DEPS     := build/deps-system.ok
endif

.PHONY: all
all: $(BIN)

$(DEPS): vendor/packages
	@mkdir -p build
	@vendor/packages $(patsubst build/deps-%.ok,%,$@)
	@touch $@

# OpenSSL first: hiredis and Connector/C are built against it.
$(VENDOR_DIR)/openssl/ok $(VENDOR_DIR)/yyjson/ok $(VENDOR_DIR)/c-ares/ok: $(VENDOR_DIR)/%/ok: vendor/build vendor/versions | $(DEPS)
	@vendor/build $* musl '$(VENDOR_CACHE)' $(VENDOR_DIR)/$*
$(VENDOR_DIR)/mariadb/ok $(VENDOR_DIR)/hiredis/ok: $(VENDOR_DIR)/%/ok: $(VENDOR_DIR)/openssl/ok vendor/build vendor/versions | $(DEPS)
	@vendor/build $* musl '$(VENDOR_CACHE)' $(VENDOR_DIR)/$*

build/vendor/system.mk: vendor/system vendor/versions | $(DEPS)
	@mkdir -p build/vendor
	@vendor/system '$(VENDOR_CACHE)' build/vendor/host > $@.new && mv $@.new $@

# ---- the program ----

# What is made from other files. Objects come after it; which of them include it is found out by -MMD.
GENERATED := build/gen/api/page.h build/gen/queue/calls.h build/gen/queue/lua.h

$(B)/%.o: src/%.c $(STAMPS) | $(GENERATED)
	@mkdir -p $(@D)
	@printf '  %-8s %s\n' CC $<
	@$(CC_) $(BASE_CFLAGS) $(CFLAGS) $(INCLUDES) $(DEFINES) -MMD -MP -c $< -o $@

# The page that the API serves, as a C array.
build/gen/api/page.h: src/api/page.html src/api/page.pl
	@mkdir -p $(@D)
	@perl src/api/page.pl src/api/page.html > $@.new && mv $@.new $@

# The scripts that Redis runs: what C calls them by, which is new only when it differs, and their text as C strings.
# The list of them counts too: one may be taken away.
LUA := $(wildcard src/queue/lua/*.lua src/queue/lua/part/*.lua)
LUA_NAMES := src/queue/keys.h src/job/job.h src/job/state.h
build/gen/queue/calls.h build/gen/queue/lua.h: src/queue/pack.pl $(LUA_NAMES) $(LUA) build/gen/queue/lua.list
	@perl src/queue/pack.pl $(@F) src/queue/lua $(LUA_NAMES) > $@.new && { cmp -s $@.new $@ || mv $@.new $@; }
build/gen/queue/lua/%.lua: src/queue/lua/%.lua build/gen/queue/lua.h
	@mkdir -p $(@D)
	@perl src/queue/pack.pl $(@F) src/queue/lua $(LUA_NAMES) > $@.new && mv $@.new $@
build/gen/queue/lua.list: FORCE
	@mkdir -p $(@D)
	@echo '$(LUA)' | cmp -s - $@ || echo '$(LUA)' > $@

# Only main.c knows versions; it alone is rebuilt when they change.
$(B)/main.o: DEFINES = -DTIERD_VERSION='"$(VERSION)"' -DTIERD_GIT='"$(GIT)"' -DTIERD_LIBC='"$(LIBC_TEXT)"'
$(B)/main.o: $(B)/version
$(B)/version: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION) $(GIT)' | cmp -s - $@ || echo '$(VERSION) $(GIT)' > $@

$(B)/tierd: $(OBJECTS) vendor/verify
	@printf '  %-8s %s\n' LINK $@
	@$(LINK)
	@objcopy --only-keep-debug $@ $@.debug
	@strip --remove-section=.comment $@
	@objcopy --add-gnu-debuglink=$@.debug $@
	@vendor/verify $(VENDOR) $@

$(BIN): $(B)/tierd FORCE
	@cmp -s $< $@ || cp $< $@.new && { [ ! -e $@.new ] || mv $@.new $@; }

-include $(OBJECTS:.o=.d)
FORCE:

# ---- unit tests: glibc, AddressSanitizer, UndefinedBehaviorSanitizer ----

UNIT_SRC  := $(filter-out src/main.c src/store/db.c $(wildcard src/api/*.c src/ops/*.c)\
                 src/job/catalog.c src/worker/worker.c,$(SOURCES))
UNIT_OBJ  := $(UNIT_SRC:src/%.c=build/unit/src/%.o)
UNIT_BIN  := $(patsubst tests/unit/%.c,build/unit/%,$(wildcard tests/unit/test_*.c))
SANITIZE  := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1
UNIT_LIBS := yyjson hiredis c-ares
UNIT_INC  := $(UNIT_LIBS:%=-isystem build/vendor/host/%/include)
UNIT_OK   := $(UNIT_LIBS:%=build/vendor/host/%/ok)
UNIT_LINK := build/vendor/host/yyjson/lib/libyyjson.a build/vendor/host/hiredis/lib/libhiredis_ssl.a \
             build/vendor/host/hiredis/lib/libhiredis.a build/vendor/host/c-ares/lib/libcares.a -lssl -lcrypto -lcmocka

$(UNIT_OK): build/vendor/host/%/ok: vendor/build vendor/versions | build/deps-test.ok
	@vendor/build $* host '$(VENDOR_CACHE)' build/vendor/host/$*
build/deps-test.ok build/deps-run.ok build/deps-browser.ok build/deps-check.ok build/deps-fuzz.ok build/deps-bench.ok build/deps-faults.ok build/deps-packaging.ok: build/deps-%.ok: vendor/packages
	@mkdir -p build
	@vendor/packages $*
	@touch $@

build/unit/src/%.o: src/%.c $(UNIT_OK) | $(GENERATED)
	@mkdir -p $(@D)
	@gcc $(BASE_CFLAGS) $(SANITIZE) $(UNIT_INC) -MMD -MP -c $< -o $@
build/unit/libtierd.a: $(UNIT_OBJ)
	@rm -f $@ && ar rcs $@ $^
build/unit/test_%: tests/unit/test_%.c build/unit/libtierd.a
	@printf '  %-8s %s\n' TEST $@
	@gcc $(BASE_CFLAGS) $(SANITIZE) $(UNIT_INC) -MMD -MP $< -o $@ build/unit/libtierd.a $(UNIT_LINK)
-include $(UNIT_OBJ:.o=.d)

# shorten knows the registers of x86-64 only; its tests are left out elsewhere.
FAULTS    := build/faults/clock.so $(if $(filter x86_64,$(shell uname -m)),build/faults/shorten)
build/faults/%.so: tests/faults/%.c | $(DEPS)
	@mkdir -p $(@D)
	@gcc -std=c17 -D_GNU_SOURCE -O2 -fPIC -shared $(WARN) $< -o $@
build/faults/%: tests/faults/%.c | $(DEPS)
	@mkdir -p $(@D)
	@gcc -std=c17 -D_GNU_SOURCE -O2 $(WARN) $< -o $@
FUZZ      := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
.PHONY: test test-unit test-integration test-faults test-chaos run demo
test: $(BIN) $(UNIT_BIN) $(FUZZ) $(FAULTS) build/deps-test.ok build/deps-run.ok build/deps-browser.ok build/deps-faults.ok
	@$(PYTHON) tests/run_all.py --unit build/unit --fuzz build/fuzz --integration --faults=part $(PYTEST_ARGS)
test-unit: $(UNIT_BIN) build/deps-test.ok
	@$(PYTHON) tests/run_all.py --unit build/unit
test-integration: $(BIN) build/deps-test.ok build/deps-run.ok build/deps-browser.ok
	@$(PYTHON) tests/run_all.py --integration $(PYTEST_ARGS)
test-faults: $(BIN) $(FAULTS) build/deps-test.ok build/deps-run.ok build/deps-faults.ok
	@$(PYTHON) tests/run_all.py --faults=full $(PYTEST_ARGS)
test-chaos: $(BIN) build/deps-test.ok build/deps-run.ok build/deps-faults.ok
	@$(PYTHON) tests/chaos/chaos.py --seconds=$(SECONDS) $(SEED:%=--seed=%)
run: $(BIN) build/deps-run.ok
	@exec $(PYTHON) tests/harness/run.py
demo: $(BIN) build/deps-run.ok
	@exec $(PYTHON) tests/harness/run.py --demo

# Each name is tests/bench/NAME.py; BENCH='api cpu' runs those two. BENCH_ROUNDS and BENCH_SECONDS, see tests/bench/lab.py.
BENCH ?= api sweep cpu perf latency connections moves comeback
.PHONY: screenshot transcript
screenshot: $(BIN) build/deps-test.ok build/deps-run.ok build/deps-browser.ok
	@$(PYTHON) tests/page/screenshot.py
transcript: $(BIN) build/deps-test.ok build/deps-run.ok
	@$(PYTHON) tests/page/transcript.py

.PHONY: bench
bench: $(BIN) build/bench/load build/deps-run.ok build/deps-bench.ok
	@set -e; for b in $(BENCH); do echo; echo "== $$b"; TIERD_BIN=$(B)/tierd $(PYTHON) tests/bench/$$b.py; done
build/bench/load: tests/bench/load.c | $(DEPS)
	@mkdir -p $(@D)
	@gcc -std=c17 -D_GNU_SOURCE -O2 $(WARN) $< -o $@ -lm

# ---- fuzzing ----

FUZZ_OBJ  := $(patsubst src/%.c,build/fuzz/src/%.o,$(filter src/base/% src/net/%.c src/job/job.c src/store/server_url.c,$(SOURCES)))
FUZZ_FLAGS = -std=c17 -D_GNU_SOURCE -Isrc $(UNIT_INC) -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -MMD -MP
SECONDS   ?= 60
build/fuzz/src/%.o: src/%.c $(UNIT_OK) build/deps-fuzz.ok
	@mkdir -p $(@D)
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -c $< -o $@
build/fuzz/libtierd.a: $(FUZZ_OBJ)
	@rm -f $@ && ar rcs $@ $^
build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c build/fuzz/libtierd.a
	@printf '  %-8s %s\n' FUZZER $@
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined $< -o $@ build/fuzz/libtierd.a \
	    build/vendor/host/yyjson/lib/libyyjson.a build/vendor/host/c-ares/lib/libcares.a
-include $(FUZZ_OBJ:.o=.d) $(FUZZ:=.d)
.PHONY: fuzz
fuzz: $(FUZZ)
	@$(PYTHON) tests/run_all.py --fuzz build/fuzz --fuzz-seconds $(SECONDS)

# ---- checks ----

C_FILES := $(wildcard src/*.c src/*/*.[ch] tests/unit/*.c tests/fuzz/*.c tests/faults/*.c)
.PHONY: check check-deps check-format check-lua check-tidy check-cppcheck format
check: check-deps check-format check-lua check-tidy check-cppcheck
	@echo "check: all good"
check-deps:
	@$(PYTHON) tests/check_deps.py
check-format: build/deps-check.ok
	@clang-format --dry-run -Werror $(C_FILES)
check-lua: $(patsubst src/%,build/gen/%,$(wildcard src/queue/lua/*.lua)) .luacheckrc build/deps-check.ok
	@luac5.1 -p $(filter build/%.lua,$^)
	@luacheck --quiet --no-color $(filter build/%.lua,$^)
check-tidy: $(GENERATED) $(STAMPS) build/deps-check.ok
	@clang-tidy --quiet $(SOURCES) -- -std=c17 -D_GNU_SOURCE -Isrc -Ibuild/gen $(INCLUDES) -DTIERD_VERSION='""' \
	    -DTIERD_GIT='""' -DTIERD_LIBC='""' 2>/dev/null
check-cppcheck: build/deps-check.ok
	@cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,portability --inline-suppr \
	    --suppress=missingIncludeSystem -Isrc src
format: build/deps-check.ok
	@clang-format -i $(C_FILES)

# ---- installing ----

# All of init/ lies under share/tierd/init, to copy from; make deb puts it where Debian wants it.
DATA    := $(DESTDIR)$(PREFIX)/share/tierd
DOC     := $(DESTDIR)$(PREFIX)/share/doc/tierd
MAN     := $(DESTDIR)$(PREFIX)/share/man
INIT    := $(shell cd init && find systemd openrc sysv runit s6 tierd.conf tierd.default tierd.logrotate -type f | LC_ALL=C sort)
PROGRAM := %/run %/finish openrc/tierd sysv/tierd
# The notices that go with a binary which holds the libraries: of each as its source has it, of musl as the package has it.
NOTICES := $(if $(filter musl,$(VENDOR)),build/THIRD-PARTY)
build/THIRD-PARTY: $(STAMPS) LICENSE
	@for lib in $(LIBS); do printf '======== %s ========\n\n' $$lib; cat $(VENDOR_DIR)/$$lib/LICENSE || exit 1; echo; done >$@.new
	@{ printf '======== musl ========\n\n'; cat /usr/share/doc/musl/copyright; } >>$@.new && mv $@.new $@

.PHONY: install uninstall clean help deb tar
install: $(BIN) $(NOTICES)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tierd
	install -d $(DATA) $(DOC) $(MAN)/man8 $(MAN)/man5 $(DESTDIR)$(PREFIX)/lib/tierd
	install -m 644 sql/schema.sql sql/sample.sql $(DATA)
	install -m 644 README.md CHANGELOG.md LICENSE $(NOTICES) init/tierd.conf $(wildcard init/doc/*.md) $(DOC)
	install -m 644 init/man/tierd.8 $(MAN)/man8
	install -m 644 init/man/tierd.conf.5 $(MAN)/man5
	install -m 755 init/tierd-run $(DESTDIR)$(PREFIX)/lib/tierd
	install -D -m 644 init/examples/nginx.conf $(DATA)/examples/nginx.conf
	install -D -m 755 init/examples/tierd-counts $(DATA)/examples/tierd-counts
	set -e; for f in $(filter-out $(PROGRAM),$(INIT)); do install -D -m 644 init/$$f $(DATA)/init/$$f; done
	set -e; for f in $(filter $(PROGRAM),$(INIT)); do install -D -m 755 init/$$f $(DATA)/init/$$f; done
	sed -i 's,/usr/\(bin/tierd\>\|lib/tierd/\|share/tierd/\),$(PREFIX)/\1,g' $(DESTDIR)$(PREFIX)/lib/tierd/tierd-run \
	    $(addprefix $(DATA)/init/,$(INIT))
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/tierd $(MAN)/man8/tierd.8 $(MAN)/man5/tierd.conf.5
	rm -rf $(DATA) $(DOC) $(DESTDIR)$(PREFIX)/lib/tierd

# Packages: the same bytes from the same tree (SOURCE_DATE_EPOCH; the last commit's time when it is not set).
PACKAGE_VERSION   ?= $(VERSION)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
deb tar: $(BIN)
	@[ $(VENDOR) = musl ] || { echo "make $@: a package holds the static program: not with VENDOR=$(VENDOR)" >&2; exit 64; }
	@rm -rf build/stage-$@
	@MAKEFLAGS= $(MAKE) --no-print-directory -s install DESTDIR=$(CURDIR)/build/stage-$@ PREFIX=$(if $(filter deb,$@),/usr,/usr/local)
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) init/package $@ build/stage-$@ $(PACKAGE_VERSION) build

.PHONY: test-packaging
test-packaging: $(BIN) build/deps-test.ok build/deps-run.ok build/deps-packaging.ok
	@$(PYTHON) -m pytest -q tests/packaging $(PYTEST_ARGS)
clean:
	rm -rf build
help:
	@printf '%s\n' 'make              build build/tierd (static, musl)' \
	    'make run          a private Redis, MariaDB and tierd to try; Ctrl-C ends all of it' \
	    'make demo         the same without a person: moves files, checks them, exits 0 or 1' \
	    'make test         unit, integration and some of the fault tests, a few seconds of each fuzzer' \
	    'make test-faults  all of the fault tests: a fault at every system call, hosts and cables (under an hour)' \
	    'make test-chaos   random posts while everything is killed and stopped, SECONDS=60 SEED=...' \
	    'make screenshot   the page, into build/screenshots' \
	    'make transcript   every command on a running system, into init/doc/transcript.md' \
	    'make bench        speed beside nginx, webdis and Flask, and of moves; BENCH=api for one part (no test)' \
	    'make check        format, clang-tidy, cppcheck, luacheck, layering' \
	    'make fuzz         fuzzers, SECONDS=60 each; what they learn is kept in build/fuzz/corpus' \
	    'make install      DESTDIR, PREFIX=/usr/local' \
    'make deb, make tar  packages under build/' \
    'make test-packaging  the packages and services in chroots, as root' \
	    'make VENDOR=system  with the system'"'"'s static libraries'
