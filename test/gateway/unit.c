/*-------------------------------------------------------------------------
 *
 * unit.c
 *	  Tests of the gateway's pure modules and of the link's messages.
 *
 * Prints a TAP line for each test.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/config.h"
#include "gateway/files.h"
#include "gateway/frame.h"
#include "gateway/http.h"
#include "gateway/join.h"
#include "gateway/jsontext.h"
#include "gateway/list.h"
#include "gateway/metrics.h"
#include "gateway/peer.h"
#include "gateway/phoenix.h"
#include "gateway/rate.h"
#include "gateway/request.h"
#include "gateway/table.h"
#include "link/link.h"

static int	failures;			/* of the running test */
static int	failed_tests;

#define CHECK(condition) \
	do { \
		if (!(condition)) \
		{ \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition); \
			failures++; \
		} \
	} while (0)

#define CHECK_TEXT(slice, expected) \
	check_text((slice), (expected), __LINE__)

static void
check_text(Slice actual, const char *expected, int line)
{
	if (slice_equals(actual, expected))
		return;
	printf("# %s:%d: \"%.*s\" instead of \"%s\"\n", __FILE__, line,
		   (int) actual.length, actual.data, expected);
	failures++;
}

/*-------------------------------- frames --------------------------------*/

static void
test_frame_headers(void)
{
	static const struct
	{
		size_t		payload;
		size_t		header;
	}			cases[] = {{0, 2}, {125, 2}, {126, 4}, {127, 4}, {65535, 4}, {65536, 10}, {1000000, 10}};
	static char zeros[1000000];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		Slice		part = {zeros, cases[i].payload};
		Frame	   *frame = frame_build(FRAME_TEXT, &part, 1);
		uint64_t	length = frame->data[1];

		CHECK(frame->length == cases[i].header + cases[i].payload);
		CHECK(frame->data[0] == 0x81);
		if (cases[i].header == 4)
			length = (uint64_t) frame->data[2] << 8 | frame->data[3];
		if (cases[i].header == 10)
		{
			length = 0;
			for (int byte = 2; byte < 10; byte++)
				length = length << 8 | frame->data[byte];
		}
		CHECK(length == cases[i].payload);
		frame_release(frame);
	}
}

static void
test_frame_parts(void)
{
	Slice		parts[] = {SLICE("ab"), {NULL, 0}, SLICE(""), SLICE("cde")};
	Frame	   *frame = frame_build(FRAME_BINARY, parts, 4);

	CHECK(frame->length == 7 && memcmp(frame->data, "\x82\x05" "abcde", 7) == 0);
	CHECK(frame_share(frame) == frame && frame->references == 2);
	frame_release(frame);
	CHECK(frame->references == 1);
	frame_release(frame);
	frame_release(NULL);
}

static void
test_frame_close(void)
{
	Frame	   *frame = frame_close(1012, "bye");
	char		reason[201];

	CHECK(frame->length == 7 && memcmp(frame->data, "\x88\x05\x03\xf4" "bye", 7) == 0);
	frame_release(frame);
	memset(reason, 'x', 200);
	reason[200] = '\0';
	frame = frame_close(1000, reason);
	CHECK(frame->length == 2 + 125 && frame->data[1] == 125);
	frame_release(frame);
}

/*-------------------------------- phoenix -------------------------------*/

static bool
decodes(PhoenixVersion version, const char *text)
{
	PhoenixMessage message;
	bool		valid = phoenix_decode_text(version, text, strlen(text), &message);

	phoenix_release(&message);
	return valid;
}

static void
test_decode_v2(void)
{
	static const char text[] = "[\"6\",\"7\",\"realtime:r\",\"phx_join\",{\"a\":1},\"extra\"]";
	PhoenixMessage message;

	CHECK(phoenix_decode_text(PHOENIX_V2, text, strlen(text), &message));
	CHECK_TEXT(message.topic, "realtime:r");
	CHECK_TEXT(message.event, "phx_join");
	CHECK(strcmp(message.join_ref, "\"6\"") == 0 && strcmp(message.ref, "\"7\"") == 0);
	CHECK_TEXT(message.payload, "{\"a\":1}");
	CHECK(phoenix_has_ref(&message) && !message.binary);
	phoenix_release(&message);

	CHECK(decodes(PHOENIX_V2, "[null,null,\"\",\"\",null]"));
	CHECK(decodes(PHOENIX_V2, "[1,-2,\"t\",\"e\",[]]"));
	CHECK(!decodes(PHOENIX_V2, "[null,null,\"t\",\"e\"]"));
	CHECK(!decodes(PHOENIX_V2, "[null,1.5,\"t\",\"e\",{}]"));
	CHECK(!decodes(PHOENIX_V2, "{\"topic\":\"t\",\"event\":\"e\",\"payload\":{},\"ref\":null}"));
	CHECK(decodes(PHOENIX_V2, "[-10000000000000000,100000000000000000,\"t\",\"e\",{}]"));
	CHECK(!decodes(PHOENIX_V2, "[\"6\",83333333333333333333,\"t\",\"e\",{}]"));
	CHECK(!decodes(PHOENIX_V2, ""));
	CHECK(!decodes(PHOENIX_V2, "[null,null,\"t\",\"e\",{}] x"));
}

static void
test_decode_v1(void)
{
	static const char text[] = "{\"topic\":\"phoenix\",\"event\":\"heartbeat\",\"payload\":{},\"ref\":\"1\"}";
	PhoenixMessage message;

	CHECK(phoenix_decode_text(PHOENIX_V1, text, strlen(text), &message));
	CHECK(strcmp(message.join_ref, "null") == 0 && strcmp(message.ref, "\"1\"") == 0);
	phoenix_release(&message);
	CHECK(!decodes(PHOENIX_V1, "{\"topic\":\"t\",\"event\":\"e\"}"));
	CHECK(!decodes(PHOENIX_V1, "[null,null,\"t\",\"e\",{}]"));
}

static bool
decodes_binary(const char *data, size_t length)
{
	PhoenixMessage message;
	bool		valid = phoenix_decode_binary(data, length, &message);

	phoenix_release(&message);
	return valid;
}

static void
test_decode_binary(void)
{
	static const char push[] = "\x03\x01\x01\x0e\x02\x02\x01" "67realtime:room1ev{}{\"x\":1}";
	size_t		length = sizeof(push) - 1;
	PhoenixMessage message;
	char		copy[sizeof(push)];

	CHECK(phoenix_decode_binary(push, length, &message));
	CHECK(strcmp(message.join_ref, "\"6\"") == 0 && strcmp(message.ref, "\"7\"") == 0);
	CHECK_TEXT(message.topic, "realtime:room1");
	CHECK_TEXT(message.event, "broadcast");
	CHECK_TEXT(message.user_event, "ev");
	CHECK_TEXT(message.metadata, "{}");
	CHECK_TEXT(message.payload, "{\"x\":1}");
	CHECK(message.payload_is_json && message.binary);
	phoenix_release(&message);

	/* cut anywhere before the payload, it is malformed */
	for (size_t cut = 0; cut < length - 7; cut++)
		CHECK(!decodes_binary(push, cut));
	CHECK(!decodes_binary(push, length - 1));
	memcpy(copy, push, sizeof(push));
	copy[6] = 0;
	CHECK(decodes_binary(copy, length - 1));
	copy[6] = 2;
	CHECK(!decodes_binary(copy, length));
	copy[6] = 1;
	copy[0] = 4;
	CHECK(!decodes_binary(copy, length));
	memcpy(copy, push, sizeof(push));
	copy[9] = '\xe9';			/* the topic is not UTF-8: Latin-1, then */
	CHECK(phoenix_decode_binary(copy, length, &message));
	CHECK_TEXT(message.topic, "\xc3\xa9" "ealtime:room1");
	phoenix_release(&message);
	copy[9] = '\0';
	CHECK(!decodes_binary(copy, length));
	CHECK(decodes_binary("\x03\0\0\0\0\0\0", 7));
	CHECK(!phoenix_decode(PHOENIX_V1, true, push, length, &message));
	phoenix_release(&message);
}

static void
check_frame(Frame *frame, const char *expected, int line)
{
	size_t		header = frame->length - 2 < 126 ? 2 : 4;

	check_text((Slice) {(char *) frame->data + header, frame->length - header},
			   expected, line);
	frame_release(frame);
}

#define CHECK_FRAME(frame, expected) check_frame((frame), (expected), __LINE__)

static void
test_encode(void)
{
	Slice		topic = SLICE("\"realtime:r\"");
	uint32_t	ids[] = {1000, 4294967295};

	CHECK_FRAME(phoenix_encode_reply(PHOENIX_V2, "\"1\"", "\"2\"", topic, true, SLICE("{}")),
				"[\"1\",\"2\",\"realtime:r\",\"phx_reply\",{\"status\":\"ok\",\"response\":{}}]");
	CHECK_FRAME(phoenix_encode_reply(PHOENIX_V1, "\"1\"", "\"2\"", topic, false, SLICE("{}")),
				"{\"topic\":\"realtime:r\",\"event\":\"phx_reply\",\"payload\":{\"status\":\"error\",\"response\":{}},\"ref\":\"2\"}");
	CHECK_FRAME(phoenix_encode_error(PHOENIX_V2, NULL, NULL, topic, SLICE("a\"\\\n\x1f")),
				"[null,null,\"realtime:r\",\"phx_reply\",{\"status\":\"error\",\"response\":{\"reason\":\"a\\\"\\\\\\u000a\\u001f\"}}]");
	CHECK_FRAME(phoenix_encode_close(PHOENIX_V2, "\"1\"", topic, "phx_close"),
				"[\"1\",\"1\",\"realtime:r\",\"phx_close\",{}]");
	CHECK_FRAME(phoenix_encode_close(PHOENIX_V1, "\"1\"", topic, "phx_error"),
				"{\"topic\":\"realtime:r\",\"event\":\"phx_error\",\"payload\":{},\"ref\":\"1\"}");
	CHECK_FRAME(phoenix_encode_system(PHOENIX_V2, "\"1\"", topic, SLICE("system"), SLICE("ok"), SLICE("hi"), SLICE("r")),
				"[\"1\",null,\"realtime:r\",\"system\",{\"message\":\"hi\",\"status\":\"ok\",\"extension\":\"system\",\"channel\":\"r\"}]");
	CHECK_FRAME(phoenix_encode_change(PHOENIX_V2, topic, ids, 2, SLICE("{\"a\":1}"), SLICE("")),
				"[null,null,\"realtime:r\",\"postgres_changes\",{\"ids\":[1000,4294967295],\"data\":{\"a\":1}}]");
	CHECK_FRAME(phoenix_encode_change(PHOENIX_V1, topic, ids, 1, SLICE("{}"), SLICE("a:b:1")),
				"{\"topic\":\"realtime:r\",\"event\":\"postgres_changes\",\"payload\":{\"ids\":[1000],\"data\":{},\"rtsync\":{\"cursor\":\"a:b:1\"}},\"ref\":null}");
}

static void
test_encode_broadcast(void)
{
	Slice		topic = SLICE("realtime:r");
	Slice		topic_json = SLICE("\"realtime:r\"");
	PhoenixBroadcast broadcast = {.event = SLICE("e\""), .payload = SLICE("{\"x\":1}"),
		.payload_is_json = true};
	static char long_name[256];
	Frame	   *frame;

	frame = phoenix_encode_broadcast(PHOENIX_V2, topic, topic_json, &broadcast);
	CHECK(frame->length == 2 + 5 + 10 + 2 + 7 && frame->data[0] == 0x82 &&
		  memcmp(frame->data + 2, "\x04\x0a\x02\x00\x01realtime:re\"{\"x\":1}", 24) == 0);
	frame_release(frame);
	CHECK_FRAME(phoenix_encode_broadcast(PHOENIX_V1, topic, topic_json, &broadcast),
				"{\"topic\":\"realtime:r\",\"event\":\"broadcast\",\"payload\":"
				"{\"type\":\"broadcast\",\"event\":\"e\\\"\",\"payload\":{\"x\":1}},\"ref\":null}");
	broadcast.metadata = SLICE("{\"id\":\"i\"}");
	CHECK_FRAME(phoenix_encode_broadcast(PHOENIX_V1, topic, topic_json, &broadcast),
				"{\"topic\":\"realtime:r\",\"event\":\"broadcast\",\"payload\":"
				"{\"type\":\"broadcast\",\"event\":\"e\\\"\",\"meta\":{\"id\":\"i\"},\"payload\":{\"x\":1}},\"ref\":null}");
	memset(long_name, 'n', sizeof(long_name));
	broadcast.event = (Slice) {long_name, 255};
	broadcast.metadata = (Slice) {NULL, 0};
	broadcast.payload_is_json = false;
	CHECK(phoenix_encode_broadcast(PHOENIX_V1, topic, topic_json, &broadcast) == NULL);
	broadcast.event.length = 256;
	CHECK(phoenix_encode_broadcast(PHOENIX_V2, topic, topic_json, &broadcast) == NULL);
	broadcast.map = SLICE("{\"event\":\"e\",\"more\":1}");
	broadcast.payload_is_json = true;
	CHECK_FRAME(phoenix_encode_broadcast(PHOENIX_V2, topic, topic_json, &broadcast),
				"[null,null,\"realtime:r\",\"broadcast\",{\"event\":\"e\",\"more\":1}]");
}

/*---------------------------------- JSON --------------------------------*/

static void
test_json_values(void)
{
	static const char *const valid[] = {
		"0", "-0", "12", "1.5e+10", "-0.0E-1", "123456789012345678901234567890", "1e999",
		"true", "false", "null", "\"\"", "\"\\u0000\\ud800\\n\\/\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"",
		"[]", "{}", " [ ] ", "\t{\n}\r", "[[],{},[1,[2]],\"a\"]", "{\"a\":{\"b\":[]},\"a\":1}", "\"\x7f\"",
	};
	static const char *const malformed[] = {
		"", " ", "01", "-", "1.", ".5", "1e", "+1", "0x1", "NaN", "tru", "truex", "nul", "'a'", "\"", "\"a",
		"\"\\x\"", "\"\\u12g4\"", "\"\\u12\"", "\"\n\"", "\"\x80\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
		"\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "[", "]", "[1,]", "[,1]", "[1 2]", "[1}", "{", "{\"a\"}",
		"{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:1}", "{\"a\":1]", "1 2", "[]]", "{},", "[\"a\":1]", "{\"a\",1}",
	};
	char		deep[2 * JSON_MAX_DEPTH + 3];

	for (size_t i = 0; i < sizeof(valid) / sizeof(valid[0]); i++)
		if (!json_is_value(slice_of(valid[i])))
		{
			printf("# refused: %s\n", valid[i]);
			failures++;
		}
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
		if (json_is_value(slice_of(malformed[i])))
		{
			printf("# accepted: %s\n", malformed[i]);
			failures++;
		}
	CHECK(!json_is_value((Slice) {"\"\0\"", 3}));
	CHECK(json_is_object_text(SLICE(" {} ")) && !json_is_object_text(SLICE("[]")));
	memset(deep, '[', JSON_MAX_DEPTH);
	memset(deep + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
	CHECK(json_is_value((Slice) {deep, 2 * JSON_MAX_DEPTH}));
	memset(deep, '[', JSON_MAX_DEPTH + 1);
	memset(deep + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
	CHECK(!json_is_value((Slice) {deep, 2 * JSON_MAX_DEPTH + 2}));
}

static void
test_json_parts(void)
{
	JsonCursor	cursor;
	Slice		key;
	Slice		value;
	Buffer		text = {0};

	CHECK(json_enter(SLICE(" [ 1 , {\"a\" : [2]} ,\"x\"] "), '[', &cursor));
	CHECK(json_next(&cursor, &key, &value) && key.data == NULL);
	CHECK_TEXT(value, "1");
	CHECK(json_next(&cursor, &key, &value));
	CHECK_TEXT(value, "{\"a\" : [2]}");
	CHECK(json_next(&cursor, &key, &value) && json_is_string_text(value));
	CHECK(!json_left(&cursor));
	CHECK(!json_next(&cursor, &key, &value) && json_left(&cursor));
	CHECK(!json_next(&cursor, &key, &value));

	CHECK(json_enter(SLICE("{\"\\u0061\" :1,\"b\":-2 }"), '{', &cursor));
	CHECK(json_next(&cursor, &key, &value) && json_string_equals(key, "a"));
	CHECK(!json_string_equals(key, "b") && json_is_integer_text(value));
	CHECK(json_next(&cursor, &key, &value) && json_string_equals(key, "b"));
	CHECK_TEXT(value, "-2");
	CHECK(!json_next(&cursor, &key, &value) && json_left(&cursor));

	CHECK(!json_enter(SLICE("{}"), '[', &cursor) && !json_enter(SLICE(""), '{', &cursor));
	CHECK(json_enter(SLICE("[] x"), '[', &cursor));
	CHECK(!json_next(&cursor, &key, &value) && !json_left(&cursor));
	CHECK(json_enter(SLICE("[1"), '[', &cursor) && json_next(&cursor, &key, &value));
	CHECK(!json_next(&cursor, &key, &value) && !json_left(&cursor));

	CHECK(json_unquote(SLICE("\"a\\n\\u00e9\\ud83d\\ude00\\\"\\/\""), &text));
	CHECK_TEXT(buffer_slice(&text), "a\n\xc3\xa9\xf0\x9f\x98\x80\"/");
	buffer_release(&text);
	CHECK(!json_unquote(SLICE("\"\\u0000\""), &text));
	CHECK(!json_unquote(SLICE("\"\\ud800x\""), &text));
	CHECK(!json_unquote(SLICE("\"\\ud800\\u0041\""), &text));
	CHECK(!json_unquote(SLICE("\"\\udc00\""), &text));
	buffer_release(&text);
}

static void
test_rate(void)
{
	Rate		rate = {0};

	for (int i = 0; i < 5; i++)
		CHECK(rate_allows(&rate, 1000, 5, 30000));
	CHECK(!rate_allows(&rate, 1000, 5, 30000));
	CHECK(!rate_allows(&rate, 6999, 5, 30000));
	CHECK(rate_allows(&rate, 7000, 5, 30000));
	CHECK(!rate_allows(&rate, 7000, 5, 30000));
	for (int i = 0; i < 5; i++)
		CHECK(rate_allows(&rate, 100000, 5, 30000));
	CHECK(!rate_allows(&rate, 100000, 5, 30000));
	CHECK(rate_allows(&rate, 100000, 0, 30000));
}

/*--------------------------------- joins --------------------------------*/

static bool
parses_join(const char *text, JoinRequest *request, json_t **payload)
{
	*payload = json_loads(text, JSON_DECODE_ANY, NULL);
	return join_parse(*payload, SLICE(""), request);
}

static void
test_join(void)
{
	JoinRequest request;
	json_t	   *payload;
	char	   *text;

	CHECK(parses_join("{\"config\":{\"private\":\"TRUE\",\"broadcast\":{\"ack\":true,\"self\":\"false\"},"
					  "\"presence\":{\"enabled\":true},\"postgres_changes_options\":{\"wait\":true},"
					  "\"postgres_changes\":[null,{\"b\":1,\"id\":9,\"a\":[1.5,\"x\"]},{},3]},"
					  "\"access_token\":\"t\"}", &request, &payload));
	CHECK(request.is_private && request.broadcast_ack && !request.broadcast_self);
	CHECK(request.presence && request.wait && request.n_entries == 2);
	CHECK_TEXT(request.token, "t");
	text = join_entry_text(request.entries[0]);
	CHECK_TEXT(slice_of(text), "{\"b\":1,\"a\":[1.5,\"x\"],");
	free(text);
	text = join_entry_text(request.entries[1]);
	CHECK_TEXT(slice_of(text), "{");
	free(text);
	join_release(&request);
	json_decref(payload);

	CHECK(parses_join("null", &request, &payload));
	CHECK(request.n_entries == 0 && request.token.data == NULL && !request.is_private);
	join_release(&request);
	json_decref(payload);
}

/*------------------------------- requests -------------------------------*/

static bool
parses(const char *text, Request *request)
{
	size_t		scanned = 0;
	size_t		length = request_head_length(text, strlen(text), &scanned);

	return length > 0 && request_parse(text, length, request);
}

static void
test_request(void)
{
	Request		request;
	Buffer		token = {0};

	CHECK(parses("GET /socket/websocket?vsn=2.0.0&apikey=a%20b HTTP/1.1\r\nHost:x\r\n"
				 "uPGRADE: h2c, WebSocket\r\nConnection: keep-alive\r\nconnection:Upgrade\r\n"
				 "Sec-WebSocket-Key:\tdGhlIHNhbXBsZSBub25jZQ== \r\nSec-WebSocket-Version: 13\r\nOrigin: o\r\n\r\n", &request));
	CHECK_TEXT(request.method, "GET");
	CHECK_TEXT(request.path, "/socket/websocket");
	CHECK_TEXT(request.websocket_key, "dGhlIHNhbXBsZSBub25jZQ==");
	CHECK_TEXT(request.origin, "o");
	CHECK(request.upgrades && request_is_handshake(&request) && !request.has_body);
	CHECK(http_is_websocket_path(request.path));
	request_token(&request, &token);
	CHECK_TEXT(buffer_slice(&token), "ab");
	buffer_release(&token);

	CHECK(parses("OPTIONS * HTTP/1.0\r\n\r\n", &request));
	CHECK(!request.upgrades && request.minor_version == 0);
	CHECK(!parses("GET / HTTP/1.1\r\n\r\n", &request));
	CHECK(!parses("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", &request));
	CHECK(!parses("GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", &request));
	CHECK(!parses("GET / HTTP/1.1\r\nHost: x\ny: z\r\n\r\n", &request));
	CHECK(!parses("\r\n\r\n", &request));
}

static void
test_request_in_pieces(void)
{
	static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
	size_t		length = sizeof(text) - 1;
	size_t		scanned = 0;

	for (size_t i = 0; i < length - 4; i++)
		CHECK(request_head_length(text, i, &scanned) == 0);
	CHECK(request_head_length(text, length - 4, &scanned) == length - 4);
	scanned = 0;
	CHECK(request_head_length(text, length, &scanned) == length - 4);
}

static void
test_query_parameter(void)
{
	static const struct
	{
		const char *query;
		const char *value;		/* NULL: not there */
	}			cases[] = {
		{"", NULL}, {"a", NULL}, {"ab=1", NULL}, {"a=", ""}, {"a=1", "1"}, {"b=2&a=1", "1"},
		{"a=1&a=2", "2"}, {"a=%41%4g%", "A%4g%"}, {"a=1=2", "1=2"}, {"&&a=+x&", " x"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		Buffer		value = {0};
		bool		found = request_query_parameter(slice_of(cases[i].query), "a", &value);

		CHECK(found == (cases[i].value != NULL));
		if (found)
			CHECK_TEXT(buffer_slice(&value), cases[i].value);
		buffer_release(&value);
	}
}

/*------------------------------- settings -------------------------------*/

static void
test_config(void)
{
	Config		config;

	config_init(&config);
	CHECK(config_allows_origin(&config, SLICE("https://any")));
	config_set(&config, SLICE("max_channels_per_connection"), SLICE("7"));
	CHECK(config.max_channels_per_connection == 7);
	config_set(&config, SLICE("max_channels_per_connection"), SLICE("x"));
	config_set(&config, SLICE("max_channels_per_connection"), SLICE("-1"));
	config_set(&config, SLICE("max_channels_per_connection"), SLICE(""));
	config_set(&config, SLICE("max_channels_per_connection"), SLICE("9999999999999999999999"));
	config_set(&config, SLICE("unknown"), SLICE("1"));
	CHECK(config.max_channels_per_connection == 7);
	config_set(&config, SLICE("max_connections"), SLICE("0"));
	CHECK(config.max_connections == 1);
	config_set(&config, SLICE("error_delay"), SLICE("999999999999"));
	CHECK(config.error_delay == 60000);
	config_set(&config, SLICE("allowed_origins"), SLICE(" https://a ,, http://b:1,"));
	CHECK(config_allows_origin(&config, SLICE("https://A")));
	CHECK(config_allows_origin(&config, SLICE("http://b:1")));
	CHECK(!config_allows_origin(&config, SLICE("http://b")));
	CHECK(!config_allows_origin(&config, SLICE("")));
	CHECK(!config_allows_any_origin(&config));
	config_set(&config, SLICE("allowed_origins"), SLICE(""));
	CHECK(!config_allows_origin(&config, SLICE("https://a")));
	config_release(&config);
}

/*------------------------------ containers ------------------------------*/

static void
test_table(void)
{
	enum
	{
		N = 1000
	};
	static struct Item
	{
		int			number;
		TableNode	node;
	}			items[N];
	Table		table = {0};

	CHECK(table_find(&table, 1) == NULL);
	/* each hash is shared by four items */
	for (int i = 0; i < N; i++)
	{
		items[i].number = i;
		table_insert(&table, &items[i].node, hash_number((uint64_t) i / 4));
	}
	for (int removed = 0; removed <= N; removed += 250)
	{
		for (int i = 0; i < N; i++)
		{
			TableNode  *node = table_find(&table, hash_number((uint64_t) i / 4));
			bool		found = false;

			for (; node != NULL; node = table_find_next(node))
				found |= TABLE_OWNER(struct Item, node, node)->number == i;
			CHECK(found == (i >= removed));
		}
		for (int i = removed; i < removed + 250 && i < N; i++)
			table_remove(&table, &items[i].node);
	}
	CHECK(table.count == 0);
	free(table.buckets);
}

static void
test_hash(void)
{
	/* The reference's vector for SipHash-1-3 under the key 00 01 .. 0f */
	static const unsigned char input[15] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};

	CHECK(hash_bytes(input, 0, 0) == 0xabac0158050fc4dcULL);
	CHECK(hash_bytes(input, 15, 0) != hash_bytes(input, 14, 0));
	CHECK(hash_bytes(input, 15, 0) != hash_bytes(input, 15, 1));
}

static void
test_list(void)
{
	List		list;
	ListLink	links[3] = {{0}};

	list_init(&list);
	CHECK(list_is_empty(&list) && list_first(&list) == NULL);
	list_remove(&links[0]);
	for (int i = 0; i < 3; i++)
		list_append(&list, &links[i]);
	list_remove(&links[1]);
	list_remove(&links[1]);
	CHECK(list_first(&list) == &links[0] && list_next(&list, &links[0]) == &links[2]);
	CHECK(list_next(&list, &links[2]) == NULL && !list_contains(&links[1]));
}

/*---------------------------------- link --------------------------------*/

static bool
grow(LinkWriter *writer, size_t size)
{
	if (size > 1000)
		return false;
	writer->data = realloc(writer->data, size);
	writer->capacity = size;
	return writer->data != NULL;
}

static void
test_link_round_trip(void)
{
	LinkWriter	writer = {.grow = grow};
	LinkHeader	header;
	LinkReader	reader;
	LinkString	string;

	link_begin(&writer, LINK_EVENT);
	link_put_u8(&writer, 200);
	link_put_u32(&writer, 4000000000);
	link_put_u64(&writer, 0x123456789abcdef0);
	link_put_string(&writer, "text");
	link_put_string(&writer, "");
	link_put_string(&writer, NULL);
	link_put_u32(&writer, 2);
	link_put_u32(&writer, 1);
	link_put_u32(&writer, 2);
	CHECK(link_end(&writer));
	for (size_t cut = 0; cut < writer.length; cut++)
		CHECK(link_next_message(writer.data, cut, 1000, &header) == 0);
	CHECK(link_next_message(writer.data, writer.length, 1000, &header) == 1);
	CHECK(link_next_message(writer.data, writer.length, 10, &header) == -1);
	CHECK(header.type == LINK_EVENT && header.length == writer.length - sizeof(header));

	link_read(&reader, writer.data + sizeof(header), header.length);
	CHECK(link_get_u8(&reader) == 200 && link_get_u32(&reader) == 4000000000);
	CHECK(link_get_u64(&reader) == 0x123456789abcdef0);
	string = link_get_string(&reader);
	CHECK(string.length == 4 && memcmp(string.data, "text", 4) == 0);
	string = link_get_string(&reader);
	CHECK(string.length == 0 && string.data != NULL);
	CHECK(link_get_string(&reader).data == NULL && !reader.failed);
	CHECK(link_get_count(&reader, 4) == 2);
	CHECK(!link_finished(&reader));
	link_get_u64(&reader);
	CHECK(link_finished(&reader));
	CHECK(link_get_u8(&reader) == 0 && reader.failed && !link_finished(&reader));
	free(writer.data);
}

static void
test_link_malformed(void)
{
	static const char cut_string[] = {5, 0, 0, 0, 'a'};
	static const char big_count[] = {3, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
	LinkReader	reader;

	link_read(&reader, cut_string, sizeof(cut_string));
	CHECK(link_get_string(&reader).data == NULL && reader.failed);
	link_read(&reader, big_count, sizeof(big_count));
	CHECK(link_get_count(&reader, 4) == 0 && reader.failed);
	link_read(&reader, big_count, 3);
	CHECK(link_get_u32(&reader) == 0 && reader.failed);
}

static void
test_link_out_of_memory(void)
{
	LinkWriter	writer = {.grow = grow};
	char		big[2000] = {0};

	link_begin(&writer, LINK_LEAVE);
	link_put_u64(&writer, 1);
	CHECK(link_end(&writer));
	link_begin(&writer, LINK_TOKEN);
	link_put_bytes(&writer, big, sizeof(big));
	link_put_u8(&writer, 1);
	CHECK(!link_end(&writer));
	CHECK(writer.length == sizeof(LinkHeader) + 8);
	link_begin(&writer, LINK_LEAVE);
	link_put_u64(&writer, 2);
	CHECK(link_end(&writer));
	free(writer.data);
}

/*------------------------- files and metrics ----------------------------*/

static bool
is_file(const char *text, const char *last)
{
	FilePath	path;

	return files_path(slice_of(text), &path) &&
		strcmp(path.names[path.n_names - 1], last) == 0;
}

static void
test_files(void)
{
	static const char *const refused[] = {
		"", "a", "//", "/.", "/..", "/../a", "/a/../b", "/a//b", "/.a", "/a/.b",
		"/%2e%2e/a", "/a%00", "/a b", "/a\\b", "/a:b", "/~", "/\xc3\xa4", "*",
		"/1/2/3/4/5/6/7/8/9"
	};
	FilePath	path;

	CHECK(is_file("/", "index.html"));
	CHECK(is_file("/a/", "index.html"));
	CHECK(is_file("/a/b.js", "b.js"));
	CHECK(is_file("/a..b", "a..b"));
	CHECK(is_file("/1/2/3/4/5/6/7/8", "8"));
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		CHECK(!files_path(slice_of(refused[i]), &path));
	CHECK(strcmp(files_type("a.tar.js"), "text/javascript; charset=utf-8") == 0);
	CHECK(files_type("js") == NULL && files_type("a.") == NULL &&
		  files_type("a.JS") == NULL && files_type("a.sh") == NULL);
}

static bool
has_line(const Buffer *text, const char *line)
{
	return memmem(text->data, text->length, line, strlen(line)) != NULL;
}

static void
test_metrics(void)
{
	Metrics		metrics = {0};
	MetricsNow	now = {.ready = true,.frames_sent = 1ULL << 53};
	MetricsShare sum = {0};
	MetricsShare other = {0};
	Buffer		text = {0};

	metrics_count_join(&metrics, (Slice) {NULL, 0});
	metrics_count_join(&metrics, SLICE("Unauthorized: x\"\n"));
	metrics_count_join(&metrics, SLICE("\"} 1\nevil 1"));
	metrics_count_close(&metrics, 0);
	metrics_count_close(&metrics, 1013);
	metrics_count_close(&metrics, 65535);
	metrics_count_response(&metrics, SLICE("HTTP/1.1 404 Not Found\r\n"));
	metrics_count_response(&metrics, SLICE("short"));
	metrics_sent_after(&metrics, 0.001);
	metrics_sent_after(&metrics, -5);
	metrics_sent_after(&metrics, 1e9);
	metrics_blocked(&metrics, 1025);
	metrics_write(&metrics, &now, &text);
	CHECK(has_line(&text, "\nrtsync_joins_total{result=\"ok\"} 1\n"));
	CHECK(has_line(&text, "\nrtsync_joins_total{result=\"Unauthorized\"} 1\n"));
	CHECK(has_line(&text, "\nrtsync_joins_total{result=\"other\"} 1\n"));
	CHECK(!has_line(&text, "evil"));
	CHECK(has_line(&text, "_closed_total{code=\"client\"} 1\n"));
	CHECK(has_line(&text, "_closed_total{code=\"1013\"} 1\n"));
	CHECK(has_line(&text, "_closed_total{code=\"other\"} 1\n"));
	CHECK(has_line(&text, "_responses_total{status=\"404\"} 1\n"));
	CHECK(has_line(&text, "_responses_total{status=\"other\"} 1\n"));
	CHECK(has_line(&text, "rtsync_sent_frames_total 9007199254740992\n"));
	CHECK(has_line(&text, "commit_to_send_seconds_bucket{le=\"0.001\"} 2\n"));
	CHECK(has_line(&text, "commit_to_send_seconds_bucket{le=\"10\"} 2\n"));
	CHECK(has_line(&text, "commit_to_send_seconds_bucket{le=\"+Inf\"} 3\n"));
	CHECK(has_line(&text, "blocked_queue_bytes_bucket{le=\"1024\"} 0\n"));
	CHECK(has_line(&text, "blocked_queue_bytes_bucket{le=\"4096\"} 1\n"));
	buffer_release(&text);

	sum.counted = other.counted = metrics;
	sum.now = other.now = now;
	sum.counted.started = 7;
	other.counted.started = 5;
	other.now.ready = false;
	other.now.connections = 3;
	metrics_add(&sum, &other);
	metrics_write(&sum.counted, &sum.now, &text);
	CHECK(has_line(&text, "rtsync_ready 1\n"));
	CHECK(has_line(&text, "rtsync_connections 3\n"));
	CHECK(has_line(&text, "rtsync_gateway_start_time_seconds 5\n"));
	CHECK(has_line(&text, "\nrtsync_joins_total{result=\"other\"} 2\n"));
	CHECK(has_line(&text, "_closed_total{code=\"1013\"} 2\n"));
	CHECK(has_line(&text, "_responses_total{status=\"404\"} 2\n"));
	CHECK(has_line(&text, "commit_to_send_seconds_count 6\n"));
	CHECK(has_line(&text, "blocked_queue_bytes_sum 2050\n"));
	buffer_release(&text);
}

/*------------------------------------------------------------------------*/

static bool
parses_as(const char *text, const char *expected)
{
	PeerAddress peer = {0};

	return peer_parse(slice_of(text), &peer) ?
		expected != NULL && strcmp(peer_text(&peer), expected) == 0 : expected == NULL;
}

static void
test_peer_parse(void)
{
	CHECK(parses_as("192.0.2.1", "192.0.2.1"));
	CHECK(parses_as("192.0.2.1:8080", "192.0.2.1"));
	CHECK(parses_as("\"192.0.2.1:8080\"", "192.0.2.1"));
	CHECK(parses_as("2001:db8::1", "2001:db8::1"));
	CHECK(parses_as("[2001:db8::1]", "2001:db8::1"));
	CHECK(parses_as("\"[2001:db8::1]:99\"", "2001:db8::1"));
	CHECK(parses_as("::ffff:192.0.2.1", "192.0.2.1"));
	CHECK(parses_as("", NULL));
	CHECK(parses_as("unknown", NULL));
	CHECK(parses_as("_hidden", NULL));
	CHECK(parses_as("192.0.2", NULL));
	CHECK(parses_as("192.0.2.256", NULL));
	CHECK(parses_as("[2001:db8::1", NULL));
	CHECK(parses_as("\"", NULL));
	CHECK(parses_as("::", NULL));
	CHECK(parses_as("1:2:3:4:5:6:7:8:9:10:11:12:13:14:15:16:17:18:19:20:21:22:23", NULL));
}

/* The client behind this peer, by these headers, with these proxies trusted */
static const char *
behind(const char *peer_address, const char *headers, const char *proxies)
{
	static char head[2048];
	Request		request;
	PeerAddress peer = {0};
	int			length = snprintf(head, sizeof(head), "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", headers);

	if (!peer_parse(slice_of(peer_address), &peer) ||
		!request_parse(head, (size_t) length, &request))
		return "malformed";
	peer = peer_behind_proxies(&peer, &request, proxies);
	return peer_text(&peer);
}

#define IS(expected, ...) CHECK(strcmp(behind(__VA_ARGS__), expected) == 0)

static void
test_proxies(void)
{
	const char *proxies = "10.0.0.0/8, 192.0.2.7,2001:db8::/33";

	/* who is no proxy says what he likes */
	IS("198.51.100.1", "198.51.100.1", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	IS("198.51.100.1", "198.51.100.1", "Forwarded: for=203.0.113.9\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For: 203.0.113.9\r\n", "");
	IS("11.0.0.1", "11.0.0.1", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	IS("192.0.2.6", "192.0.2.6", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	/* one proxy, or several */
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 203.0.113.9:1234\r\n", proxies);
	IS("203.0.113.9", "2001:db8:7fff::1", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	IS("2001:db8:8000::1", "2001:db8:8000::1", "X-Forwarded-For: 203.0.113.9\r\n", proxies);
	IS("203.0.113.9", "192.0.2.7", "X-Forwarded-For: 203.0.113.9 , 10.9.9.9\t,10.0.0.1\r\n", proxies);
	IS("203.0.113.9", "192.0.2.7", "X-Forwarded-For: 203.0.113.9, 10.9.9.9\r\nX-Forwarded-For: 10.0.0.1\r\n", proxies);
	/* what the client has written before it does not count */
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 1.2.3.4, 203.0.113.9\r\n", proxies);
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 10.7.7.7, 203.0.113.9\r\n", proxies);
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 203.0.113.9\r\n", proxies);
	/* nor does what is no address, and what is before it */
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For: unknown\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For: 1.2.3.4,\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For:\r\n", proxies);
	IS("10.4.4.4", "10.1.2.3", "X-Forwarded-For: 1.2.3.4, x, 10.4.4.4\r\n", proxies);
	/* all of them proxies: the first */
	IS("10.4.4.4", "10.1.2.3", "X-Forwarded-For: 10.4.4.4, 10.5.5.5\r\n", proxies);
	/* RFC 7239 */
	IS("203.0.113.9", "10.1.2.3", "Forwarded: for=1.2.3.4, proto=https;For=\"203.0.113.9:99\";by=10.1.1.1\r\n", proxies);
	IS("2001:db8:8000::2", "10.1.2.3", "Forwarded: for=\"[2001:db8:8000::2]:99\"\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "Forwarded: for=_hidden\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "Forwarded: by=203.0.113.9\r\n", proxies);
	/* both, of which the proxy has written one */
	IS("203.0.113.9", "10.1.2.3", "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=1.2.3.4\r\n", proxies);
	IS("10.1.2.3", "10.1.2.3", "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=203.0.113.9\r\n", proxies);
	/* all, none, and masks that are none */
	IS("203.0.113.9", "198.51.100.1", "X-Forwarded-For: 203.0.113.9\r\n", "::/0");
	IS("203.0.113.9", "198.51.100.1", "X-Forwarded-For: 203.0.113.9\r\n", "198.51.100.1/32");
	IS("198.51.100.1", "198.51.100.1", "X-Forwarded-For: 203.0.113.9\r\n", "198.51.100.1/33");
	IS("198.51.100.1", "198.51.100.1", "X-Forwarded-For: 203.0.113.9\r\n", "proxy, 198.51.100, /8, 198.51.100.1/, 0.0.0.0/x, 0.0.0.0/8x, ::/1000");
	/* more lines than any chain of proxies has */
	IS("malformed", "10.1.2.3", "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\n"
	   "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\n"
	   "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 1.1.1.1\r\n", proxies);
}

/*------------------------------------------------------------------------*/

static void
run(const char *name, void (*test) (void))
{
	failures = 0;
	test();
	printf("%s - unit: %s\n", failures == 0 ? "ok" : "not ok", name);
	failed_tests += failures > 0;
}

int
main(void)
{
	run("frame headers", test_frame_headers);
	run("frames of several parts", test_frame_parts);
	run("close frames", test_frame_close);
	run("decoding version 2.0.0", test_decode_v2);
	run("decoding version 1.0.0", test_decode_v1);
	run("decoding binary frames", test_decode_binary);
	run("encoding", test_encode);
	run("encoding broadcasts", test_encode_broadcast);
	run("JSON values", test_json_values);
	run("JSON parts", test_json_parts);
	run("rates", test_rate);
	run("join payloads", test_join);
	run("request heads", test_request);
	run("request heads in pieces", test_request_in_pieces);
	run("addresses as proxies write them", test_peer_parse);
	run("clients behind proxies", test_proxies);
	run("query parameters", test_query_parameter);
	run("settings", test_config);
	run("hash tables", test_table);
	run("hash function", test_hash);
	run("lists", test_list);
	run("link: round trip", test_link_round_trip);
	run("link: malformed bodies", test_link_malformed);
	run("link: no memory", test_link_out_of_memory);
	run("paths of files", test_files);
	run("metrics", test_metrics);
	return failed_tests > 0;
}
