/* The disk. Files are real ones, below the directory of this node. A sync takes simulated time and can fail; the power can
 * go off at any step, and takes what was not synced. */
#include "kernel.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include "power_cut.h"

uint64_t disk_state, free_bytes = (uint64_t)5 << 30, sync_min_ns = 100 * MICROSECOND, sync_max_ns = 400 * MICROSECOND;
uint64_t sync_failures, end_after_steps;
bool end_loses_unsynced;
static bool lies; /* Says that it is synced, and has done nothing. */

void begin_disk(void) {
    const char *given = getenv("TRIARCH_SIM_DISK");
    if (!given || strlen(given) >= PATH_BYTES) give_up("TRIARCH_SIM_DISK");
    lies = getenv("TRIARCH_SIM_LYING_DISK");
    strcpy(root, given);
    root_bytes = strlen(root);
    snprintf(attic, sizeof attic, "%s.attic", root);
    if (raw(SYS_mkdirat, AT_FDCWD, attic, 0700) == -EACCES) give_up("the attic");
}

void power_off(uint64_t chosen_seed, bool loses_all) {
    seed = chosen_seed;
    keeps_some = !loses_all;
    cut_power();
    for (;;) raw(SYS_exit_group, 69);
}

/* One step of the disk, which may be the last one. */
static void step(void) {
    if (!end_after_steps || --end_after_steps) return;
    if (end_loses_unsynced) power_off(draw(&disk_state), false);
    for (;;) raw(SYS_exit_group, 69);
}

static bool watched(int file) { return simulated && !object_of(file) && ours(file); }

bool disk_write(int file, const void *given, int count, int64_t offset, bool positioned, ssize_t *result) {
    const struct iovec *parts = given;
    if (!watched(file)) return false;
    step();
    if (!positioned) {
        bool at_end = raw(SYS_fcntl, file, F_GETFL) & O_APPEND;
        offset = raw(SYS_lseek, file, 0, at_end ? SEEK_END : SEEK_CUR);
    }
    note_write(file, parts, count, offset);
    *result = checked(positioned ? raw(SYS_pwritev, file, parts, count, offset, 0) : raw(SYS_writev, file, parts, count));
    return true;
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t offset) {
    enter_and_let_others();
    struct iovec part = {(void *)data, bytes};
    ssize_t result;
    if (disk_write(file, &part, 1, offset, true, &result)) return result;
    return checked(raw(SYS_pwrite64, file, data, bytes, offset));
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t offset) { return pwrite64(file, data, bytes, offset); }

/* Only what was written before the sync began is on the disk when it ends. */
static int synced(int file) {
    if (!simulated) return 0;
    step();
    ns takes = sync_min_ns + (sync_max_ns > sync_min_ns ? draw(&disk_state) % (sync_max_ns - sync_min_ns) : 0);
    uint64_t until = changes_noted;
    wait_on(ON_TIME, NULL, 1, now + takes);
    if (sync_failures) {
        sync_failures--;
        return errno = EIO, -1;
    }
    if (lies) return 0;
    counts_until = until;
    note_synced(file);
    counts_until = UINT64_MAX;
    return 0;
}

int fsync(int file) {
    enter_and_let_others();
    return ours_to_sync(file) ? synced(file) : 0;
}

int fdatasync(int file) {
    enter_and_let_others();
    return ours(file) ? synced(file) : 0;
}

int sync_file_range(int file, off64_t offset, off64_t bytes, unsigned flags) {
    enter();
    bool waits = !offset && !bytes && (flags & SYNC_FILE_RANGE_WAIT_AFTER);
    if (!watched(file)) return 0;
    step();
    if (waits) note_written_out(file);
    return 0;
}

int ftruncate64(int file, off64_t size) {
    enter();
    if (watched(file)) step(), note_size(file, size);
    return (int)checked(raw(SYS_ftruncate, file, size));
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

static int allocate(int file, int how, off64_t offset, off64_t bytes) {
    enter();
    if (watched(file)) {
        step();
        if ((uint64_t)bytes > free_bytes) return errno = ENOSPC, -1;
        note_size(file, offset + bytes);
    }
    return (int)checked(raw(SYS_fallocate, file, how, offset, bytes));
}

int fallocate(int file, int how, off_t offset, off_t bytes) { return allocate(file, how, offset, bytes); }
int fallocate64(int file, int how, off64_t offset, off64_t bytes) { return allocate(file, how, offset, bytes); }
int posix_fallocate(int file, off_t offset, off_t bytes) { return allocate(file, 0, offset, bytes) ? errno : 0; }
int posix_fallocate64(int file, off64_t offset, off64_t bytes) { return allocate(file, 0, offset, bytes) ? errno : 0; }

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    struct stat status;
    enter();
    if (simulated && path[0] == '/' && below_root(path) && (flags & (O_CREAT | O_TRUNC))) {
        bool there = !stat(path, &status);
        if (there && (flags & O_TRUNC) && status.st_size) {
            step();
            int before = (int)raw(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
            if (before >= 0) note_size(before, 0), raw(SYS_close, before);
        } else if (!there && (flags & O_CREAT)) {
            step();
            note_name(CREATE, path, NULL);
        }
    }
    return (int)checked(raw(SYS_openat, directory, path, flags, mode));
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
    enter();
    if (simulated && below_root(path) && stat(path, &status)) step(), note_name(CREATE, path, NULL);
    return (int)checked(raw(SYS_mkdirat, AT_FDCWD, path, mode));
}

int rename(const char *from, const char *to) {
    enter();
    if (simulated && below_root(to)) step(), note_name(RENAME, to, from);
    return (int)checked(raw(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}

int unlink(const char *path) {
    enter();
    if (simulated && below_root(path)) step(), note_name(REMOVE, path, NULL);
    return (int)checked(raw(SYS_unlinkat, AT_FDCWD, path, 0));
}

/* Every node has a disk of its own, however large the one below is. */
int statvfs(const char *path, struct statvfs *status) {
    (void)path;
    memset(status, 0, sizeof *status);
    status->f_bsize = status->f_frsize = 4096;
    status->f_blocks = ((uint64_t)10 << 30) / 4096;
    status->f_bfree = status->f_bavail = free_bytes / 4096;
    return 0;
}

int statvfs64(const char *path, struct statvfs64 *status) { return statvfs(path, (struct statvfs *)status); }
