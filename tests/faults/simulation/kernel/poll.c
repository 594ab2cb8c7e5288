/* Simulated file descriptors, and waiting for them. Each occupies a real descriptor on /dev/null, so that the system does
 * not give its number to another file. Readiness is reported on edges, because the program always requests EPOLLET. */
#include "kernel.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

enum { FILES_MAX = 65536 };

struct interest {
    struct object *poller, *of;
    int file;
    uint32_t events;
    uint64_t data;
    bool fresh;
    struct interest *next_of_poller, *next_of_object;
};

static struct object *files[FILES_MAX];

struct object *object_of(int file) { return file >= 0 && file < FILES_MAX ? files[file] : NULL; }

struct object *object_new(enum object_kind kind) {
    struct object *object = calloc(1, sizeof *object);
    if (!object) give_up("memory for a file");
    object->kind = kind;
    return object;
}

static int name_object(struct object *object, int file) {
    if (file < 0 || file >= FILES_MAX) give_up("no file descriptors left");
    files[file] = object;
    object->references++;
    return file;
}

int object_file(struct object *object) {
    return name_object(object, (int)raw(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0));
}

static void drop_interest(struct interest *interest) {
    for (struct interest **at = &interest->poller->interests; *at; at = &(*at)->next_of_poller)
        if (*at == interest) {
            *at = interest->next_of_poller;
            break;
        }
    for (struct interest **at = &interest->of->interests; *at; at = &(*at)->next_of_object)
        if (*at == interest) {
            *at = interest->next_of_object;
            break;
        }
    free(interest);
}

bool object_close(int file) {
    struct object *object = object_of(file);
    if (!object) return false;
    files[file] = NULL;
    if (--object->references) return true;
    while (object->interests) drop_interest(object->interests);
    if (object->kind == LISTENER || object->kind == STREAM) stream_closed(object);
    free(object->received);
    free(object);
    return true;
}

uint32_t readiness(const struct object *object) {
    switch (object->kind) {
    case POLLER:
    case DUMB: return 0;
    case COUNTER: return EPOLLOUT | (object->count ? EPOLLIN : 0);
    case LISTENER:
    case STREAM: return stream_readiness(object);
    }
    give_up("a kind of file that is not known");
}

void readiness_changed(struct object *object) {
    for (struct interest *interest = object->interests; interest; interest = interest->next_of_object) {
        interest->fresh = true;
        wake(ON_POLLER, interest->poller, 1, 1);
    }
}

int epoll_create1(int flags) {
    (void)flags;
    enter();
    return object_file(object_new(POLLER));
}

int epoll_ctl(int poller_file, int operation, int file, struct epoll_event *event) {
    enter();
    struct object *poller = object_of(poller_file), *object = object_of(file);
    if (!poller || poller->kind != POLLER) return errno = EINVAL, -1;
    /* A real file, such as the pipe behind signals: nothing ever comes of it here. */
    if (!object) object = object_new(DUMB), name_object(object, file);
    struct interest *interest = object->interests;
    while (interest && interest->poller != poller) interest = interest->next_of_object;
    if (operation == EPOLL_CTL_DEL) {
        if (!interest) return errno = ENOENT, -1;
        drop_interest(interest);
        return 0;
    }
    if (operation == EPOLL_CTL_ADD) {
        if (interest) return errno = EEXIST, -1;
        interest = calloc(1, sizeof *interest);
        if (!interest) give_up("memory for an interest");
        *interest = (struct interest){.poller = poller, .of = object, .file = file, .next_of_object = object->interests};
        object->interests = interest;
        struct interest **end = &poller->interests;
        while (*end) end = &(*end)->next_of_poller;
        *end = interest;
    }
    if (!interest) return errno = ENOENT, -1;
    interest->events = event->events;
    interest->data = event->data.u64;
    interest->fresh = true;
    if (readiness(object)) wake(ON_POLLER, poller, 1, 1);
    return 0;
}

static int collect(struct object *poller, struct epoll_event *events, int most) {
    int found = 0;
    for (struct interest *interest = poller->interests; interest && found < most; interest = interest->next_of_poller) {
        if (!interest->fresh) continue;
        uint32_t ready = readiness(interest->of) & (interest->events | EPOLLERR | EPOLLHUP);
        if (!ready) continue;
        interest->fresh = !(interest->events & EPOLLET);
        events[found++] = (struct epoll_event){.events = ready, .data.u64 = interest->data};
    }
    return found;
}

int epoll_wait(int poller_file, struct epoll_event *events, int most, int timeout_ms) {
    enter_and_let_others();
    struct object *poller = object_of(poller_file);
    if (!poller || poller->kind != POLLER) return errno = EBADF, -1;
    ns until = timeout_ms < 0 ? FOREVER : now + (ns)timeout_ms * MILLISECOND;
    for (;;) {
        int found = collect(poller, events, most);
        if (found || timeout_ms == 0) return found;
        if (!wait_on(ON_POLLER, poller, 1, until)) return collect(poller, events, most);
    }
}

int eventfd(unsigned count, int flags) {
    (void)flags;
    enter();
    struct object *object = object_new(COUNTER);
    object->count = count;
    return object_file(object);
}

static ssize_t counter_read(struct object *object, void *data, size_t bytes) {
    if (bytes < 8) return errno = EINVAL, -1;
    if (!object->count) return errno = EAGAIN, -1;
    memcpy(data, &object->count, 8);
    object->count = 0;
    return 8;
}

static ssize_t counter_write(struct object *object, const void *data) {
    uint64_t more;
    memcpy(&more, data, 8);
    object->count += more;
    readiness_changed(object);
    return 8;
}

ssize_t read(int file, void *data, size_t bytes) {
    enter();
    struct object *object = object_of(file);
    if (object && object->kind == STREAM) return stream_read(object, data, bytes, false);
    if (object && object->kind == COUNTER) return counter_read(object, data, bytes);
    return checked(raw(SYS_read, file, data, bytes));
}

ssize_t write(int file, const void *data, size_t bytes) {
    enter();
    struct object *object = object_of(file);
    if (object && object->kind == STREAM) return stream_write(object, data, bytes);
    if (object && object->kind == COUNTER) return counter_write(object, data);
    struct iovec part = {(void *)data, bytes};
    ssize_t result;
    if (disk_write(file, &part, 1, 0, false, &result)) return result;
    return checked(raw(SYS_write, file, data, bytes));
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    enter_and_let_others();
    struct object *object = object_of(file);
    if (object && object->kind == STREAM) {
        ssize_t sum = 0;
        for (int i = 0; i < count; i++) {
            ssize_t written = parts[i].iov_len ? stream_write(object, parts[i].iov_base, parts[i].iov_len) : 0;
            if (written < 0) return sum ? sum : -1;
            sum += written;
        }
        return sum;
    }
    ssize_t result;
    if (disk_write(file, parts, count, 0, false, &result)) return result;
    return checked(raw(SYS_writev, file, parts, count));
}

int close(int file) {
    enter();
    object_close(file);
    return (int)checked(raw(SYS_close, file));
}

int fcntl(int file, int command, ...) {
    va_list more;
    va_start(more, command);
    long argument = va_arg(more, long);
    va_end(more);
    struct object *object = object_of(file);
    if (object && command == F_GETFL) return O_RDWR | O_NONBLOCK;
    if (object && command == F_SETFL) return 0;
    int result = (int)checked(raw(SYS_fcntl, file, command, argument));
    if (object && result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) name_object(object, result);
    return result;
}

int fcntl64(int file, int command, ...) {
    va_list more;
    va_start(more, command);
    long argument = va_arg(more, long);
    va_end(more);
    return fcntl(file, command, argument);
}

int ioctl(int file, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    struct object *object = object_of(file);
    if (!object) return (int)checked(raw(SYS_ioctl, file, request, argument));
    if (request == FIONREAD) *(int *)argument = (int)(object->received_to - object->received_from);
    return 0;
}
