/*-------------------------------------------------------------------------
 *
 * join.c
 *	  What a client asks for when it joins a channel.
 *
 * Pure: from the payload of a phx_join to what LINK_JOIN needs.  Clients are
 * many and old, so whatever is missing or of the wrong type has a default;
 * what selects rows is passed on even if it is of the wrong type, so that the
 * engine refuses it, for to leave out a condition would widen the answer.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/join.h"

#include <stdlib.h>
#include <string.h>

static Slice
json_slice(const json_t *string)
{
	return (Slice) {json_string_value(string), json_string_length(string)};
}

/* A boolean; "true" as a string is one too. */
static bool
is_true(const json_t *value)
{
	return json_is_true(value) ||
		(json_is_string(value) && slice_equals_nocase(json_slice(value), "true"));
}

/*
 * The token that a payload of phx_join or access_token brings, or data NULL.
 * Keys of the form sb_... are no tokens.
 */
Slice
join_token(const json_t *payload)
{
	static const char *const names[] = {"access_token", "user_token"};

	for (int i = 0; i < 2; i++)
	{
		const json_t *token = json_object_get(payload, names[i]);

		if (json_is_string(token) && json_string_length(token) > 0 &&
			strncmp(json_string_value(token), "sb_", 3) != 0)
			return json_slice(token);
	}
	return (Slice) {NULL, 0};
}

/*
 * The presence key as a JSON string, which the caller frees, or NULL if one is
 * to be made.  Numbers and booleans are taken for their text.
 */
static char *
presence_key(const json_t *key)
{
	Buffer		result = {0};
	char	   *text = NULL;

	if (json_is_string(key) && json_string_length(key) > 0)
		buffer_append_json_string(&result, json_slice(key));
	else if (json_is_number(key) || json_is_boolean(key))
	{
		text = json_dumps(key, JSON_ENCODE_ANY);
		buffer_append_json_string(&result, slice_of(text));
		free(text);
	}
	else
		return NULL;
	buffer_append(&result, "", 1);
	return result.data;
}

/* What past broadcasts are asked for: {"since": time, "limit": number} */
static void
parse_replay(const json_t *replay, JoinRequest *request)
{
	const json_t *since = json_object_get(replay, "since");
	const json_t *limit = json_object_get(replay, "limit");
	double		time = json_number_value(since);

	request->replay_limit = LINK_MAX_REPLAY;
	if (replay == NULL || json_is_null(replay))
		return;
	request->replay = LINK_REPLAY_INVALID;
	if (!json_is_number(since) || !(time >= 0 && time < 1e16) ||
		(limit != NULL && !json_is_null(limit) && !json_is_integer(limit)))
		return;
	request->replay = LINK_REPLAY_WANTED;
	request->replay_since = (uint64_t) time;
	if (json_is_integer(limit) && json_integer_value(limit) < LINK_MAX_REPLAY)
		request->replay_limit = json_integer_value(limit) < 1 ? 1 :
			(uint32_t) json_integer_value(limit);
}

/*
 * What stands under "rtsync".  Supabase's client sends of a channel's
 * configuration what it knows, and "broadcast" as it is: so it may stand there,
 * too.  The session may also be the connection's.
 */
static void
parse_options(const json_t *config, const json_t *broadcast, Slice session,
			  JoinRequest *request)
{
	json_t	   *options = json_object_get(config, "rtsync");

	if (options == NULL)
		options = json_object_get(broadcast, "rtsync");
	if (session.length == 0 || json_object_get(options, "session") != NULL ||
		json_object_get(options, "since") != NULL)
		request->options = json_incref(options);
	else
	{
		request->options = json_is_object(options) ? json_copy(options) :
			json_object();
		json_object_set_new(request->options, "session",
							json_stringn(session.data, session.length));
	}
	request->has_session = json_is_string(json_object_get(request->options,
														  "session"));
	request->wants_cursor =
		json_is_true(json_object_get(request->options, "cursor")) ||
		json_is_string(json_object_get(request->options, "since"));
}

/*
 * Parse the payload, which must outlive the request; "session" is the
 * connection's, or empty.  Returns false if it has too many bindings.  In both
 * cases the caller calls join_release.
 */
bool
join_parse(json_t *payload, Slice session, JoinRequest *request)
{
	const json_t *config = json_object_get(payload, "config");
	const json_t *broadcast = json_object_get(config, "broadcast");
	const json_t *presence = json_object_get(config, "presence");
	const json_t *options = json_object_get(config, "postgres_changes_options");
	const json_t *changes = json_object_get(config, "postgres_changes");
	size_t		n_changes = json_array_size(changes);

	memset(request, 0, sizeof(*request));
	request->is_private = is_true(json_object_get(config, "private"));
	request->wait = is_true(json_object_get(options, "wait"));
	request->broadcast_ack = is_true(json_object_get(broadcast, "ack"));
	request->broadcast_self = is_true(json_object_get(broadcast, "self"));
	request->replication_ready =
		is_true(json_object_get(broadcast, "replication_ready"));
	parse_replay(json_object_get(broadcast, "replay"), request);
	request->presence = is_true(json_object_get(presence, "enabled"));
	request->presence_key = presence_key(json_object_get(presence, "key"));
	request->token = join_token(payload);
	parse_options(config, broadcast, session, request);

	for (size_t i = 0; i < n_changes; i++)
	{
		json_t	   *entry = json_array_get(changes, i);

		if (!json_is_object(entry))
			continue;
		if (request->n_entries == JOIN_MAX_BINDINGS)
			return false;
		if (request->entries == NULL)
			request->entries = allocate((n_changes < JOIN_MAX_BINDINGS ?
										 n_changes : JOIN_MAX_BINDINGS) *
										sizeof(json_t *));
		request->entries[request->n_entries++] = entry;
	}
	return true;
}

void
join_release(JoinRequest *request)
{
	free(request->entries);
	free(request->presence_key);
	json_decref(request->options);
	request->options = NULL;
	request->presence_key = NULL;
	request->entries = NULL;
	request->n_entries = 0;
}

/* Put a string; the JSON text of what should be one but is not. */
static void
put_text(LinkWriter *writer, const json_t *value)
{
	char	   *text;

	if (value == NULL || json_is_null(value))
		link_put_string(writer, NULL);
	else if (json_is_string(value))
		link_put_bytes(writer, json_string_value(value), json_string_length(value));
	else
	{
		text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		link_put_string(writer, text != NULL ? text : "");
		free(text);
	}
}

/* Put the JSON text of what stands under "rtsync". */
static void
put_options(LinkWriter *writer, const json_t *options)
{
	char	   *text = NULL;

	if (options != NULL)
		text = json_dumps(options, JSON_COMPACT | JSON_ENCODE_ANY);
	link_put_string(writer, text);
	free(text);
}

/*
 * Put the list of selected columns.  A column that is no string, or a list
 * that is none, becomes an absent string, which the engine refuses.
 */
static void
put_select(LinkWriter *writer, const json_t *columns)
{
	size_t		n = json_array_size(columns);

	if (columns == NULL || json_is_null(columns))
	{
		link_put_u32(writer, LINK_NULL);
		return;
	}
	if (!json_is_array(columns))
	{
		link_put_u32(writer, 1);
		link_put_string(writer, NULL);
		return;
	}
	link_put_u32(writer, (uint32_t) n);
	for (size_t i = 0; i < n; i++)
	{
		const json_t *column = json_array_get(columns, i);

		link_put_bytes(writer, json_string_value(column),
					   json_string_length(column));
	}
}

/*
 * Put the options, the number of entries and the entries, as LINK_JOIN has
 * them.
 */
void
join_put_entries(const JoinRequest *request, LinkWriter *writer)
{
	put_options(writer, request->options);
	link_put_u32(writer, request->n_entries);
	for (uint32_t i = 0; i < request->n_entries; i++)
	{
		const json_t *entry = request->entries[i];

		put_text(writer, json_object_get(entry, "event"));
		put_text(writer, json_object_get(entry, "schema"));
		put_text(writer, json_object_get(entry, "table"));
		put_text(writer, json_object_get(entry, "filter"));
		put_options(writer, json_object_get(entry, "rtsync"));
		put_select(writer, json_object_get(entry, "select"));
	}
}

/*
 * The entry's JSON text up to where its "id" is to be put, that is, without
 * the closing brace, and with a comma unless the entry is empty.  The client
 * compares the rest with what it sent.  Takes an "id" of the client's out of
 * the entry.
 */
char *
join_entry_text(json_t *entry)
{
	Buffer		result = {0};
	char	   *text;

	json_object_del(entry, "id");
	text = json_dumps(entry, JSON_COMPACT);
	if (text == NULL)
		text = copy_bytes("{}", 2);
	buffer_append(&result, text, strlen(text) - 1);
	if (json_object_size(entry) > 0)
		buffer_append(&result, ",", 1);
	buffer_append(&result, "", 1);
	free(text);
	return result.data;
}
