/* Preloaded into a server: once the file $FAILING_DISK exists, the next fdatasync of its write-ahead log fails, and the
 * file is gone. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*real)(int);
    const char *flag = getenv("FAILING_DISK");
    char link[64], path[4096];
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = '\0';
    if (flag && strstr(path, "/pg_wal/") && unlink(flag) == 0) {
        errno = EIO;
        return -1;
    }
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return real(fd);
}

/* Recovery calls it for every file; here nothing but the write-ahead log has to be on disk. */
int fsync(int fd) {
    (void)fd;
    return 0;
}
