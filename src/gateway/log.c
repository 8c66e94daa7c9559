/*-------------------------------------------------------------------------
 *
 * log.c
 *	  Messages on stderr, which the server's log collector catches.
 *
 * A message leaves in one write of at most PIPE_BUF bytes, so that those of
 * several processes do not mix.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define CLIENT_PERIOD 10		/* seconds */
#define CLIENT_MESSAGES 10		/* that pass in one period */

static void
emit(const char *level, const char *format, va_list arguments)
{
	char		line[1024];
	int			prefix = snprintf(line, 64, "%s:  gateway: ", level);
	int			length = vsnprintf(line + prefix, sizeof(line) - 1 - (size_t) prefix,
								   format, arguments);
	size_t		total = (size_t) prefix + (length > 0 ? (size_t) length : 0);

	if (total > sizeof(line) - 2)
		total = sizeof(line) - 2;
	for (size_t i = 0; i < total; i++)
		if ((unsigned char) line[i] < 0x20)
			line[i] = '?';
	line[total] = '\n';
	if (write(STDERR_FILENO, line, total + 1) < 0)
		return;					/* nowhere to say so */
}

void
log_message(const char *level, const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	emit(level, format, arguments);
	va_end(arguments);
}

void
log_client(const char *format,...)
{
	static time_t period_start;
	static unsigned int passed;
	static unsigned int suppressed;
	struct timespec now;
	va_list		arguments;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (period_start == 0 || now.tv_sec - period_start >= CLIENT_PERIOD)
	{
		if (suppressed > 0)
			log_message("LOG", "%u similar messages about clients were left out",
						suppressed);
		period_start = now.tv_sec > 0 ? now.tv_sec : 1;
		passed = suppressed = 0;
	}
	if (passed >= CLIENT_MESSAGES)
	{
		suppressed++;
		return;
	}
	passed++;
	va_start(arguments, format);
	emit("LOG", format, arguments);
	va_end(arguments);
}
