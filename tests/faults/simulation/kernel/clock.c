/* Time and chance: both come from the simulator. */
#include "kernel.h"
#include <time.h>

/* Since the beginning of the run, which by the wall clock was on 1 January 2027. */
ns now;
int64_t wall_offset_ns;
uint64_t schedule_state, entropy_state;
static const ns MONOTONIC_BEGAN = 1000 * (ns)SECOND;
static const ns WALL_BEGAN = 1798761600 * (ns)SECOND;

uint64_t draw(uint64_t *state) {
    uint64_t mixed = *state += 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return mixed ^ (mixed >> 31);
}

static ns wall(void) { return WALL_BEGAN + now + (ns)wall_offset_ns; }

ns deadline_of(const void *given, bool absolute, bool by_wall) {
    const struct timespec *time = given;
    if (time->tv_sec < 0) return now;
    if (time->tv_sec > 10000000000) return FOREVER;
    ns value = (ns)time->tv_sec * SECOND + (ns)time->tv_nsec;
    if (!absolute) return now + value;
    ns zero = by_wall ? WALL_BEGAN + (ns)wall_offset_ns : MONOTONIC_BEGAN;
    return value > zero ? value - zero : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!simulated) return (int)checked(raw(SYS_clock_gettime, clock, time));
    now += 20;
    ns value = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? wall() : MONOTONIC_BEGAN + now;
    time->tv_sec = (time_t)(value / SECOND);
    time->tv_nsec = (long)(value % SECOND);
    return 0;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    (void)left;
    if (!simulated) return (int)-raw(SYS_clock_nanosleep, clock, flags, wanted, left);
    ns until = deadline_of(wanted, flags & TIMER_ABSTIME, clock == CLOCK_REALTIME);
    wait_on(ON_TIME, NULL, 1, until);
    return 0;
}

int nanosleep(const struct timespec *wanted, struct timespec *left) {
    return clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, left);
}

ssize_t getrandom(void *data, size_t bytes, unsigned flags) {
    if (!simulated) return checked(raw(SYS_getrandom, data, bytes, flags));
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)data)[i] = (uint8_t)(draw(&entropy_state) >> 32);
    return (ssize_t)bytes;
}
