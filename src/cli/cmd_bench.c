/* `samepage bench`: measurements beside libllama on the same work. Ratios within a run are what counts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/cmd.h"
#include "cli/embedded.h"
#include "cli/options.h"
#include "model/synthetic.h"

uint64_t sp_bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sp_bench_median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

sp_status sp_bench_write_pocket(const char *path, sp_error *err) {
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(sp_embedded_pocket, 1, sp_embedded_pocket_size, file) == sp_embedded_pocket_size;
    if (file && fclose(file) != 0) {
        ok = false;
    }
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "can't write %s: %s", path, strerror(errno));
}

sp_status sp_bench_write_synthetic(const char *path, const char *kind, uint32_t type, sp_error *err) {
    if (access(path, R_OK) == 0) {
        return SP_OK;
    }
    fprintf(stderr, "writing %s\n", path);
    sp_synthetic what;
    if (!sp_synthetic_1b(kind, type, &what)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "no kind of model \"%s\": dense, mixture, window or hybrid", kind);
    }
    return sp_synthetic_write(&what, path, err);
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} measurements[] = {
    {"decode", sp_bench_decode, "tokens per second, decoding and reading a prompt"},
    {"start", sp_bench_start, "from nothing to the first token, and what is held in memory then"},
    {"lookup", sp_bench_lookup, "prompt lookup: decoding with drafts from the context, against without"},
    {"gpu", sp_bench_gpu, "the same on an NVIDIA GPU, beside llama.cpp on the same card"},
    {"state", sp_bench_state, "thaw, freeze and commit, beside libllama's state files and reading the prompt again"},
    {"check", sp_bench_check, "what checking a model's program costs, beside a decode step"},
};
enum { N_MEASUREMENTS = sizeof measurements / sizeof measurements[0] };

static void print_measurements(void) {
    puts("usage: samepage bench WHAT [OPTION...]\n\nMeasures against libllama on the same work, in one run.\n");
    for (int i = 0; i < N_MEASUREMENTS; i++) {
        printf("  %-10s %s\n", measurements[i].name, measurements[i].about);
    }
    puts("\nEach has --help.");
}

int sp_cmd_bench(int argc, char **argv) {
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_measurements();
        return SP_EXIT_OK;
    }
    for (int i = 0; argc > 1 && i < N_MEASUREMENTS; i++) {
        if (strcmp(measurements[i].name, argv[1]) == 0) {
            return measurements[i].run(argc - 1, argv + 1);
        }
    }
    return argc > 1 ? sp_usage_error("bench", "%s: there is no such measurement", argv[1]) : sp_usage_error("bench", "name what to measure");
}
