/* Ends a process at the n-th thing it does to its disk, and can take back what was not synced: a kill, or a power cut, at
 * a chosen instant. Loaded with LD_PRELOAD; set up by the environment, see `set_up`. Linux, glibc, 64 bits.
 *
 * What counts as a boundary, below the root alone and over all threads: writing, syncing, truncating, allocating,
 * creating, renaming, removing. All of them are done under one lock, so the n-th of them is the last that happened.
 *
 * A power cut (CUT, CUT_SOME) is played by undoing, and is as unkind as POSIX allows:
 *  - what was written to a file counts once that file was synced;
 *  - what sync_file_range has waited for, within the length the file durably had, is in the cache of the device, and
 *    counts with the next sync of any file;
 *  - a name counts once its directory was synced. Names are lost from the last one backwards, as from a journal.
 * CUT loses all that does not count. CUT_SOME keeps any 512 bytes of it or loses them, by the seed: the order in which
 * they were written means nothing to a disk.
 *
 * Not played: a disk that lies about a sync, or spoils what is beside what it writes. */
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

#define PATH_BYTES 4096
#define SECTOR_BYTES 512

enum how { COUNT, BEFORE, TORN, AFTER, CUT, CUT_SOME };
enum kind { WRITE, SYNC, SIZE, CREATE, RENAME, REMOVE };

/* Shared with the test by a file; survives the end of this process. */
struct tally {
    uint64_t boundaries;
    uint64_t by_kind[6];
    uint64_t ended_at;
    uint64_t ended_in;
};

/* What a power cut would take back. */
struct change {
    enum kind kind;
    bool in_device_cache;
    /* The file, or the directory of the name. */
    dev_t device;
    ino_t inode;
    /* WRITE, SIZE */
    int file;
    off_t offset, size_before, size_after;
    size_t old_bytes, new_bytes;
    char *old_data, *new_data;
    /* CREATE, RENAME, REMOVE */
    char *path, *from, *kept;
};

static char root[PATH_BYTES], attic[PATH_BYTES + 16];
static size_t root_bytes;
static uint64_t at, seed;
static enum how how;
static struct tally *tally, own_tally;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct change *changes;
static size_t changes_count, changes_room;

static void give_up(const char *what) {
    dprintf(2, "the crash shim cannot go on: %s: %s\n", what, strerror(errno));
    _exit(70);
}

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

static bool below_root(const char *path) {
    return root_bytes && !strncmp(path, root, root_bytes) && (path[root_bytes] == '/' || !path[root_bytes]);
}

static bool path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_BYTES - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static bool ours(int file) {
    char path[PATH_BYTES];
    return root_bytes && path_of(file, path) && below_root(path);
}

/* The root itself has its name in the directory above it. */
static bool ours_to_sync(int file) {
    char path[PATH_BYTES];
    if (!root_bytes || !path_of(file, path)) return false;
    size_t bytes = strlen(path);
    bool above = !strncmp(path, root, bytes) && root[bytes] == '/' && !strchr(root + bytes + 1, '/');
    return above || below_root(path);
}

/* --- a power cut ------------------------------------------------------------------------------------------------- */

static uint64_t random_number(void) {
    uint64_t mixed = seed += 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return mixed ^ (mixed >> 31);
}

static struct change *note(enum kind kind) {
    if (changes_count == changes_room) {
        changes_room = changes_room ? 2 * changes_room : 256;
        changes = realloc(changes, changes_room * sizeof *changes);
        if (!changes) give_up("memory");
    }
    struct change *change = &changes[changes_count++];
    memset(change, 0, sizeof *change);
    change->kind = kind;
    change->file = -1;
    return change;
}

static void forget(struct change *change) {
    free(change->old_data), free(change->new_data), free(change->path), free(change->from);
    if (change->kept) syscall(SYS_unlinkat, AT_FDCWD, change->kept, 0), free(change->kept);
    if (change->file >= 0) syscall(SYS_close, change->file);
}

/* Notes that a file is about to change from `offset` on, by writing or by cutting it. */
static struct change *note_data(enum kind kind, int file, off_t offset, size_t old_bytes) {
    struct stat status;
    if (fstat(file, &status)) give_up("fstat");
    struct change *change = note(kind);
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    change->device = status.st_dev, change->inode = status.st_ino;
    change->file = syscall(SYS_openat, AT_FDCWD, link, O_RDWR | O_CLOEXEC, 0);
    if (change->file < 0) give_up("a file of its own");
    change->offset = offset;
    change->size_before = change->size_after = status.st_size;
    if (offset < status.st_size) {
        size_t there = status.st_size - offset;
        change->old_bytes = old_bytes < there ? old_bytes : there;
        change->old_data = malloc(change->old_bytes + 1);
        if (pread(change->file, change->old_data, change->old_bytes, offset) != (ssize_t)change->old_bytes)
            give_up("what was there before");
    }
    return change;
}

static void note_write(int file, const struct iovec *parts, int count, off_t offset) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    struct change *change = note_data(WRITE, file, offset, bytes);
    change->new_data = malloc(bytes + 1);
    for (int i = 0; i < count; i++) {
        memcpy(change->new_data + change->new_bytes, parts[i].iov_base, parts[i].iov_len);
        change->new_bytes += parts[i].iov_len;
    }
    if (offset + (off_t)bytes > change->size_after) change->size_after = offset + bytes;
}

static void note_size(int file, off_t size) {
    note_data(SIZE, file, size, SIZE_MAX)->size_after = size;
}

static void note_name(enum kind kind, const char *path, const char *from) {
    static unsigned kept_count;
    char directory[PATH_BYTES];
    struct stat status;
    snprintf(directory, sizeof directory, "%s", path);
    *strrchr(directory, '/') = 0;
    if (stat(directory, &status)) return; /* It will fail. */
    struct change *change = note(kind);
    change->device = status.st_dev, change->inode = status.st_ino;
    change->path = strdup(path);
    change->from = from ? strdup(from) : NULL;
    if (kind != CREATE) {
        char kept[PATH_BYTES + 64];
        snprintf(kept, sizeof kept, "%s/%d-%u", attic, getpid(), kept_count++);
        if (!syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0)) change->kept = strdup(kept);
    }
}

static bool on_file(const struct change *change) { return change->kind == WRITE || change->kind == SIZE; }

static void drop_changes(dev_t device, ino_t inode, bool directory) {
    size_t left = 0;
    for (size_t i = 0; i < changes_count; i++) {
        struct change *change = &changes[i];
        bool same = change->device == device && change->inode == inode && on_file(change) != directory;
        if (same || (change->device == device && change->in_device_cache))
            forget(change);
        else
            changes[left++] = *change;
    }
    changes_count = left;
}

static void note_synced(int file) {
    struct stat status;
    if (fstat(file, &status)) give_up("fstat");
    drop_changes(status.st_dev, status.st_ino, S_ISDIR(status.st_mode));
}

/* sync_file_range writes no metadata: what lies past the length that the file durably has is not to be found again. */
static void note_written_out(int file) {
    struct stat status;
    if (fstat(file, &status)) give_up("fstat");
    off_t durable = status.st_size;
    for (size_t i = changes_count; i-- > 0;) {
        struct change *change = &changes[i];
        if (on_file(change) && change->device == status.st_dev && change->inode == status.st_ino &&
            change->size_before < durable)
            durable = change->size_before;
    }
    for (size_t i = 0; i < changes_count; i++) {
        struct change *change = &changes[i];
        if (change->kind == WRITE && change->device == status.st_dev && change->inode == status.st_ino &&
            change->offset + (off_t)change->new_bytes <= durable)
            change->in_device_cache = true;
    }
}

static void undo_data(const struct change *change) {
    syscall(SYS_pwrite64, change->file, change->old_data, change->old_bytes, change->offset);
    syscall(SYS_ftruncate, change->file, change->size_before);
}

static void redo_some(const struct change *change) {
    if (change->kind == SIZE) {
        if (random_number() & 1) syscall(SYS_ftruncate, change->file, change->size_after);
        return;
    }
    for (size_t done = 0; done < change->new_bytes;) {
        off_t from = change->offset + done;
        size_t bytes = SECTOR_BYTES - from % SECTOR_BYTES;
        if (bytes > change->new_bytes - done) bytes = change->new_bytes - done;
        if (random_number() & 1) syscall(SYS_pwrite64, change->file, change->new_data + done, bytes, from);
        done += bytes;
    }
}

static void undo_name(const struct change *change) {
    static unsigned lost_count;
    char lost[PATH_BYTES + 64];
    snprintf(lost, sizeof lost, "%s/lost-%d-%u", attic, getpid(), lost_count++);
    if (change->kind == CREATE) syscall(SYS_renameat, AT_FDCWD, change->path, AT_FDCWD, lost);
    if (change->kind == RENAME) syscall(SYS_renameat, AT_FDCWD, change->path, AT_FDCWD, change->from);
    if (change->kept) syscall(SYS_renameat, AT_FDCWD, change->kept, AT_FDCWD, change->path);
}

static void cut_power(void) {
    size_t names_kept = 0;
    for (size_t i = 0; i < changes_count; i++) names_kept += !on_file(&changes[i]);
    size_t names = names_kept;
    names_kept = how == CUT_SOME ? random_number() % (names + 1) : 0;
    for (size_t i = changes_count; i-- > 0;) {
        if (on_file(&changes[i]))
            undo_data(&changes[i]);
        else if (names-- > names_kept)
            undo_name(&changes[i]);
    }
    if (how == CUT_SOME)
        for (size_t i = 0; i < changes_count; i++)
            if (on_file(&changes[i])) redo_some(&changes[i]);
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
