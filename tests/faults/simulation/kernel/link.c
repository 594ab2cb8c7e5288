/* The link to the simulator: two pipes, and frames on them. A frame to here begins a turn: the time, until when nothing
 * else can happen, and what has happened. A frame from here ends it: the time, when this process wants to go on by itself,
 * and what it did. Numbers are little-endian, as the machine has them. */
#include "kernel.h"

enum { TOLD_ON = 198, SAID_ON = 199 };

uint64_t node;
static ns horizon;
static uint8_t *saying;
static size_t saying_bytes, saying_room;

void give_up(const char *what) {
    dprintf(2, "the simulated kernel cannot go on: %s (%s)\n", what, strerror(errno));
    raw(SYS_exit_group, 70);
    __builtin_unreachable();
}

static void append(const void *data, size_t bytes) {
    if (saying_bytes + bytes > saying_room) {
        saying_room = 2 * (saying_bytes + bytes) + 4096;
        saying = realloc(saying, saying_room);
        if (!saying) give_up("memory for a frame");
    }
    memcpy(saying + saying_bytes, data, bytes);
    saying_bytes += bytes;
}

void say(enum said kind, uint64_t connection, const void *data, uint32_t bytes) {
    uint8_t number = (uint8_t)kind;
    append(&number, 1);
    append(&now, 8);
    append(&connection, 8);
    append(&bytes, 4);
    append(data, bytes);
}

static void write_all(const void *data, size_t bytes) {
    for (const uint8_t *from = data; bytes;) {
        long written = raw(SYS_write, SAID_ON, from, bytes);
        if (written == -EINTR) continue;
        if (written <= 0) raw(SYS_exit_group, 71);
        from += written, bytes -= (size_t)written;
    }
}

static void read_all(void *data, size_t bytes) {
    for (uint8_t *to = data; bytes;) {
        long got = raw(SYS_read, TOLD_ON, to, bytes);
        if (got == -EINTR) continue;
        if (got <= 0) raw(SYS_exit_group, 71); /* The simulator is gone. */
        to += got, bytes -= (size_t)got;
    }
}

static void finish_frame(ns next) {
    uint32_t bytes = (uint32_t)(saying_bytes + 16);
    uint8_t head[20];
    memcpy(head, &bytes, 4), memcpy(head + 4, &now, 8), memcpy(head + 12, &next, 8);
    write_all(head, sizeof head);
    write_all(saying, saying_bytes);
    saying_bytes = 0;
}

static uint64_t number_at(const uint8_t *data) {
    uint64_t number;
    memcpy(&number, data, 8);
    return number;
}

static void happen(uint8_t kind, uint64_t subject, const uint8_t *data, uint32_t bytes) {
    switch ((enum told)kind) {
    case CONNECTED:
    case FAILED:
    case INCOMING:
    case ARRIVED:
    case ENDED: network_event(kind, subject, data, bytes); return;
    case CLOCK: wall_offset_ns = (int64_t)subject; return;
    case CUT: power_off(subject, bytes != 0);
    case SPACE: free_bytes = subject; return;
    case SYNC_TIME: sync_min_ns = subject, sync_max_ns = number_at(data); return;
    case FAIL_SYNCS: sync_failures = subject; return;
    case END_AFTER: end_after_steps = subject, end_loses_unsynced = bytes != 0; return;
    }
    give_up("the simulator says what is not known here");
}

static void next_frame(void) {
    uint32_t bytes;
    read_all(&bytes, 4);
    uint8_t *frame = malloc(bytes);
    if (!frame) give_up("memory for a frame");
    read_all(frame, bytes);
    if (number_at(frame) > now) now = number_at(frame);
    horizon = number_at(frame + 8);
    for (size_t at = 16; at < bytes;) {
        uint8_t kind = frame[at];
        uint64_t subject = number_at(frame + at + 1);
        uint32_t length;
        memcpy(&length, frame + at + 9, 4);
        happen(kind, subject, frame + at + 13, length);
        at += 13 + length;
    }
    free(frame);
}

void take_turn(void) {
    ns next = earliest_deadline();
    if (next < horizon && !saying_bytes) {
        if (next > now) now = next;
    } else {
        finish_frame(next);
        next_frame();
    }
    wake_those_due();
}

static void tell_end(uint64_t code) {
    if (!simulated) return;
    say(DIED, code, NULL, 0);
    finish_frame(FOREVER);
    simulated = false;
}

void _exit(int code) {
    tell_end((uint64_t)code);
    for (;;) raw(SYS_exit_group, code);
}

/* What is acknowledged is on disk; nothing registered for the end of a process matters to a simulated one. */
void exit(int code) { _exit(code); }

__attribute__((constructor)) static void begin(void) {
    const char *seed = getenv("TRIARCH_SIM_SEED"), *id = getenv("TRIARCH_SIM_NODE");
    const char *preemption = getenv("TRIARCH_SIM_PREEMPTION");
    if (!seed || !id) return;
    uint64_t state = strtoull(seed, NULL, 10);
    node = strtoull(id, NULL, 10);
    schedule_state = draw(&state), entropy_state = draw(&state), disk_state = draw(&state);
    preemption_per_mille = preemption ? (uint32_t)strtoul(preemption, NULL, 10) : 0;
    begin_threads();
    begin_disk();
    finish_frame(0);
    next_frame();
    simulated = true;
}
