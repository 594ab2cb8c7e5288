/* What a power cut takes from files: notes each change before it happens, forgets it when it is synced, and undoes what is
 * left. As unkind as POSIX allows:
 *  - what was written to a file counts once that file was synced;
 *  - what sync_file_range has waited for, within the length the file durably had, is in the cache of the device, and
 *    counts with the next sync of any file;
 *  - a name counts once its directory was synced. Names are lost from the last one backwards, as from a journal.
 * With `keeps_some`, any 512 bytes of what does not count are kept or lost, by the seed: the order in which they were
 * written means nothing to a disk. Otherwise all of it is lost.
 *
 * Not simulated: a disk that reports a sync that it has not done, or damages data next to a write. Calls come one at a
 * time. The file that includes this one defines `give_up`. */
#define PATH_BYTES 4096
#define SECTOR_BYTES 512

enum kind { WRITE, SYNC, SIZE, CREATE, RENAME, REMOVE };

/* What a power cut would take back. */
struct change {
    enum kind kind;
    uint64_t number;
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

/* Only files below the root are watched. The attic next to the root keeps files that a power cut may have to restore. */
static char root[PATH_BYTES], attic[PATH_BYTES + 16];
static size_t root_bytes;
static uint64_t seed;
static bool keeps_some;
static struct change *changes;
static size_t changes_count, changes_room;
/* A sync counts for what was noted before it began. */
static uint64_t changes_noted, counts_until = UINT64_MAX;

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
    change->number = changes_noted++;
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
        same = same || (change->device == device && change->in_device_cache);
        if (same && change->number < counts_until)
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
    names_kept = keeps_some ? random_number() % (names + 1) : 0;
    for (size_t i = changes_count; i-- > 0;) {
        if (on_file(&changes[i]))
            undo_data(&changes[i]);
        else if (names-- > names_kept)
            undo_name(&changes[i]);
    }
    if (keeps_some)
        for (size_t i = 0; i < changes_count; i++)
            if (on_file(&changes[i])) redo_some(&changes[i]);
}
