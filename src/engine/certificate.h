/*-------------------------------------------------------------------------
 *
 * certificate.h
 *	  The certificate and key that the gateway shows to its clients.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_CERTIFICATE_H
#define RTSYNC_CERTIFICATE_H

#include "postgres.h"

/*
 * Read the files that the settings name.  Returns false if rtsync.ssl is on and
 * they cannot be used: *why says why (palloc'd), and *hint what to do; what was
 * read before is kept.  "reload" is false at the start of the engine: then a
 * passphrase may be asked for in any case.
 */
extern bool certificate_load(bool reload, char **why, const char **hint);

/* What was read last, as PEM; NULL before, and when rtsync.ssl is off. */
extern const char *certificate_chain(void);
extern const char *certificate_key(void);

/* The ciphers that the server allows for, up to TLS 1.2 */
extern const char *certificate_ciphers(void);

/* The bounds of the protocol versions, as PostgreSQL names them; "": none */
extern const char *certificate_min_protocol(void);
extern const char *certificate_max_protocol(void);

#endif							/* RTSYNC_CERTIFICATE_H */
