/* TCP over IPv4, as a program sees it: connections that are made, refused, ended and broken, and bytes in order. The
 * simulator decides what happens between two processes. Not simulated: a full send buffer; every write is accepted. */
#include "kernel.h"
#include <arpa/inet.h>
#include <netinet/in.h>

enum { SOCKETS_MAX = 65536 };

/* All connections that have a number, in the order they were made. */
static struct object *connections[SOCKETS_MAX];
static int connections_count;
static struct object *listeners[64];
static int listeners_count;
static uint64_t connections_made;
static uint16_t port_used = 32768;

static uint32_t own_address(void) { return 0x0A000000u + (uint32_t)(node & 0xFFFF); }

static struct object *by_number(uint64_t connection) {
    for (int i = connections_count; i-- > 0;)
        if (connections[i]->connection == connection) return connections[i];
    return NULL;
}

static void remember(struct object *object) {
    if (connections_count == SOCKETS_MAX) give_up("too many connections");
    connections[connections_count++] = object;
}

static void forget(struct object *object) {
    for (int i = 0; i < connections_count; i++)
        if (connections[i] == object) {
            memmove(&connections[i], &connections[i + 1], sizeof(void *) * (size_t)(connections_count - i - 1));
            connections_count--;
            return;
        }
}

uint32_t stream_readiness(const struct object *object) {
    if (object->kind == LISTENER) return object->waiting ? EPOLLIN : 0;
    if (object->failure) return EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDHUP;
    if (object->connecting) return 0;
    if (!object->connected) return EPOLLOUT | EPOLLHUP;
    uint32_t ready = EPOLLOUT;
    if (object->received_to > object->received_from || object->ended) ready |= EPOLLIN;
    if (object->ended) ready |= EPOLLRDHUP;
    if (object->ended && object->shut) ready |= EPOLLHUP;
    return ready;
}

static void take(struct object *object, const uint8_t *data, size_t bytes) {
    if (object->received_from == object->received_to) object->received_from = object->received_to = 0;
    if (object->received_to + bytes > object->received_room) {
        object->received_room = 2 * (object->received_to + bytes) + 1024;
        object->received = realloc(object->received, object->received_room);
        if (!object->received) give_up("memory for what arrives");
    }
    memcpy(object->received + object->received_to, data, bytes);
    object->received_to += bytes;
}

static void arrive(uint64_t connection, const uint8_t *data) {
    uint16_t port, peer_port;
    uint32_t peer;
    memcpy(&port, data, 2), memcpy(&peer, data + 2, 4), memcpy(&peer_port, data + 6, 2);
    struct object *listener = NULL;
    for (int i = 0; i < listeners_count; i++)
        if (listeners[i]->own_port == port) listener = listeners[i];
    if (!listener) {
        say(CLOSE, connection, NULL, 0);
        return;
    }
    struct object *object = object_new(STREAM);
    object->connected = true;
    object->connection = connection;
    object->own_address = own_address(), object->own_port = port;
    object->peer_address = peer, object->peer_port = peer_port;
    remember(object);
    struct object **end = &listener->waiting;
    while (*end) end = &(*end)->next;
    *end = object;
    readiness_changed(listener);
}

void network_event(uint8_t kind, uint64_t connection, const uint8_t *data, uint32_t bytes) {
    if (kind == INCOMING) {
        arrive(connection, data);
        return;
    }
    struct object *object = by_number(connection);
    if (!object || object->failure) return;
    switch (kind) {
    case CONNECTED: object->connecting = false, object->connected = true; break;
    case FAILED: {
        uint32_t why;
        memcpy(&why, data, 4);
        object->connecting = false;
        object->failure = object->error = (int)why;
        break;
    }
    case ARRIVED: take(object, data, bytes); break;
    case ENDED: object->ended = true; break;
    default: give_up("a network event that is not known");
    }
    readiness_changed(object);
}

void stream_closed(struct object *object) {
    if (object->kind == LISTENER) {
        uint64_t port = object->own_port;
        say(UNLISTEN, port, NULL, 0);
        for (int i = 0; i < listeners_count; i++)
            if (listeners[i] == object) listeners[i] = listeners[--listeners_count];
        return;
    }
    if (!object->connection) return;
    forget(object);
    if (!object->failure) say(CLOSE, object->connection, NULL, 0);
}

int socket(int family, int type, int protocol) {
    enter();
    if (family != AF_INET || (type & 0xF) != SOCK_STREAM) {
        if (family == AF_INET6) return errno = EAFNOSUPPORT, -1;
        return (int)checked(raw(SYS_socket, family, type, protocol));
    }
    return object_file(object_new(STREAM));
}

static struct object *socket_of(int file) {
    struct object *object = object_of(file);
    if (!object) return errno = EBADF, NULL;
    if (object->kind != STREAM && object->kind != LISTENER) return errno = ENOTSOCK, NULL;
    return object;
}

int bind(int file, const struct sockaddr *address, socklen_t bytes) {
    enter();
    struct object *object = socket_of(file);
    if (!object) return -1;
    const struct sockaddr_in *wanted = (const struct sockaddr_in *)address;
    if (bytes < sizeof *wanted || wanted->sin_family != AF_INET) return errno = EINVAL, -1;
    object->own_address = ntohl(wanted->sin_addr.s_addr);
    if (!object->own_address) object->own_address = own_address();
    object->own_port = ntohs(wanted->sin_port);
    object->bound = true;
    return 0;
}

int listen(int file, int most) {
    (void)most;
    enter();
    struct object *object = socket_of(file);
    if (!object) return -1;
    if (listeners_count == 64) give_up("too many listeners");
    object->kind = LISTENER;
    listeners[listeners_count++] = object;
    say(LISTEN, object->own_port, NULL, 0);
    return 0;
}

static void fill(struct sockaddr *address, socklen_t *bytes, uint32_t host, uint16_t port) {
    if (!address || !bytes) return;
    struct sockaddr_in full = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(host)};
    memcpy(address, &full, *bytes < sizeof full ? *bytes : sizeof full);
    *bytes = sizeof full;
}

int accept4(int file, struct sockaddr *address, socklen_t *bytes, int flags) {
    (void)flags;
    enter();
    struct object *listener = socket_of(file);
    if (!listener) return -1;
    struct object *object = listener->waiting;
    if (!object) return errno = EAGAIN, -1;
    listener->waiting = object->next;
    fill(address, bytes, object->peer_address, object->peer_port);
    return object_file(object);
}

int connect(int file, const struct sockaddr *address, socklen_t bytes) {
    enter();
    struct object *object = socket_of(file);
    if (!object) return -1;
    const struct sockaddr_in *wanted = (const struct sockaddr_in *)address;
    if (bytes < sizeof *wanted || wanted->sin_family != AF_INET) return errno = EAFNOSUPPORT, -1;
    object->own_address = own_address();
    object->own_port = ++port_used;
    object->peer_address = ntohl(wanted->sin_addr.s_addr);
    object->peer_port = ntohs(wanted->sin_port);
    object->connecting = true;
    /* Unique over all processes and their lives: the node's number has its life in it. */
    object->connection = node << 32 | ++connections_made;
    remember(object);
    uint8_t where[8];
    memcpy(where, &object->peer_address, 4);
    memcpy(where + 4, &object->peer_port, 2);
    memcpy(where + 6, &object->own_port, 2);
    say(CONNECT, object->connection, where, sizeof where);
    return errno = EINPROGRESS, -1;
}

ssize_t stream_read(struct object *object, void *data, size_t bytes, bool peek) {
    size_t there = object->received_to - object->received_from;
    if (object->failure) {
        if (!object->error) return 0;
        errno = object->error;
        object->error = 0;
        return -1;
    }
    if (!there) return object->ended ? 0 : (errno = object->connected ? EAGAIN : ENOTCONN, -1);
    if (bytes > there) bytes = there;
    memcpy(data, object->received + object->received_from, bytes);
    if (!peek) object->received_from += bytes;
    return (ssize_t)bytes;
}

ssize_t stream_write(struct object *object, const void *data, size_t bytes) {
    if (object->failure || object->shut) return errno = object->error ? object->error : EPIPE, -1;
    if (object->connecting) return errno = EAGAIN, -1;
    if (!object->connected) return errno = ENOTCONN, -1;
    say(DATA, object->connection, data, (uint32_t)bytes);
    return (ssize_t)bytes;
}

ssize_t recv(int file, void *data, size_t bytes, int flags) {
    enter_and_let_others();
    struct object *object = socket_of(file);
    if (!object) return checked(raw(SYS_recvfrom, file, data, bytes, flags, NULL, NULL));
    return stream_read(object, data, bytes, flags & MSG_PEEK);
}

ssize_t recvmsg(int file, struct msghdr *message, int flags) {
    struct object *object = object_of(file);
    if (!object || object->kind != STREAM) return checked(raw(SYS_recvmsg, file, message, flags));
    enter();
    message->msg_controllen = 0, message->msg_flags = 0;
    return stream_read(object, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len, flags & MSG_PEEK);
}

ssize_t send(int file, const void *data, size_t bytes, int flags) {
    enter_and_let_others();
    struct object *object = socket_of(file);
    if (!object) return checked(raw(SYS_sendto, file, data, bytes, flags, NULL, 0));
    return stream_write(object, data, bytes);
}

ssize_t sendmsg(int file, const struct msghdr *message, int flags) {
    (void)flags;
    ssize_t writev(int, const struct iovec *, int);
    return writev(file, message->msg_iov, (int)message->msg_iovlen);
}

int shutdown(int file, int how) {
    enter();
    struct object *object = socket_of(file);
    if (!object) return -1;
    if (!object->connected || object->failure) return errno = ENOTCONN, -1;
    if (how != SHUT_RD && !object->shut) {
        object->shut = true;
        say(FIN, object->connection, NULL, 0);
    }
    return 0;
}

int getsockopt(int file, int level, int option, void *value, socklen_t *bytes) {
    struct object *object = object_of(file);
    if (!object || object->kind == DUMB) return (int)checked(raw(SYS_getsockopt, file, level, option, value, bytes));
    int found = 0;
    if (level == SOL_SOCKET && option == SO_ERROR) found = object->error, object->error = 0;
    if (level == SOL_SOCKET && option == SO_TYPE) found = SOCK_STREAM;
    memset(value, 0, *bytes);
    memcpy(value, &found, *bytes < sizeof found ? *bytes : sizeof found);
    return 0;
}

int setsockopt(int file, int level, int option, const void *value, socklen_t bytes) {
    if (object_of(file)) return 0;
    return (int)checked(raw(SYS_setsockopt, file, level, option, value, bytes));
}

int getsockname(int file, struct sockaddr *address, socklen_t *bytes) {
    struct object *object = socket_of(file);
    if (!object) return (int)checked(raw(SYS_getsockname, file, address, bytes));
    fill(address, bytes, object->own_address, object->own_port);
    return 0;
}

int getpeername(int file, struct sockaddr *address, socklen_t *bytes) {
    struct object *object = socket_of(file);
    if (!object) return (int)checked(raw(SYS_getpeername, file, address, bytes));
    if (!object->connected) return errno = ENOTCONN, -1;
    fill(address, bytes, object->peer_address, object->peer_port);
    return 0;
}
