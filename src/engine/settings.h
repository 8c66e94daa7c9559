/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The rtsync.* settings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RTSYNC_SETTINGS_H
#define RTSYNC_SETTINGS_H

#include "postgres.h"

typedef enum DeleteVisibility
{
	DELETE_VISIBILITY_POLICY,
	DELETE_VISIBILITY_KEY
} DeleteVisibility;

/* what is published, and to whom */
extern char *rtsync_publication;
extern char *rtsync_jwt_secret;
extern char *rtsync_jwt_secret_file;
extern char *rtsync_jwt_jwks_file;
extern char *rtsync_jwt_audience;
extern char *rtsync_jwt_issuer;
extern int	rtsync_jwt_leeway;	/* s */
extern char *rtsync_anonymous_role;
extern int	rtsync_delete_visibility;
extern bool rtsync_leave_events;
extern int	rtsync_policy_timeout;	/* ms */

/* messages and channels */
extern char *rtsync_messages_table;
extern int	rtsync_messages_retention;	/* minutes */
extern bool rtsync_private_only;

/* engine */
extern int	rtsync_coalesce_delay;	/* us */
extern int	rtsync_history_size;	/* kB */
extern int	rtsync_max_retained_wal;	/* MB */
extern int	rtsync_max_event_size;	/* bytes */
extern int	rtsync_max_in_list_size;
extern int	rtsync_resume_window;	/* seconds */
extern int	rtsync_max_filter_time; /* percent */
extern int	rtsync_max_bindings_per_channel;
extern int	rtsync_max_subscription_memory; /* kB */
extern int	rtsync_max_snapshot_workers;
extern int	rtsync_snapshot_timeout;	/* ms */

/* gateway */
extern char *rtsync_listen_addresses;
extern int	rtsync_port;
extern int	rtsync_gateways;
extern char *rtsync_allowed_origins;
extern char *rtsync_trusted_proxies;
extern bool rtsync_ssl;
extern char *rtsync_ssl_cert_file;
extern char *rtsync_ssl_key_file;
extern char *rtsync_http_root;
extern char *rtsync_metrics_token;
extern int	rtsync_max_connections;
extern int	rtsync_max_channels_per_connection;
extern int	rtsync_max_payload_size;	/* bytes */
extern int	rtsync_send_queue_size; /* bytes */
extern int	rtsync_max_presence_size;	/* bytes */

/* A number for the gateway; the name it is told is that without "rtsync." */
typedef struct GatewayNumber
{
	const char *name;
	const char *description;
	const char *more;
	int		   *variable;
	int			boot;
	int			min;
	int			max;
	int			flags;
} GatewayNumber;

extern const GatewayNumber gateway_numbers[];

extern void settings_define(void);
extern void settings_fix_session(void);

#endif							/* RTSYNC_SETTINGS_H */
