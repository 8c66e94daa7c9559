/*-------------------------------------------------------------------------
 *
 * session.c
 *	  What clients that keep no cursor have certainly received.
 *
 * A client that joins a channel with "session": <uuid> leaves it to us to
 * remember how far it got.  It answers nothing that we send, but for one
 * thing: a heartbeat comes only when the last one was answered.  So each
 * heartbeat notes the channel's place, the answer to it follows everything
 * before that place, and the next heartbeat proves that all of it arrived.
 * When the client comes back, it goes on from the last place so proven: it gets
 * everything behind it, some of it for the second time.
 *
 * A session belongs to a uuid, a topic and who the token says its client is
 * (role and "sub"): with another's uuid, one finds nothing.  It has one channel
 * at a time; another that comes takes over.  What would make going on a lie is
 * answered with the reason, and the client reads its rows anew: nothing is
 * proven yet, what is subscribed has changed, the claims or what they let the
 * client see have changed, or the history does not reach back.
 *
 * Sessions without a channel are kept for rtsync.resume_window.  All are
 * written to a file beside the slot every now and then and when the engine
 * ends, for the next engine to read.  What an old file says is still true: it
 * only proves less than a newer one.
 *
 * Called by join.c, requests.c, subscription.c and engine.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "engine/clock.h"
#include "engine/late.h"
#include "engine/session.h"
#include "engine/settings.h"
#include "engine/wal.h"

#define UUID_LENGTH 36

/* Write the file so often, if something has changed. */
#define SAVE_MS 2000

#define FILE_MAGIC UINT64CONST(0x3173736573747472)

/* A place in the stream, up to which a channel was sent everything */
typedef struct Mark
{
	bool		valid;
	Cursor		cursor;
	uint64		access;			/* what the client could see then */
} Mark;

/* What identifies a session; SHA-256 */
typedef struct SessionKey
{
	uint8		digest[32];
} SessionKey;

typedef struct Session
{
	SessionKey	key;			/* hash key */
	uint64		bindings;		/* what was subscribed */
	Mark		proven;			/* it has received what is before */
	Mark		offered;		/* likewise, if another heartbeat comes */
	Channel    *channel;		/* NULL: its client is away ... */
	ClockTime	left;			/* ... since then */
	dlist_node	in_away;		/* ... and it is in this list */
} Session;

/* The file: a header and so many entries */
typedef struct FileHeader
{
	uint64		magic;
	uint64		epoch;
	uint64		count;
} FileHeader;

typedef struct FileEntry
{
	SessionKey	key;
	uint64		bindings;
	Mark		proven;
} FileEntry;

static HTAB *sessions = NULL;
static dlist_head away = DLIST_STATIC_INIT(away);	/* the longest first */
static int	naway;
static bool altered;			/* since the file was written */
static ClockTime saved;

/*--------------------------------------------------------------------------
 * What a session is bound to
 *--------------------------------------------------------------------------
 */

static Jsonb *
parse_claims(const Channel *channel)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(channel->principal.claims)));
}

/* Who comes with this uuid, and what for? */
static void
make_key(const Channel *channel, SessionKey *key)
{
	JsonbValue *sub;
	StringInfoData buf;

	sub = getKeyJsonValueFromContainer(&parse_claims(channel)->root,
									   "sub", strlen("sub"), NULL);
	initStringInfo(&buf);
	binding_append_part(&buf, channel->session_uuid);
	binding_append_part(&buf, channel->private ? "private" : "public");
	binding_append_part(&buf, channel->topic);
	binding_append_part(&buf, channel->principal.rolename);
	if (sub != NULL && sub->type == jbvString)
		appendBinaryStringInfo(&buf, sub->val.string.val, sub->val.string.len);
	memset(key, 0, sizeof(*key));
	if (EVP_Digest(buf.data, buf.len, key->digest, NULL, EVP_sha256(), NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a digest")));
	pfree(buf.data);
}

/* The claims that decide about something, as a number: not when the token was
 * made. */
uint64
session_claims(const Channel *channel)
{
	static const char *const passing[] = {"exp", "iat", "nbf", "jti", "amr"};
	Jsonb	   *claims = parse_claims(channel);
	char	   *text;

	for (int i = 0; i < lengthof(passing) && JB_ROOT_IS_OBJECT(claims); i++)
		claims = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete,
													JsonbPGetDatum(claims),
													CStringGetTextDatum(passing[i])));
	text = JsonbToCString(NULL, &claims->root, VARSIZE(claims));
	return hash_bytes_extended((unsigned char *) text, strlen(text), 0);
}

static uint64
hash_bindings(const Channel *channel)
{
	StringInfoData buf;
	uint64		result;

	initStringInfo(&buf);
	for (int i = 0; i < channel->nbindings; i++)
	{
		binding_append_key(&buf, &channel->bindings[i].spec);
		appendStringInfoChar(&buf, '\n');
	}
	result = hash_bytes_extended((unsigned char *) buf.data, buf.len, 0);
	pfree(buf.data);
	return result;
}

/*--------------------------------------------------------------------------
 * Who is here, and who is away
 *--------------------------------------------------------------------------
 */

static void
session_free(Session *session)
{
	if (session->channel != NULL)
		session->channel->session = NULL;
	else
	{
		dlist_delete(&session->in_away);
		naway--;
	}
	altered = true;
	hash_search(sessions, &session->key, HASH_REMOVE, NULL);
}

static void
session_goes(Session *session)
{
	session->channel = NULL;
	session->left = clock_now();
	session->offered.valid = false;
	dlist_push_tail(&away, &session->in_away);
	naway++;
	altered = true;
}

/* Forget those that are away for too long, and who are too many. */
static void
expire(void)
{
	while (!dlist_is_empty(&away))
	{
		Session    *session = dlist_head_element(Session, in_away, &away);

		if (naway <= rtsync_max_connections &&
			!clock_passed(session->left, (int64) rtsync_resume_window * 1000))
			break;
		session_free(session);
	}
}

/* The session of this key, with the channel; *found: was it known? */
static Session *
session_take(const SessionKey *key, Channel *channel, bool *found)
{
	Session    *session = hash_search(sessions, key, HASH_ENTER, found);

	if (!*found)
		memset((char *) session + sizeof(SessionKey), 0,
			   sizeof(Session) - sizeof(SessionKey));
	else if (session->channel == NULL)
	{
		dlist_delete(&session->in_away);
		naway--;
	}
	else
	{
		session->channel->session = NULL;
		subscription_close(session->channel,
						   "The session was taken over by another connection");
		subscription_mark();	/* that counts, even if the join fails */
	}
	session->channel = channel;
	session->offered.valid = false;
	channel->session = session;
	altered = true;
	return session;
}

/*--------------------------------------------------------------------------
 * Joining and leaving
 *--------------------------------------------------------------------------
 */

static bool
is_uuid(const char *text)
{
	return strlen(text) == UUID_LENGTH &&
		strspn(text, "0123456789abcdefABCDEF-") == UUID_LENGTH;
}

/*
 * A channel, which has its token but no groups yet, is joined as part of a
 * session.  Returns NULL if it goes on from where its client certainly was,
 * which *from becomes, else why it begins with what comes now.
 */
const Refetch *
session_join(Channel *channel, Cursor *from)
{
	static const Refetch off = {REFETCH_SESSION, "sessions are turned off"};
	static const Refetch invalid = {REFETCH_SESSION, "the session is not a UUID"};
	static const Refetch unknown = {REFETCH_SESSION, "the session is not known"};
	static const Refetch unconfirmed = {REFETCH_SESSION, "nothing of the session was confirmed yet"};
	static const Refetch altered_bindings = {REFETCH_SESSION, "the session had other postgres_changes"};
	SessionKey	key;
	Session    *session;
	uint64		bindings = hash_bindings(channel);
	const Refetch *problem;
	bool		found;

	if (rtsync_resume_window == 0)
		return &off;
	if (!is_uuid(channel->session_uuid))
		return &invalid;
	expire();
	make_key(channel, &key);
	session = session_take(&key, channel, &found);
	if (!found)
		problem = &unknown;
	else if (!session->proven.valid)
		problem = &unconfirmed;
	else if (session->bindings != bindings)
		problem = &altered_bindings;
	else
		problem = late_resume_at(channel, &session->proven.cursor);
	session->bindings = bindings;
	if (problem != NULL)
		session->proven.valid = false;
	*from = session->proven.cursor;
	return problem;
}

/* What the channel's client may see now, as a number; false: not known yet */
static bool
current_access(Channel *channel, uint64 *access)
{
	if (!late_access_signature(channel, access))
		return false;
	*access = hash_combine64(*access, session_claims(channel));
	return true;
}

/*
 * A channel that goes on has its groups: see whether it may see what it could
 * see before.  Returns NULL, or why it begins with what comes now after all.
 * Called in a transaction on the present.
 */
const Refetch *
session_check(Channel *channel)
{
	static const Refetch changed = {REFETCH_ACCESS, "the claims, or access to tables, have changed"};
	Session    *session = channel->session;
	uint64		access;

	if (current_access(channel, &access) && access == session->proven.access)
		return NULL;
	session->proven.valid = false;
	late_abandon(channel);
	return &changed;
}

/*
 * The channel's client sends a heartbeat; the answer will follow everything
 * that was sent before.
 */
void
session_heartbeat(Channel *channel)
{
	Session    *session = channel->session;
	Mark	   *offered;

	if (session == NULL)
		return;
	offered = &session->offered;
	if (offered->valid)
		session->proven = *offered;

	/*
	 * What it is still to be told of belongs before the place, and so does
	 * what is missing of a snapshot.
	 */
	offered->valid = channel->pace != CHANNEL_SNAPSHOT &&
		!late_is_owed(channel) &&
		current_access(channel, &offered->access);
	late_cursor(channel, &offered->cursor);
	altered = true;
}

/* The channel is about to be freed. */
void
session_leave(Channel *channel)
{
	if (channel->session != NULL)
		session_goes(channel->session);
	channel->session = NULL;
}

/* The channel has another token: is it still the same client's? */
void
session_token(Channel *channel)
{
	SessionKey	key;

	if (channel->session == NULL)
		return;
	make_key(channel, &key);
	if (memcmp(&key, &channel->session->key, sizeof(key)) != 0)
		session_leave(channel);
}

/*--------------------------------------------------------------------------
 * The file
 *--------------------------------------------------------------------------
 */

static void
file_path(char *path, const char *suffix)
{
	snprintf(path, MAXPGPATH, "pg_replslot/%s/rtsync.sessions%s",
			 wal_slot_name(), suffix);
}

/* What the file is to hold, palloc'd */
static void
write_entries(StringInfo buf)
{
	FileHeader	header = {.magic = FILE_MAGIC,.epoch = wal_epoch()};
	HASH_SEQ_STATUS scan;
	Session    *session;

	appendBinaryStringInfo(buf, (char *) &header, sizeof(header));
	hash_seq_init(&scan, sessions);
	while ((session = hash_seq_search(&scan)) != NULL)
	{
		FileEntry	entry;

		if (!session->proven.valid)
			continue;
		memset(&entry, 0, sizeof(entry));
		entry.key = session->key;
		entry.bindings = session->bindings;
		entry.proven = session->proven;
		appendBinaryStringInfo(buf, (char *) &entry, sizeof(entry));
		header.count++;
	}
	memcpy(buf->data, &header, sizeof(header));
}

/*
 * Write all sessions to the file.  Raises no error: without the file, clients
 * are told to refetch.  Nor is it synced: it would have to survive a crash of
 * the machine, and then clients are told so.
 */
void
session_save(void)
{
	char		path[MAXPGPATH];
	char		new_path[MAXPGPATH];
	StringInfoData buf;
	int			fd;
	bool		ok;

	if (sessions == NULL || !altered)
		return;
	initStringInfo(&buf);
	write_entries(&buf);
	file_path(path, "");
	file_path(new_path, ".tmp");
	fd = BasicOpenFile(new_path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	ok = fd >= 0 && write(fd, buf.data, buf.len) == buf.len;
	if (fd >= 0)
		close(fd);
	if (ok && rename(new_path, path) == 0)
		altered = false;
	else
	{
		int			save_errno = errno;

		(void) unlink(new_path);
		errno = save_errno;
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	pfree(buf.data);
}

/* A session of the last engine: its client is away. */
static void
load_entry(const FileEntry *entry)
{
	bool		found;
	Session    *session = hash_search(sessions, &entry->key, HASH_ENTER, &found);

	if (found)
		return;
	session->bindings = entry->bindings;
	session->proven = entry->proven;
	session_goes(session);
}

static void
load(void)
{
	char		path[MAXPGPATH];
	FileHeader	header;
	FileEntry	entry;
	FILE	   *file;

	file_path(path, "");
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		return;
	if (fread(&header, sizeof(header), 1, file) == 1 &&
		header.magic == FILE_MAGIC && header.epoch == wal_epoch())
		while (header.count-- > 0 && fread(&entry, sizeof(entry), 1, file) == 1)
			load_entry(&entry);
	FreeFile(file);
	altered = false;
}

/*
 * Prepare, with the sessions of the last engine; once in the life of the
 * engine, with its slot open.
 */
void
session_init(void)
{
	HASHCTL		ctl = {
		.keysize = sizeof(SessionKey),
		.entrysize = sizeof(Session),
		.hcxt = TopMemoryContext
	};

	sessions = hash_create("rtsync sessions", 256, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	load();
}

/* About once a second */
void
session_housekeeping(void)
{
	expire();
	if (!altered || !clock_passed(saved, SAVE_MS))
		return;
	saved = clock_now();
	session_save();
}
