/*-------------------------------------------------------------------------
 *
 * files.h
 *	  Static files over HTTP, below rtsync.http_root.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_FILES_H
#define GATEWAY_FILES_H

#include "gateway/config.h"
#include "gateway/request.h"

#define FILES_MAX_DEPTH 8
#define FILES_MAX_NAME 255

/* The way to a file: names of directories and, as the last, of the file */
typedef struct FilePath
{
	uint32_t	n_names;
	char		names[FILES_MAX_DEPTH][FILES_MAX_NAME + 1];
} FilePath;

extern bool files_path(Slice path, FilePath *result);
extern const char *files_type(const char *name);
extern bool files_answer(const Request *request, const Config *config,
						 bool (*may_hold) (size_t length), Buffer *response);

#endif							/* GATEWAY_FILES_H */
