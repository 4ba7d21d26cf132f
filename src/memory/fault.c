/*
 * Pages that can't be read: a file that is mapped into a linear memory was truncated, or its disk failed. The access gets SIGBUS, on whichever thread
 * touched the page: the guest's, or a worker of the device deep in a library. So nothing is unwound: the memory becomes zeros, the access goes on,
 * and whoever drives the memory asks afterwards whether it was lost.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "memory/fault.h"
#include "memory/os.h"

/* Memories that are watched. Read by a signal handler: blocks are added and never freed, entries are atomic and used again. */
struct sp_fault_watch {
    atomic_uintptr_t base; /* 0: free */
    atomic_uint_least64_t size;
    atomic_bool lost;
};

enum { BLOCK = 256 };
typedef struct block {
    struct sp_fault_watch watches[BLOCK];
    struct block *_Atomic next;
} block;

static block first_block;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;

static bool handle(uintptr_t at) {
    for (block *b = &first_block; b; b = atomic_load(&b->next)) {
        for (int i = 0; i < BLOCK; i++) {
            struct sp_fault_watch *w = &b->watches[i];
            uintptr_t base = atomic_load(&w->base);
            uint64_t size = atomic_load(&w->size);
            if (base && at >= base && at - base < size) {
                atomic_store(&w->lost, true);
                return sp_os_map_zeros((void *)base, size);
            }
        }
    }
    return false;
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    int kept = errno;
    if (handle((uintptr_t)info->si_addr)) {
        errno = kept;
        return;
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else {
        sigaction(number, &previous, NULL); /* the access is repeated, and ends the process as it would have */
    }
}

/* Whoever took the signal since gets what is not ours. Under the lock. */
static void install(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER}, now;
    if (!sigaction(SIGBUS, NULL, &now) && !(now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_bus_error)) {
        previous = now;
        sigemptyset(&action.sa_mask);
        sigaction(SIGBUS, &action, NULL);
    }
}

sp_fault_watch *sp_fault_watch_open(void *base, uint64_t size) {
    sp_fault_watch *found = NULL;
    pthread_mutex_lock(&lock);
    install();
    for (block *b = &first_block; b && !found;) {
        for (int i = 0; i < BLOCK && !found; i++) {
            found = atomic_load(&b->watches[i].base) ? NULL : &b->watches[i];
        }
        block *next = atomic_load(&b->next);
        if (!found && !next) {
            next = calloc(1, sizeof *next);
            atomic_store(&b->next, next);
        }
        b = next;
    }
    if (found) {
        atomic_store(&found->lost, false);
        atomic_store(&found->size, size);
        atomic_store(&found->base, (uintptr_t)base);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void sp_fault_watch_resize(sp_fault_watch *watch, uint64_t size) {
    atomic_store(&watch->size, size);
}

bool sp_fault_watch_lost(const sp_fault_watch *watch) {
    return atomic_load(&watch->lost);
}

void sp_fault_watch_close(sp_fault_watch *watch) {
    if (watch) {
        atomic_store(&watch->size, 0);
        atomic_store(&watch->base, 0);
    }
}
