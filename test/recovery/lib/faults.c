/*
 * test/recovery/lib/faults.c: a clock that somebody sets, and a full disk, for
 * the processes that preload this.
 *
 * FAULTS_FILE is mapped, so that whoever writes it (lib/faults.mjs) is obeyed
 * at once: by how many microseconds the time of day is wrong, and whether
 * files can grow.  On a full disk what is there can be written anew; the
 * standard streams are spared, so that the log goes on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef struct Faults
{
	volatile int64_t clock_step;	/* microseconds */
	volatile int32_t disk_full;
	volatile int32_t refused;	/* writes, counted for the tests */
} Faults;

static Faults none;
static Faults *faults = &none;

static int	(*real_clock_gettime) (clockid_t, struct timespec *);
static ssize_t (*real_write) (int, const void *, size_t);
static ssize_t (*real_pwrite) (int, const void *, size_t, off_t);
static ssize_t (*real_pwritev) (int, const struct iovec *, int, off_t);
static int	(*real_posix_fallocate) (int, off_t, off_t);

__attribute__((constructor)) static void
prepare(void)
{
	const char *path = getenv("FAULTS_FILE");
	int			fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void	   *map;

	real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	real_write = dlsym(RTLD_NEXT, "write");
	real_pwrite = dlsym(RTLD_NEXT, "pwrite");
	real_pwritev = dlsym(RTLD_NEXT, "pwritev");
	real_posix_fallocate = dlsym(RTLD_NEXT, "posix_fallocate");
	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(Faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		faults = map;
	close(fd);
}

/*------------------------------ the clock -------------------------------*/

int
clock_gettime(clockid_t id, struct timespec *now)
{
	int			rc;
	int64_t		microseconds;

	if (real_clock_gettime == NULL)
		prepare();
	rc = real_clock_gettime(id, now);
	if (rc != 0 || faults->clock_step == 0 ||
		(id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return rc;
	microseconds = now->tv_sec * INT64_C(1000000) + now->tv_nsec / 1000 +
		faults->clock_step;
	now->tv_sec = microseconds / 1000000;
	now->tv_nsec = microseconds % 1000000 * 1000;
	return 0;
}

int
gettimeofday(struct timeval *now, void *zone)
{
	struct timespec spec;

	(void) zone;
	clock_gettime(CLOCK_REALTIME, &spec);
	now->tv_sec = spec.tv_sec;
	now->tv_usec = spec.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *result)
{
	struct timespec spec;

	clock_gettime(CLOCK_REALTIME, &spec);
	if (result != NULL)
		*result = spec.tv_sec;
	return spec.tv_sec;
}

/*------------------------------ the disk --------------------------------*/

/* Would it become larger than it is? */
static bool
refuse(int fd, off_t end)
{
	struct stat st;

	if (!faults->disk_full || fd <= 2)
		return false;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || end <= st.st_size)
		return false;
	__sync_fetch_and_add(&faults->refused, 1);
	errno = ENOSPC;
	return true;
}

ssize_t
write(int fd, const void *data, size_t length)
{
	off_t		at = faults->disk_full ? lseek(fd, 0, SEEK_CUR) : 0;

	if (at >= 0 && refuse(fd, at + (off_t) length))
		return -1;
	return real_write(fd, data, length);
}

ssize_t
pwrite(int fd, const void *data, size_t length, off_t at)
{
	return refuse(fd, at + (off_t) length) ? -1 :
		real_pwrite(fd, data, length, at);
}

ssize_t
pwrite64(int fd, const void *data, size_t length, off_t at)
{
	return pwrite(fd, data, length, at);
}

ssize_t
pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
	off_t		end = at;

	for (int i = 0; i < count; i++)
		end += (off_t) parts[i].iov_len;
	return refuse(fd, end) ? -1 : real_pwritev(fd, parts, count, at);
}

ssize_t
pwritev64(int fd, const struct iovec *parts, int count, off_t at)
{
	return pwritev(fd, parts, count, at);
}

int
posix_fallocate(int fd, off_t at, off_t length)
{
	return refuse(fd, at + length) ? ENOSPC :
		real_posix_fallocate(fd, at, length);
}

int
posix_fallocate64(int fd, off_t at, off_t length)
{
	return posix_fallocate(fd, at, length);
}
