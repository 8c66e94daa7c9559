/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  TLS between a client's socket and a plain one that we read ourselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TLS_H
#define GATEWAY_TLS_H

#include <uv.h>

#include "gateway/list.h"
#include "gateway/memory.h"

struct Connection;
typedef struct Tls Tls;

typedef struct TlsState
{
	List		ending;			/* released, with bytes unsent; by deadline */
	uint32_t	n_ending;
	uint32_t	handshakes;		/* steps of them in this turn */
} TlsState;

extern void tls_init(void);
extern Tls *tls_open(int fd, int *plain);
extern void tls_release(Tls *tls);
extern void tls_end_turn(void);
extern void tls_check_timeouts(void);

extern int	tls_fd(const Tls *tls);
extern void tls_attach(Tls *tls, struct Connection *connection);
extern bool tls_write(Tls *tls, const char *data, size_t length);
extern size_t tls_unsent(const Tls *tls);

#endif							/* GATEWAY_TLS_H */
