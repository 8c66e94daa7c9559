/*-------------------------------------------------------------------------
 *
 * log.h
 *	  Messages on stderr, which the server's log collector catches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LOG_H
#define GATEWAY_LOG_H

/*
 * Use log_client for what a client can cause: it lets a few messages pass in
 * every period and then says how many it left out.  Never log a token, a
 * payload or a key.
 */
extern void log_message(const char *level, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern void log_client(const char *format,...)
			__attribute__((format(printf, 1, 2)));

#endif							/* GATEWAY_LOG_H */
