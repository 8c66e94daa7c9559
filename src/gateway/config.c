/*-------------------------------------------------------------------------
 *
 * config.c
 *	  The settings that the engine sends: defaults, limits and use.
 *
 * Pure.  Values outside the limits are moved to the nearest limit: the engine
 * has checked them, and a gateway that runs is better than one that does not.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/config.h"

#include <stdlib.h>
#include <string.h>

typedef struct NumberSetting
{
	const char *name;
	size_t		offset;
	uint32_t	fallback;
	uint32_t	min;
	uint32_t	max;
} NumberSetting;

typedef struct TextSetting
{
	const char *name;
	size_t		offset;
	const char *fallback;
} TextSetting;

#define TEXT_SETTING(name, fallback) {#name, offsetof(Config, name), fallback}

static const TextSetting text_settings[] = {
	TEXT_SETTING(allowed_origins, "*"),
	TEXT_SETTING(trusted_proxies, ""),
	TEXT_SETTING(http_root, ""),
	TEXT_SETTING(metrics_token, ""),
	TEXT_SETTING(ssl_certificate, ""),
	TEXT_SETTING(ssl_key, ""),
	TEXT_SETTING(ssl_ciphers, ""),
	TEXT_SETTING(ssl_min_protocol_version, ""),
	TEXT_SETTING(ssl_max_protocol_version, ""),
};

#define N_TEXT_SETTINGS (sizeof(text_settings) / sizeof(text_settings[0]))

#define SETTING(name, fallback, min, max) \
	{#name, offsetof(Config, name), fallback, min, max}

static const NumberSetting number_settings[] = {
	SETTING(max_connections, 10000, 1, 1000000),
	SETTING(max_channels_per_connection, 100, 1, 1000000),
	SETTING(max_connections_per_address, 0, 0, 1000000),
	SETTING(max_joins_per_second, 500, 0, 1000000),
	SETTING(max_messages_per_second, 1000, 0, 1000000),
	SETTING(max_requests_per_second, 1000, 0, 1000000),
	SETTING(max_message_size, 1024 * 1024, 1024, 64 * 1024 * 1024),
	SETTING(max_payload_size, 1000 * 1000, 100, 64 * 1024 * 1024),
	SETTING(max_presence_size, 10 * 1024, 100, 1024 * 1024),
	SETTING(max_presence_calls, 300, 0, 1000000),
	SETTING(presence_interval, 50, 0, 10000),
	SETTING(send_queue_size, 4 * 1024 * 1024, 16 * 1024, 1024 * 1024 * 1024),
	SETTING(send_timeout, 30000, 100, 24 * 3600 * 1000),
	SETTING(handshake_timeout, 10000, 100, 600000),
	SETTING(idle_timeout, 60000, 0, 24 * 3600 * 1000),
	SETTING(no_channel_timeout, 600000, 0, 24 * 3600 * 1000),
	SETTING(error_delay, 1000, 0, 60000),
	SETTING(shutdown_spread, 10000, 0, 60000),
	SETTING(gateway, 0, 0, GATEWAY_MAX_NUMBER),
	SETTING(gateways, 1, 1, GATEWAY_MAX_NUMBER + 1),
	SETTING(allow_anonymous, 0, 0, 1),
	SETTING(ssl, 0, 0, 1),
};

#define N_NUMBER_SETTINGS (sizeof(number_settings) / sizeof(number_settings[0]))

static uint32_t *
place_of(Config *config, const NumberSetting *setting)
{
	return (uint32_t *) ((char *) config + setting->offset);
}

static char **
text_place_of(Config *config, const TextSetting *setting)
{
	return (char **) ((char *) config + setting->offset);
}

void
config_init(Config *config)
{
	for (size_t i = 0; i < N_TEXT_SETTINGS; i++)
		*text_place_of(config, &text_settings[i]) =
			copy_bytes(text_settings[i].fallback, strlen(text_settings[i].fallback));
	for (size_t i = 0; i < N_NUMBER_SETTINGS; i++)
		*place_of(config, &number_settings[i]) = number_settings[i].fallback;
}

/* Apply one setting.  Unknown names and values that are no number are ignored. */
void
config_set(Config *config, Slice name, Slice value)
{
	uint64_t	number = 0;

	for (size_t i = 0; i < N_TEXT_SETTINGS; i++)
	{
		char	  **place = text_place_of(config, &text_settings[i]);

		if (!slice_equals(name, text_settings[i].name))
			continue;
		free(*place);
		*place = copy_bytes(value.data, value.length);
		return;
	}
	if (value.length == 0 || value.length > 18)
		return;
	for (size_t i = 0; i < value.length; i++)
	{
		if (value.data[i] < '0' || value.data[i] > '9')
			return;
		number = number * 10 + (uint64_t) (value.data[i] - '0');
	}
	for (size_t i = 0; i < N_NUMBER_SETTINGS; i++)
	{
		const NumberSetting *setting = &number_settings[i];

		if (!slice_equals(name, setting->name))
			continue;
		if (number < setting->min)
			number = setting->min;
		if (number > setting->max)
			number = setting->max;
		*place_of(config, setting) = (uint32_t) number;
		return;
	}
}

/* Take the next element off a list separated by commas, without blanks. */
bool
config_next_element(const char **rest, Slice *element)
{
	const char *start = *rest;
	const char *end;

	while (*start == ' ' || *start == '\t' || *start == ',')
		start++;
	if (*start == '\0')
		return false;
	end = start;
	while (*end != '\0' && *end != ',')
		end++;
	*rest = end;
	while (end > start && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*element = (Slice) {start, (size_t) (end - start)};
	return true;
}

bool
config_allows_any_origin(const Config *config)
{
	const char *rest = config->allowed_origins;
	Slice		element;

	while (config_next_element(&rest, &element))
		if (slice_equals(element, "*"))
			return true;
	return false;
}

/* May a page of this origin (scheme://host[:port]) connect? */
bool
config_allows_origin(const Config *config, Slice origin)
{
	const char *rest = config->allowed_origins;
	Slice		element;

	while (config_next_element(&rest, &element))
	{
		char	   *allowed;
		bool		equal;

		if (slice_equals(element, "*"))
			return true;
		allowed = copy_bytes(element.data, element.length);
		equal = slice_equals_nocase(origin, allowed);
		free(allowed);
		if (equal)
			return true;
	}
	return false;
}

void
config_release(Config *config)
{
	for (size_t i = 0; i < N_TEXT_SETTINGS; i++)
	{
		free(*text_place_of(config, &text_settings[i]));
		*text_place_of(config, &text_settings[i]) = NULL;
	}
}
