/* Ends a process at its n-th disk operation, by a kill or by a power cut, which takes back what was not synced. Loaded
 * with LD_PRELOAD and configured by environment variables, see `set_up`. Linux, glibc, 64 bits.
 *
 * A boundary is any of these operations below the root, in all threads: writing, syncing, truncating, allocating,
 * creating, renaming, removing. All of them run under one lock, so no operation after the n-th one has an effect.
 *
 * A power cut is simulated by undoing what was not synced: see `power_cut.h`. CUT loses all of it, CUT_SOME keeps some. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static void give_up(const char *what) {
    dprintf(2, "the crash shim cannot go on: %s: %s\n", what, strerror(errno));
    _exit(70);
}

#include "power_cut.h"

enum how { COUNT, BEFORE, TORN, AFTER, CUT, CUT_SOME };

/* Shared with the test by a file; survives the end of this process. */
struct tally {
    uint64_t boundaries;
    uint64_t by_kind[6];
    uint64_t ended_at;
    uint64_t ended_in;
};

static uint64_t at;
static enum how how;
static struct tally *tally, own_tally;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static bool cuts(void) { return how == CUT || how == CUT_SOME; }

__attribute__((constructor)) static void set_up(void) {
    const char *given = getenv("TRIARCH_CRASH_ROOT"), *number = getenv("TRIARCH_CRASH_AT");
    const char *tally_path = getenv("TRIARCH_CRASH_TALLY"), *name = getenv("TRIARCH_CRASH_HOW");
    tally = &own_tally;
    if (!given || !name || strlen(given) >= PATH_BYTES) return;
    static const char *const names[] = {"count", "before", "torn", "after", "cut", "cut-some"};
    bool known = false;
    for (int i = 0; i < 6; i++)
        if (!strcmp(name, names[i])) how = i, known = true;
    if (!known) give_up("TRIARCH_CRASH_HOW");
    keeps_some = how == CUT_SOME;
    at = number ? strtoull(number, NULL, 10) : 0;
    seed = getenv("TRIARCH_CRASH_SEED") ? strtoull(getenv("TRIARCH_CRASH_SEED"), NULL, 10) : 1;
    if (tally_path) {
        int file = syscall(SYS_openat, AT_FDCWD, tally_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || syscall(SYS_ftruncate, file, sizeof *tally)) give_up("the tally");
        tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (tally == MAP_FAILED) give_up("the tally");
        close(file);
    }
    strcpy(root, given);
    root_bytes = strlen(root);
    snprintf(attic, sizeof attic, "%s.attic", root);
    if (cuts() && syscall(SYS_mkdirat, AT_FDCWD, attic, 0700) && errno != EEXIST) give_up("the attic");
}

/* --- boundaries -------------------------------------------------------------------------------------------------- */

static void end(enum kind kind) {
    if (cuts()) cut_power();
    tally->ended_in = kind;
    tally->ended_at = tally->boundaries;
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this boundary is the one, after having ended here if it is to happen before it. */
static bool reach(enum kind kind) {
    tally->boundaries++;
    tally->by_kind[kind]++;
    if (how == COUNT || tally->boundaries != at) return false;
    if (how != AFTER && !(how == TORN && kind == WRITE)) end(kind);
    return true;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Does `call` as a boundary of `kind` after `prepare`, which notes what a power cut would take back. */
#define BOUNDARY(kind, prepare, call) \
    pthread_mutex_lock(&turn); \
    bool here = reach(kind); \
    if (cuts()) { prepare; } \
    __typeof__(call) result = call; \
    int error = errno; \
    if (here) end(kind); \
    pthread_mutex_unlock(&turn); \
    errno = error; \
    return result

static ssize_t write_parts(int file, const struct iovec *parts, int count, off_t offset, bool positioned) {
    pthread_mutex_lock(&turn);
    bool here = reach(WRITE);
    if (!positioned) {
        bool append = fcntl(file, F_GETFL) & O_APPEND;
        offset = append ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
    }
    if (here && how == TORN) {
        /* The first of several parts is torn, wherever the seed says. */
        size_t bytes = parts[0].iov_len ? random_number() % parts[0].iov_len : 0;
        syscall(SYS_pwrite64, file, parts[0].iov_base, bytes, offset);
        end(WRITE);
    }
    if (cuts()) note_write(file, parts, count, offset);
    ssize_t result = positioned ? syscall(SYS_pwritev, file, parts, count, offset, 0)
                                : syscall(SYS_writev, file, parts, count);
    int error = errno;
    if (here) end(WRITE);
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

ssize_t write(int file, const void *data, size_t bytes) {
    if (!ours(file)) return syscall(SYS_write, file, data, bytes);
    struct iovec part = {(void *)data, bytes};
    return write_parts(file, &part, 1, 0, false);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!ours(file)) return syscall(SYS_writev, file, parts, count);
    return write_parts(file, parts, count, 0, false);
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t offset) {
    if (!ours(file)) return syscall(SYS_pwrite64, file, data, bytes, offset);
    struct iovec part = {(void *)data, bytes};
    return write_parts(file, &part, 1, offset, true);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t offset) { return pwrite64(file, data, bytes, offset); }

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t offset) {
    if (!ours(file)) return syscall(SYS_pwritev, file, parts, count, offset, 0);
    return write_parts(file, parts, count, offset, true);
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(file, parts, count, offset);
}

int fsync(int file) {
    if (!ours_to_sync(file)) return syscall(SYS_fsync, file);
    BOUNDARY(SYNC, note_synced(file), (int)syscall(SYS_fsync, file));
}

int fdatasync(int file) {
    if (!ours(file)) return syscall(SYS_fdatasync, file);
    BOUNDARY(SYNC, note_synced(file), (int)syscall(SYS_fdatasync, file));
}

int sync_file_range(int file, off64_t offset, off64_t bytes, unsigned int flags) {
    if (!ours(file)) return syscall(SYS_sync_file_range, file, offset, bytes, flags);
    bool waits = !offset && !bytes && (flags & SYNC_FILE_RANGE_WAIT_AFTER);
    BOUNDARY(SYNC, if (waits) note_written_out(file), (int)syscall(SYS_sync_file_range, file, offset, bytes, flags));
}

int ftruncate64(int file, off64_t size) {
    if (!ours(file)) return syscall(SYS_ftruncate, file, size);
    BOUNDARY(SIZE, note_size(file, size), (int)syscall(SYS_ftruncate, file, size));
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int posix_fallocate64(int file, off64_t offset, off64_t bytes) {
    if (!ours(file)) return syscall(SYS_fallocate, file, 0, offset, bytes) ? errno : 0;
    BOUNDARY(SIZE, note_size(file, offset + bytes), syscall(SYS_fallocate, file, 0, offset, bytes) ? errno : 0);
}

int posix_fallocate(int file, off_t offset, off_t bytes) { return posix_fallocate64(file, offset, bytes); }

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    struct stat status;
    bool writes = path[0] == '/' && below_root(path) && (flags & (O_CREAT | O_TRUNC));
    if (!writes) return syscall(SYS_openat, directory, path, flags, mode);
    bool there = !stat(path, &status);
    if (there && !((flags & O_TRUNC) && status.st_size)) return syscall(SYS_openat, directory, path, flags, mode);
    if (!there && !(flags & O_CREAT)) return syscall(SYS_openat, directory, path, flags, mode);
    enum kind kind = there ? SIZE : CREATE;
    pthread_mutex_lock(&turn);
    bool here = reach(kind);
    if (cuts() && there) {
        int before = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
        if (before >= 0) note_size(before, 0), syscall(SYS_close, before);
    } else if (cuts()) {
        note_name(CREATE, path, NULL);
    }
    int result = syscall(SYS_openat, directory, path, flags, mode);
    int error = errno;
    if (here) end(kind);
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

static mode_t mode_of(int flags, va_list more) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0;
}

#define OPENS(directory) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = mode_of(flags, more); \
    va_end(more); \
    return open_at(directory, path, flags, mode)

int open(const char *path, int flags, ...) { OPENS(AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPENS(AT_FDCWD); }
int openat(int directory, const char *path, int flags, ...) { OPENS(directory); }
int openat64(int directory, const char *path, int flags, ...) { OPENS(directory); }

int mkdir(const char *path, mode_t mode) {
    struct stat status;
    if (!below_root(path) || !stat(path, &status)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    BOUNDARY(CREATE, note_name(CREATE, path, NULL), (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int rename(const char *from, const char *to) {
    if (!below_root(to)) return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    BOUNDARY(RENAME, note_name(RENAME, to, from), (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}

int unlink(const char *path) {
    if (!below_root(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    BOUNDARY(REMOVE, note_name(REMOVE, path, NULL), (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}
