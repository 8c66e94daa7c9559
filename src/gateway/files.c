/*-------------------------------------------------------------------------
 *
 * files.c
 *	  Static files over HTTP, below rtsync.http_root.
 *
 * For the pages of demonstrations and small applications, off by default.  A
 * path is a list of names, and each must look like a name: letters, digits,
 * ".", "_" and "-", and not begin with a dot.  Nothing is decoded, so there is
 * no second way to write one.  On the way down each name is opened below the
 * one before it, and none may be a symbolic link: whoever asks stays below the
 * root, whatever is there.  A file is read whole, which the disk's cache makes
 * quick; large ones are not for us.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/files.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/http.h"

#define MAX_SIZE (8 * 1024 * 1024)

static bool
is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

/* Add a name to the path.  False if it is none. */
static bool
add_name(FilePath *path, Slice name)
{
	if (name.length == 0 || name.length > FILES_MAX_NAME ||
		name.data[0] == '.' || path->n_names == FILES_MAX_DEPTH)
		return false;
	for (size_t i = 0; i < name.length; i++)
		if (!is_name_char(name.data[i]))
			return false;
	memcpy(path->names[path->n_names], name.data, name.length);
	path->names[path->n_names++][name.length] = '\0';
	return true;
}

/*
 * Take a request's path apart; where it ends in a slash, "index.html" is meant.
 * False if it cannot be that of a file.
 */
bool
files_path(Slice path, FilePath *result)
{
	size_t		start = 1;

	result->n_names = 0;
	if (path.length == 0 || path.data[0] != '/')
		return false;
	for (size_t i = 1; i < path.length; i++)
	{
		if (path.data[i] != '/')
			continue;
		if (!add_name(result, (Slice) {path.data + start, i - start}))
			return false;
		start = i + 1;
	}
	return add_name(result, start < path.length ?
					(Slice) {path.data + start, path.length - start} :
					SLICE("index.html"));
}

/* The media type that the end of a file's name stands for; NULL: unknown */
const char *
files_type(const char *name)
{
	static const char *const types[][2] = {
		{"html", "text/html; charset=utf-8"},
		{"css", "text/css; charset=utf-8"},
		{"js", "text/javascript; charset=utf-8"},
		{"mjs", "text/javascript; charset=utf-8"},
		{"json", "application/json"},
		{"map", "application/json"},
		{"txt", "text/plain; charset=utf-8"},
		{"svg", "image/svg+xml"},
		{"png", "image/png"},
		{"jpg", "image/jpeg"},
		{"webp", "image/webp"},
		{"ico", "image/x-icon"},
		{"woff2", "font/woff2"},
		{"wasm", "application/wasm"},
	};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot != NULL && i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(dot + 1, types[i][0]) == 0)
			return types[i][1];
	return NULL;
}

/* Open the file, or return -1. */
static int
open_below(const char *root, const FilePath *path)
{
	int			fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (uint32_t i = 0; i < path->n_names && fd >= 0; i++)
	{
		bool		last = i + 1 == path->n_names;
		int			next = openat(fd, path->names[i],
								  O_RDONLY | O_NOFOLLOW | O_CLOEXEC |
								  (last ? O_NONBLOCK : O_DIRECTORY));

		close(fd);
		fd = next;
	}
	return fd;
}

/* Is the open file one of a sensible size? */
static bool
is_file(int fd, size_t *size)
{
	struct stat status;

	if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
		status.st_size > MAX_SIZE)
		return false;
	*size = (size_t) status.st_size;
	return true;
}

static bool
read_whole(int fd, size_t size, Buffer *data)
{
	buffer_reserve(data, size + 1);
	while (data->length < size)
	{
		ssize_t		n = read(fd, data->data + data->length, size - data->length);

		if (n <= 0)
			return false;
		data->length += (size_t) n;
	}
	return true;
}

/* Answer with the open file.  False if that cannot be. */
static bool
answer(int fd, const char *type, const Request *request, const Config *config,
	   bool (*may_hold) (size_t length), Buffer *response)
{
	Buffer		data = {0};
	size_t		size;
	bool		is_head = slice_equals(request->method, "HEAD");

	if (!is_file(fd, &size))
		return false;
	if (!is_head && !may_hold(size))
	{
		http_error(503, SLICE("Too many requests at once"), request, config,
				   response);
		return true;
	}
	if (!is_head && !read_whole(fd, size, &data))
	{
		buffer_release(&data);
		return false;
	}
	http_respond(200, "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n",
				 type, (Slice) {data.data, size}, request, config, response);
	buffer_release(&data);
	return true;
}

/*
 * Answer a request for a file, or, if may_hold says that there is no room for
 * its length, with an error.  Returns false, with nothing written, if there is
 * none.
 */
bool
files_answer(const Request *request, const Config *config,
			 bool (*may_hold) (size_t length), Buffer *response)
{
	const char *type;
	FilePath	path;
	int			fd;
	bool		found;

	if (config->http_root[0] != '/' ||
		(!slice_equals(request->method, "GET") &&
		 !slice_equals(request->method, "HEAD")) ||
		!files_path(request->path, &path))
		return false;
	type = files_type(path.names[path.n_names - 1]);
	if (type == NULL)
		return false;
	fd = open_below(config->http_root, &path);
	if (fd < 0)
		return false;
	found = answer(fd, type, request, config, may_hold, response);
	close(fd);
	return found;
}
