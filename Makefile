# rtsync: rtsync.so for PostgreSQL, and the executable rtsync-gateway.
#
#	make && make install		with pg_config of the server in the PATH,
#								or PG_CONFIG=/path/to/pg_config
#	make installcheck			the regression tests, against a running server

EXTENSION = rtsync
DATA = sql/rtsync--0.1.sql
MODULE_big = rtsync

LINK_SOURCES = $(wildcard src/link/*.c)
ENGINE_SOURCES = $(wildcard src/engine/*.c)
GATEWAY_SOURCES = $(wildcard src/gateway/*.c)

OBJS = $(ENGINE_SOURCES:.c=.o) $(LINK_SOURCES:.c=.o)

WARNINGS = -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare

PG_CPPFLAGS = -I$(srcdir)/src
# PostgreSQL's own flags allow neither // comments' absence nor C11; ours do.
PG_CFLAGS = -std=gnu11 $(WARNINGS) -Wno-declaration-after-statement \
	-Wno-cast-function-type
SHLIB_LINK = -lcrypto -Wl,--version-script=$(srcdir)/src/engine/rtsync.map

REGRESS = $(patsubst test/regress/sql/%.sql,%,$(sort $(wildcard test/regress/sql/*.sql)))
REGRESS_OPTS = --inputdir=test/regress --load-extension=rtsync

EXTRA_CLEAN = rtsync-gateway $(GATEWAY_OBJS) results regression.diffs regression.out

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The gateway is an ordinary program: no PostgreSQL header, own flags.
GATEWAY_CFLAGS ?= -O2 -g
GATEWAY_FLAGS = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -Isrc
GATEWAY_LIBS = -lwebsockets -lssl -lcrypto -luv -ljansson

all: rtsync-gateway

rtsync-gateway: $(GATEWAY_SOURCES) $(LINK_SOURCES) $(wildcard src/gateway/*.h src/link/*.h)
	$(CC) $(GATEWAY_FLAGS) $(GATEWAY_CFLAGS) -o $@ $(GATEWAY_SOURCES) $(LINK_SOURCES) $(GATEWAY_LIBS)

install: install-gateway
installdirs: installdirs-gateway
uninstall: uninstall-gateway

.PHONY: install-gateway installdirs-gateway uninstall-gateway

installdirs-gateway:
	$(MKDIR_P) '$(DESTDIR)$(bindir)'

install-gateway: rtsync-gateway installdirs-gateway
	$(INSTALL_PROGRAM) rtsync-gateway '$(DESTDIR)$(bindir)/rtsync-gateway'

uninstall-gateway:
	rm -f '$(DESTDIR)$(bindir)/rtsync-gateway'

# Any header may matter to any file: small enough to rebuild.
$(OBJS): $(wildcard src/engine/*.h src/link/*.h)
