/*-------------------------------------------------------------------------
 *
 * certificate.h
 *	  What the gateway shows and accepts when it speaks TLS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CERTIFICATE_H
#define GATEWAY_CERTIFICATE_H

#include <openssl/ssl.h>

#include "gateway/config.h"

extern bool certificate_apply(Config *config);
extern SSL_CTX *certificate_context(void);

#endif							/* GATEWAY_CERTIFICATE_H */
