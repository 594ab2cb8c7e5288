/* Threads: one runs at a time. Each waits for the baton. A thread that passes the baton on picks the next by the seed. */
#include "kernel.h"
#include <dlfcn.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/time.h>

bool simulated;
struct thread *threads;
uint32_t preemption_per_mille;
static struct thread **last = &threads;
static __thread struct thread *self;

static void wait_for_baton(struct thread *thread) {
    while (!__atomic_exchange_n(&thread->baton, 0, __ATOMIC_ACQUIRE))
        raw(SYS_futex, &thread->baton, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void give_baton(struct thread *thread) {
    __atomic_store_n(&thread->baton, 1, __ATOMIC_RELEASE);
    raw(SYS_futex, &thread->baton, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static struct thread *pick(void) {
    uint64_t ready = 0;
    for (struct thread *thread = threads; thread; thread = thread->next) ready += thread->state == READY;
    if (!ready) return NULL;
    uint64_t chosen = ready > 1 ? draw(&schedule_state) % ready : 0;
    for (struct thread *thread = threads; thread; thread = thread->next)
        if (thread->state == READY && !chosen--) return thread;
    return NULL;
}

/* The caller has set its own state already. */
static void give_way(struct thread *mine) {
    struct thread *next;
    bool gone = mine->state == GONE;
    while (!(next = pick())) take_turn();
    next->state = RUNS;
    if (next == mine) return;
    give_baton(next);
    if (!gone) wait_for_baton(mine);
}

static uint64_t entries;

void enter(void) {
    if (!simulated) return;
    entries++;
    now += 300;
}

void enter_and_let_others(void) {
    if (!simulated) return;
    enter();
    if (preemption_per_mille && draw(&schedule_state) % 1000 < preemption_per_mille) {
        self->state = READY;
        give_way(self);
    }
}

bool wait_on(enum waits_on on, const void *what, uint32_t bits, ns until) {
    struct thread *mine = self;
    mine->state = WAITS;
    mine->on = on;
    mine->what = what;
    mine->bits = bits;
    mine->until = until;
    mine->timed_out = false;
    if (until <= now) mine->state = READY, mine->timed_out = true;
    give_way(mine);
    mine->on = ON_NOTHING;
    return !mine->timed_out;
}

int wake(enum waits_on on, const void *what, uint32_t bits, int most) {
    int woken = 0;
    for (struct thread *thread = threads; thread && woken < most; thread = thread->next)
        if (thread->state == WAITS && thread->on == on && thread->what == what && (thread->bits & bits))
            thread->state = READY, woken++;
    return woken;
}

void wake_those_due(void) {
    for (struct thread *thread = threads; thread; thread = thread->next)
        if (thread->state == WAITS && thread->until <= now) thread->state = READY, thread->timed_out = true;
}

ns earliest_deadline(void) {
    ns earliest = FOREVER;
    for (struct thread *thread = threads; thread; thread = thread->next)
        if (thread->state == WAITS && thread->until < earliest) earliest = thread->until;
    return earliest;
}

static struct thread *add(void) {
    struct thread *thread = calloc(1, sizeof *thread);
    if (!thread) give_up("memory for a thread");
    *last = thread;
    last = &thread->next;
    return thread;
}

/* A thread that spins on the work of another thread would spin for ever, because it keeps the baton. So the baton is
 * taken away when the processor was busy for a while without a call into this library. The point at which the thread
 * spins has no effect on the rest of the run. */
static void on_timer(int number) {
    static uint64_t entries_before;
    static int idle_ticks;
    int error = errno;
    if (!simulated) return;
    if (!self || self->state != RUNS) {
        /* Delivered to one of those who wait. */
        for (struct thread *thread = threads; thread; thread = thread->next)
            if (thread->state == RUNS && thread->number) raw(SYS_tgkill, raw(SYS_getpid), thread->number, number);
    } else if (entries != entries_before) {
        entries_before = entries;
        idle_ticks = 0;
    } else if (++idle_ticks >= 2) {
        idle_ticks = 0;
        entries++;
        wait_on(ON_TIME, NULL, 1, now + MICROSECOND);
    }
    errno = error;
}

static bool timer_runs;

/* The program handles all signals that would end it. The signal of this timer stays here: at which point it interrupts the
 * program depends on the machine, so nothing of the run may follow from it. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "sigaction");
    if (number != SIGVTALRM || !timer_runs) return real(number, action, before);
    if (before) *before = (struct sigaction){.sa_handler = SIG_DFL};
    return 0;
}

void begin_threads(void) {
    self = add();
    self->state = RUNS;
    self->handle = pthread_self();
    self->number = raw(SYS_gettid);
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART | SA_NODEFER};
    sigaction(SIGVTALRM, &action, NULL);
    timer_runs = true;
    struct itimerval each = {{0, 50000}, {0, 50000}};
    setitimer(ITIMER_VIRTUAL, &each, NULL);
}

static void run_endings(void) {
    while (self && self->endings) {
        struct ending *ending = self->endings;
        self->endings = ending->next;
        ending->run(ending->argument);
        free(ending);
    }
}

static void *thread_main(void *argument) {
    self = argument;
    self->number = raw(SYS_gettid);
    wait_for_baton(self);
    void *result = self->routine(self->argument);
    /* What the thread leaves behind is cleared away while it still holds the baton. */
    run_endings();
    self->state = GONE;
    wake(ON_THREAD, self, 1, 1 << 20);
    give_way(self);
    return result;
}

/* Destructors of thread-local values; glibc would run them when the baton is gone. */
int __cxa_thread_atexit_impl(void (*run)(void *), void *argument, void *library) {
    (void)library;
    if (!self) return 0; /* Before the first turn: nothing of the program's. */
    struct ending *ending = malloc(sizeof *ending);
    *ending = (struct ending){run, argument, self->endings};
    self->endings = ending;
    return 0;
}

int pthread_create(pthread_t *handle, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_create");
    if (!simulated) return real(handle, attributes, routine, argument);
    enter();
    struct thread *thread = add();
    thread->routine = routine;
    thread->argument = argument;
    thread->state = READY;
    int result = real(&thread->handle, attributes, thread_main, thread);
    if (result) thread->state = GONE;
    *handle = thread->handle;
    return result;
}

int pthread_join(pthread_t handle, void **result) {
    static int (*real)(pthread_t, void **);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_join");
    struct thread *joined = NULL;
    for (struct thread *thread = threads; thread; thread = thread->next)
        if (thread->handle == handle) joined = thread; /* A handle is used again: the last one is meant. */
    enter();
    while (joined && joined->state != GONE) wait_on(ON_THREAD, joined, 1, FOREVER);
    return real(handle, result);
}

int sched_yield(void) {
    if (!simulated) return 0;
    now += 1000;
    self->state = READY;
    give_way(self);
    return 0;
}

static long futex(uint32_t *word, int operation, uint32_t value, const void *timeout, uint32_t bits) {
    enter_and_let_others();
    bool wall = operation & FUTEX_CLOCK_REALTIME;
    switch (operation & FUTEX_CMD_MASK) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: {
        bool absolute = (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
        if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != value) return errno = EAGAIN, -1;
        if (!absolute) bits = ~0u;
        if (wait_on(ON_FUTEX, word, bits, timeout ? deadline_of(timeout, absolute, wall) : FOREVER)) return 0;
        return errno = ETIMEDOUT, -1;
    }
    case FUTEX_WAKE: return wake(ON_FUTEX, word, ~0u, (int)value);
    case FUTEX_WAKE_BITSET: return wake(ON_FUTEX, word, bits, (int)value);
    default: give_up("a futex operation that is not simulated");
    }
}

long syscall(long number, ...) {
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (simulated && number == SYS_futex)
        return futex((uint32_t *)a[0], (int)a[1], (uint32_t)a[2], (const void *)a[3], (uint32_t)a[5]);
    if (simulated && number == SYS_getrandom) {
        ssize_t getrandom(void *, size_t, unsigned);
        return getrandom((void *)a[0], (size_t)a[1], 0);
    }
    if (simulated && number == SYS_gettid) return 1000;
    return checked(raw(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

int sched_getaffinity(pid_t process, size_t bytes, cpu_set_t *set) {
    (void)process;
    memset(set, 0, bytes);
    *(uint8_t *)set = 3; /* Two processors, wherever it runs. */
    return 0;
}

int setpriority(int which, id_t who, int priority) {
    (void)which, (void)who, (void)priority;
    return 0;
}

pid_t getpid(void) { return simulated ? 100 + (pid_t)node : (pid_t)raw(SYS_getpid); }
pid_t gettid(void) { return simulated ? 1000 : (pid_t)raw(SYS_gettid); }
