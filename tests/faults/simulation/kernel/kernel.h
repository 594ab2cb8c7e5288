/* A small operating system for one process of a simulated cluster. Loaded with LD_PRELOAD, it stands between the unchanged
 * program and the real system, and takes over everything that could make two runs differ: the choice of the running
 * thread, the time, randomness, and the network. Linux, glibc, 64 bits.
 *
 *  - threads.c  one thread of the process runs at a time; each call into this library may choose another, by the seed.
 *  - clock.c    time passes when every thread waits, and a little with each call.
 *  - poll.c     epoll, eventfd, and which file descriptors are simulated.
 *  - sockets.c  TCP over IPv4; bytes go to the simulator, which owns the network.
 *  - disk.c     files are real; syncs take time and can fail, and a power cut takes back what was not synced.
 *  - link.c     turns: the simulator sends the events and the end of the turn, and the process sends its actions.
 *
 * The running thread holds the baton, so nothing here needs a lock. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint64_t ns;
#define FOREVER UINT64_MAX
#define MICROSECOND 1000u
#define MILLISECOND 1000000u
#define SECOND 1000000000u

/* --- threads.c */
enum waits_on { ON_NOTHING, ON_FUTEX, ON_POLLER, ON_TIME, ON_THREAD };

struct ending {
    void (*run)(void *);
    void *argument;
    struct ending *next;
};

struct thread {
    uint32_t baton;
    enum { RUNS, READY, WAITS, GONE } state;
    enum waits_on on;
    const void *what;
    uint32_t bits;
    ns until;
    bool timed_out;
    pthread_t handle;
    long number; /* As the real system counts. */
    void *(*routine)(void *);
    void *argument;
    struct ending *endings;
    struct thread *next;
};

extern bool simulated; /* False until the first turn has come. */
extern struct thread *threads;
/* Enters the kernel: a little time passes. */
void enter(void);
/* The same, and now and then another thread goes first. */
void enter_and_let_others(void);
/* Gives the baton away until woken (true) or `until` (false). */
bool wait_on(enum waits_on on, const void *what, uint32_t bits, ns until);
int wake(enum waits_on on, const void *what, uint32_t bits, int most);
void wake_those_due(void);
ns earliest_deadline(void);
void begin_threads(void);
extern uint32_t preemption_per_mille;

/* --- clock.c */
extern ns now;
extern int64_t wall_offset_ns;
ns deadline_of(const void *timespec, bool absolute, bool wall);
uint64_t draw(uint64_t *state);
extern uint64_t schedule_state, entropy_state, disk_state;

/* --- poll.c */
enum object_kind { POLLER, COUNTER, LISTENER, STREAM, DUMB };
struct interest;

struct object {
    enum object_kind kind;
    int references;
    struct interest *interests; /* Who looks at it; of a poller: what it looks at. */
    uint64_t count;             /* COUNTER */
    /* LISTENER, STREAM */
    uint32_t own_address, peer_address;
    uint16_t own_port, peer_port;
    uint64_t connection;
    struct object *waiting, *next; /* Connections that nobody has accepted yet. */
    bool bound, connecting, connected, ended, shut;
    int error, failure;
    uint8_t *received;
    size_t received_from, received_to, received_room;
};

struct object *object_of(int file);
struct object *object_new(enum object_kind kind);
int object_file(struct object *object);
bool object_close(int file);
uint32_t readiness(const struct object *object);
void readiness_changed(struct object *object);

/* --- sockets.c */
uint32_t stream_readiness(const struct object *object);
void stream_closed(struct object *object);
ssize_t stream_read(struct object *object, void *data, size_t bytes, bool peek);
ssize_t stream_write(struct object *object, const void *data, size_t bytes);
void network_event(uint8_t kind, uint64_t connection, const uint8_t *data, uint32_t bytes);

/* --- disk.c */
void begin_disk(void);
void power_off(uint64_t chosen_seed, bool loses_all) __attribute__((noreturn));
bool disk_write(int file, const void *parts, int count, int64_t offset, bool positioned, ssize_t *result);
extern uint64_t free_bytes, sync_min_ns, sync_max_ns, sync_failures, end_after_steps;
extern bool end_loses_unsynced;

/* --- link.c */
enum said { LISTEN = 1, UNLISTEN, CONNECT, DATA, FIN, CLOSE, DIED };
enum told { CONNECTED = 1, FAILED, INCOMING, ARRIVED, ENDED, CLOCK, CUT, SPACE, SYNC_TIME, FAIL_SYNCS, END_AFTER };
void say(enum said kind, uint64_t connection, const void *data, uint32_t bytes);
/* Lets the simulator go on until something happens to this process. */
void take_turn(void);
void give_up(const char *what) __attribute__((noreturn));
extern uint64_t node;

/* --- raw.c */
long raw(long number, ...);
long checked(long result); /* Sets errno. */
