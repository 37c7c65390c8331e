/* Count the calls that change files below a folder, and let one of them fail (LD_PRELOAD).

   FAULT_FOLDER  the folder, an absolute path without links
   FAULT_STATE   a file of at least 8 zero bytes: the number of calls so far, and whether the disk is full or read-only.
                 Child processes share it, so that calls have one numbering.
   FAULT_LOG     optional: a file that gets a line "NUMBER NAME PATH" for each call
   FAULT_CALL    the number of the call that fails; the first has the number 1
   FAULT_KIND    how it fails:
       eio          once, with EIO
       enospc       with ENOSPC; later writes fail, too
       erofs        with EROFS, like every later call
       half         a write takes half of the bytes; later writes fail with ENOSPC
       torn         a write takes half of the bytes, and SIGKILL ends the process
       kill_before, kill_after    SIGKILL ends the process before or after the call

   Without FAULT_FOLDER, all calls pass. The variables are read at each call, so a process can set them itself. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum action { PASS, FAIL, HALF, HALF_AND_DIE, DIE_AFTER };

struct state {
    int calls, error; /* `error`: the errno of calls after the fault, 0 for none */
};

static struct state *shared_state(void) {
    static struct state *state;
    const char *path = getenv("FAULT_STATE");
    if (!state && path) {
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
        state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
        if (state == MAP_FAILED) abort();
    }
    return state;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether a path is the folder, as in an open with O_TMPFILE, or is below it. */
static int is_below(const char *place, const char *folder) {
    size_t length = strlen(folder);
    return !strncmp(place, folder, length) && (place[length] == '/' || !place[length]);
}

static enum action fail_with(int error) {
    errno = error;
    return FAIL;
}

/* Decide the fate of a call that changes `place`; with FAIL, errno is set. */
static enum action next_call(const char *name, const char *place, int is_write) {
    const char *folder = getenv("FAULT_FOLDER"), *log = getenv("FAULT_LOG"), *call = getenv("FAULT_CALL");
    if (!folder || !is_below(place, folder)) return PASS;
    struct state *state = shared_state();
    int number = __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST);
    if (log) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%d %s .%s\n", number, name, place + strlen(folder));
        int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
    if (state->error == EROFS || (state->error && is_write)) return fail_with(state->error);
    if (!call || number != atoi(call)) return PASS;
    const char *kind = getenv("FAULT_KIND");
    if (!strcmp(kind, "kill_before") || (!strcmp(kind, "torn") && !is_write)) die();
    if (!strcmp(kind, "kill_after")) return DIE_AFTER;
    if (!strcmp(kind, "torn")) return HALF_AND_DIE;
    if (!strcmp(kind, "eio")) return fail_with(EIO);
    state->error = strcmp(kind, "erofs") ? ENOSPC : EROFS;
    if (!strcmp(kind, "half") && is_write) return HALF;
    return fail_with(state->error);
}

/* The absolute path of `path`, which is relative to `directory`, a descriptor or AT_FDCWD. */
static const char *path_at(char *buffer, int directory, const char *path) {
    char link[64], base[PATH_MAX];
    if (path[0] == '/') return path;
    if (directory == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    if (snprintf(buffer, PATH_MAX, *path ? "%s/%s" : "%s", base, path) >= PATH_MAX) abort();
    return buffer;
}

/* Define a call: its result, name, parameters, arguments, and the directory and path that it changes. */
#define CALL(result_type, name, parameters, arguments, directory, path)        \
    result_type name parameters {                                              \
        char buffer[PATH_MAX];                                                 \
        result_type(*real) parameters = dlsym(RTLD_NEXT, #name);               \
        enum action action = next_call(#name, path_at(buffer, directory, path), 0); \
        if (action == FAIL) return -1;                                         \
        result_type result = real arguments;                                   \
        if (action == DIE_AFTER) die();                                        \
        return result;                                                         \
    }

CALL(int, rename, (const char *old, const char *new), (old, new), AT_FDCWD, new)
CALL(int, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new), to, new)
CALL(int, renameat2, (int from, const char *old, int to, const char *new, unsigned flags), (from, old, to, new, flags), to, new)
CALL(int, link, (const char *old, const char *new), (old, new), AT_FDCWD, new)
CALL(int, linkat, (int from, const char *old, int to, const char *new, int flags), (from, old, to, new, flags), to, new)
CALL(int, unlink, (const char *path), (path), AT_FDCWD, path)
CALL(int, unlinkat, (int directory, const char *path, int flags), (directory, path, flags), directory, path)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, mkdirat, (int directory, const char *path, mode_t mode), (directory, path, mode), directory, path)
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), fd, "")
CALL(int, fchmodat, (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags), directory, path)
CALL(int, truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path)
CALL(int, truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path)
CALL(int, ftruncate, (int fd, off_t size), (fd, size), fd, "")
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), fd, "")
CALL(int, fsync, (int fd), (fd), fd, "")
CALL(int, fdatasync, (int fd), (fd), fd, "")

/* Define a call that writes `size` bytes to `fd`. `size` is one of the arguments, so that half of it can be written. */
#define WRITE(name, parameters, arguments, fd, size)                           \
    ssize_t name parameters {                                                  \
        char buffer[PATH_MAX];                                                 \
        ssize_t(*real) parameters = dlsym(RTLD_NEXT, #name);                   \
        enum action action = next_call(#name, path_at(buffer, fd, ""), 1);     \
        if (action == HALF && size < 2) action = fail_with(ENOSPC);            \
        if (action == FAIL) return -1;                                         \
        if (action == HALF || action == HALF_AND_DIE) size /= 2;               \
        ssize_t result = real arguments;                                       \
        if (action == HALF_AND_DIE || action == DIE_AFTER) die();              \
        return result;                                                         \
    }

WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), fd, size)
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd, size)
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd, size)
WRITE(sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), to, size)
WRITE(sendfile64, (int to, int from, off64_t *at, size_t size), (to, from, at, size), to, size)
WRITE(copy_file_range, (int from, off64_t *in, int to, off64_t *out, size_t size, unsigned flags), (from, in, to, out, size, flags), to, size)

/* Define a call that opens a file. It is counted if it can create or empty the file. */
#define OPEN(name, parameters, arguments, directory, path)                     \
    int name parameters {                                                      \
        char buffer[PATH_MAX];                                                 \
        va_list list;                                                          \
        va_start(list, flags);                                                 \
        mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, mode_t) : 0; \
        va_end(list);                                                          \
        int (*real) parameters = dlsym(RTLD_NEXT, #name);                      \
        int is_change = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE; \
        enum action action = is_change ? next_call(#name, path_at(buffer, directory, path), 0) : PASS; \
        if (action == FAIL) return -1;                                         \
        int fd = real arguments;                                               \
        if (action == DIE_AFTER) die();                                        \
        return fd;                                                             \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD, path)
OPEN(openat, (int directory, const char *path, int flags, ...), (directory, path, flags, mode), directory, path)
OPEN(openat64, (int directory, const char *path, int flags, ...), (directory, path, flags, mode), directory, path)
