/* How fast memory can be read: what decoding, which reads every weight for each token, can't exceed. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"

enum { MAX_READERS = 512, PASSES = 6 };
static const size_t total = (size_t)512 << 20;

typedef struct reader {
    const uint64_t *from;
    size_t words;
    uint64_t sum;
} reader;

/* Four sums, so that the processor does not wait for one. */
static void *read_all(void *user) {
    reader *r = user;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i + 4 <= r->words; i += 4) {
        a += r->from[i], b += r->from[i + 1], c += r->from[i + 2], d += r->from[i + 3];
    }
    r->sum = a + b + c + d;
    return NULL;
}

static double one_pass(const uint64_t *memory, int threads) {
    reader readers[MAX_READERS];
    pthread_t ids[MAX_READERS];
    int started = 0;
    const uint64_t from = sp_bench_now_ns();
    for (; started < threads; started++) {
        const size_t words = total / sizeof *memory / (size_t)threads;
        readers[started] = (reader){.from = memory + words * (size_t)started, .words = words};
        if (pthread_create(&ids[started], NULL, read_all, &readers[started]) != 0) {
            break;
        }
    }
    for (int i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
    }
    const double seconds = (double)(sp_bench_now_ns() - from) * 1e-9;
    return started == threads ? (double)total / seconds : 0;
}

double sp_bench_bandwidth(int threads) {
    threads = threads < 1 ? 1 : threads > MAX_READERS ? MAX_READERS : threads;
    uint64_t *memory = malloc(total);
    double best = 0;
    if (memory) {
        memset(memory, 1, total);
        for (int i = 0; i < PASSES; i++) {
            const double speed = one_pass(memory, threads);
            best = speed > best ? speed : best;
        }
    }
    free(memory);
    return best;
}
