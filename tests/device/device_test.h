/*
 * What tests of a device share: small programs, run on two devices over the same bytes, results compared. The device under test is cuda-emulated, or
 * what SAMEPAGE_TEST_DEVICE says (cuda:0 on a machine with a card).
 */
#ifndef SP_TESTS_DEVICE_TEST_H
#define SP_TESTS_DEVICE_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#include <ggml.h>

#include "device/device.h"
#include "program/program.h"
#include "samepage/graph.h"
#include "threads.h"

/* Bytes of the region that windows lie in, half of it of each slot: a test may want more. */
#ifndef DEVICE_TEST_REGION
#define DEVICE_TEST_REGION (4 << 20)
#endif
enum { IN, OUT, MAX_WINDOWS = 24, REGION = DEVICE_TEST_REGION };

/* A window of the program's one input or one output, and what it is filled with. */
typedef struct filled {
    uint32_t slot, type;
    int64_t ne[4];
    uint64_t offset, size;
    int64_t bound;   /* ids: below this; 0: numbers */
    bool distinct;   /* ids of a row differ; of numbers (F32), all */
    float low, high; /* numbers: between */
    float masked;    /* this share is minus infinity */
    int64_t window;  /* a mask of halves: each row, one further than the row before, sees the last so many up to its own; 0: numbers */
} filled;

typedef struct graph_case {
    sp_graph g;
    filled windows[MAX_WINDOWS];
    uint32_t n_windows;
    uint64_t used[2];
    struct sp_weight_entry weights[16];
    char names[16][16];
    uint32_t n_weights;
    uint64_t weight_bytes;
    double tolerance; /* normalised mean squared error */
    const char *name;
} graph_case;

enum { SEED = 88172645 };
static uint64_t random_state = SEED;
static inline uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
static inline float random_float(float low, float high) {
    return low + (high - low) * (float)(random_bits() % 1000003) / 1000003.0f;
}
static inline int64_t random_int(int64_t low, int64_t high) {
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

/* What a test draws doesn't depend on those before it. */
static inline int draw_anew(void **state) {
    (void)state;
    random_state = SEED;
    return 0;
}

static inline void begin_case(graph_case *c, const char *name, double tolerance) {
    memset(c, 0, sizeof *c);
    c->name = name;
    c->tolerance = tolerance;
    sp_graph_init(&c->g);
    sp_graph_slot(&c->g, "in", SP_SLOT_READ);
    sp_graph_slot(&c->g, "out", SP_SLOT_STATE);
}

static inline uint64_t bytes_of(uint32_t type, const int64_t ne[4]) {
    return ggml_row_size((enum ggml_type)type, ne[0]) * (uint64_t)(ne[1] * ne[2] * ne[3]);
}

static inline sp_tensor add_window(graph_case *c, uint32_t slot, uint32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    filled *w = &c->windows[c->n_windows++];
    *w = (filled){.slot = slot, .type = type, .ne = {n0, n1, n2, n3}, .offset = c->used[slot], .low = -1, .high = 1};
    w->size = bytes_of(type, w->ne);
    c->used[slot] += (w->size + 255) / 256 * 256;
    return sp_graph_memory_4d(&c->g, NULL, slot, type, sp_dim(n0), sp_dim(n1), sp_dim(n2), sp_dim(n3), sp_dim((int64_t)w->offset));
}
static inline sp_tensor numbers(graph_case *c, uint32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    return add_window(c, IN, type, n0, n1, n2, n3);
}
static inline sp_tensor row_ids(graph_case *c, uint32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t bound, bool distinct) {
    sp_tensor t = add_window(c, IN, type, n0, n1, n2, 1);
    c->windows[c->n_windows - 1].bound = bound;
    c->windows[c->n_windows - 1].distinct = distinct;
    return t;
}
/* The result goes to a window of its own; its shape must be said. */
static inline void result(graph_case *c, sp_tensor t, uint32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    sp_cpy(&c->g, t, add_window(c, OUT, type, n0, n1, n2, n3));
}
static inline sp_tensor model_weight(graph_case *c, uint32_t type, int64_t n0, int64_t n1, int64_t n2) {
    uint32_t n = c->n_weights++;
    snprintf(c->names[n], sizeof c->names[n], "w%u", n);
    c->weights[n] = (struct sp_weight_entry){.name = c->names[n], .type = type, .ne = {n0, n1, n2, 1}, .offset = c->weight_bytes};
    c->weight_bytes += (bytes_of(type, c->weights[n].ne) + 255) / 256 * 256;
    return sp_graph_weight(&c->g, c->names[n]);
}

static inline bool find_case_weight(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    graph_case *c = context;
    (void)model;
    for (uint32_t i = 0; i < c->n_weights; i++) {
        if (strcmp(c->weights[i].name, name) == 0) {
            *out = (sp_weight_info){.type = c->weights[i].type, .index = i};
            memcpy(out->ne, c->weights[i].ne, sizeof out->ne);
            return true;
        }
    }
    return false;
}

/* n numbers of a type; importance keeps ggml's small quants happy. */
static inline void fill_numbers(uint32_t type, void *to, int64_t ne0, int64_t rows, float low, float high, float masked) {
    float *x = malloc((size_t)(ne0 * rows) * sizeof *x), *importance = malloc((size_t)ne0 * sizeof *importance);
    for (int64_t i = 0; i < ne0 * rows; i++) {
        x[i] = masked > 0 && random_float(0, 1) < masked ? -INFINITY : random_float(low, high);
    }
    for (int64_t i = 0; i < ne0; i++) {
        importance[i] = 1;
    }
    if (type == SP_TYPE_F32) {
        memcpy(to, x, (size_t)(ne0 * rows) * sizeof *x);
    } else if (type == SP_TYPE_I32) {
        for (int64_t i = 0; i < ne0 * rows; i++) {
            ((int32_t *)to)[i] = (int32_t)random_bits();
        }
    } else {
        ggml_quantize_chunk((enum ggml_type)type, x, to, 0, rows, ne0, importance);
    }
    free(x);
    free(importance);
}

static inline void fill_window(const filled *w, uint8_t *base) {
    int64_t n = w->ne[0] * w->ne[1] * w->ne[2] * w->ne[3];
    for (int64_t i = 0; i < n && w->window; i++) {
        int64_t back = i / w->ne[0] + w->ne[0] - w->ne[1] - i % w->ne[0];
        ((uint16_t *)(void *)(base + w->offset))[i] = back < 0 || back >= w->window ? 0xfc00 : 0;
    }
    if (w->window) {
        return;
    }
    if (!w->bound) {
        fill_numbers(w->type, base + w->offset, w->ne[0], w->ne[1] * w->ne[2] * w->ne[3], w->low, w->high, w->masked);
        for (int64_t i = 0; i < n && w->distinct; i++) { /* multiples of a prime, by another: so many differ */
            ((float *)(void *)(base + w->offset))[i] = w->low + (w->high - w->low) * (float)((uint64_t)i * 611953 % 1000003) / 1000003.0f;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t id = w->distinct ? (i % w->ne[0] + i / w->ne[0] * 3) % w->bound : random_int(0, w->bound - 1);
        if (w->type == SP_TYPE_I64) {
            ((int64_t *)(void *)(base + w->offset))[i] = id;
        } else {
            ((int32_t *)(void *)(base + w->offset))[i] = (int32_t)id;
        }
    }
}

static inline uint8_t *new_pages(size_t size) {
    uint8_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

#define MUST(call)                                                                                                                                   \
    do {                                                                                                                                             \
        sp_error must_error = {0}, *err = &must_error;                                                                                               \
        if ((call) != SP_OK) {                                                                                                                       \
            fail_msg("%s: %s", c->name, must_error.message);                                                                                         \
        }                                                                                                                                            \
    } while (0)

/* An executable with all that it needs, over a case's two slots in pages of the caller's. */
typedef struct bound {
    sp_device_weights *weights;
    sp_device_memory *memory;
    sp_workspace *workspace;
    sp_executable *x;
} bound;

static inline void bind_case(const graph_case *c, sp_device *device, const sp_spec *spec, const uint8_t *weights, uint8_t *pages, bound *b) {
    sp_weight_table table = {.base = weights, .size = c->weight_bytes, .n = c->n_weights, .entries = c->weights};
    MUST(sp_device_weights_open(device, &table, NULL, NULL, &b->weights, err));
    MUST(sp_device_memory_open(device, pages, REGION, &b->memory, err));
    MUST(sp_device_memory_sync(b->memory, 0, REGION, SP_SYNC_TO_DEVICE, err));
    MUST(sp_workspace_open(device, 1ull << 32, &b->workspace, err));
    sp_slot_binding bindings[2] = {{b->memory, 0, REGION / 2}, {b->memory, REGION / 2, REGION / 2}};
    MUST(sp_device_prepare(b->workspace, spec, bindings, &b->weights, 1, &b->x, err));
}

static inline void unbind_case(bound *b) {
    sp_executable_close(b->x);
    sp_workspace_close(b->workspace);
    sp_device_memory_close(b->memory);
    sp_device_weights_close(b->weights);
}

/* Runs the program on a device over a copy of pages; the output half comes back. */
static inline void run_case(graph_case *c, sp_device *device, const sp_spec *spec, const uint8_t *weights, uint8_t *pages, int times) {
    bound b;
    bind_case(c, device, spec, weights, pages, &b);
    for (int i = 0; i < times; i++) {
        MUST(sp_device_execute(b.x, err));
    }
    MUST(sp_device_memory_sync(b.memory, REGION / 2, REGION / 2, SP_SYNC_FROM_DEVICE, err));
    unbind_case(&b);
}

static inline float *as_floats(const filled *w, const uint8_t *base) {
    int64_t n = w->ne[0] * w->ne[1] * w->ne[2] * w->ne[3];
    float *x = malloc((size_t)n * sizeof *x);
    if (w->type == SP_TYPE_F32) {
        memcpy(x, base + w->offset, (size_t)n * sizeof *x);
    } else {
        ggml_get_type_traits((enum ggml_type)w->type)->to_float(base + w->offset, x, n);
    }
    return x;
}

/* Normalised mean squared error; infinities must be equal. */
static inline double window_error(const filled *w, const uint8_t *mine, const uint8_t *right) {
    int64_t n = w->ne[0] * w->ne[1] * w->ne[2] * w->ne[3];
    float *a = as_floats(w, mine), *b = as_floats(w, right);
    double error = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isinf(b[i]) || isnan(b[i])) {
            error += isnan(a[i]) == isnan(b[i]) && (isnan(a[i]) || a[i] == b[i]) ? 0 : INFINITY;
            continue;
        }
        error += isnan(a[i]) ? INFINITY : (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        size += (double)b[i] * (double)b[i];
    }
    free(a);
    free(b);
    return size > 0 ? error / size : error;
}

static inline void check_window(const graph_case *c, const filled *w, const uint8_t *mine, const uint8_t *right) {
    if (w->type == SP_TYPE_I32 || w->type == SP_TYPE_I64) {
        if (memcmp(mine + w->offset, right + w->offset, w->size)) {
            fail_msg("%s: integers differ", c->name);
        }
        return;
    }
    double error = window_error(w, mine, right);
    if (getenv("SAMEPAGE_TEST_VERBOSE")) {
        printf("%s: %.2e\n", c->name, error);
    }
    if (!(error <= c->tolerance)) {
        fail_msg("%s [%lld %lld %lld %lld]: error %g; at most %g", c->name, (long long)w->ne[0], (long long)w->ne[1], (long long)w->ne[2],
                 (long long)w->ne[3], error, c->tolerance);
    }
}

typedef struct devices {
    sp_device *tested, *cpu;
} devices;

static inline const char *tested_device(void) {
    const char *name = getenv("SAMEPAGE_TEST_DEVICE");
    return name ? name : "cuda-emulated";
}

static inline bool is_card(void) {
    return strncmp(tested_device(), "cuda:", 5) == 0;
}

static inline int open_devices(void **state) {
    static devices d;
    sp_error err = {0};
    if (sp_device_open(tested_device(), 0, &d.tested, &err) != SP_OK || sp_device_open("cpu", SOME_THREADS(2), &d.cpu, &err) != SP_OK) {
        fail_msg("%s", err.message);
    }
    *state = &d;
    return 0;
}
static inline int close_devices(void **state) {
    devices *d = *state;
    sp_device_close(d->tested);
    sp_device_close(d->cpu);
    return 0;
}

static inline void note_range(void *user, uint64_t from, uint64_t to) {
    assert_true(from <= to && to <= REGION / 2);
    memset((uint8_t *)user + from, 1, to - from);
}

/* Only what the specialised program is said to write may have changed. */
static inline void check_writes(graph_case *c, const sp_spec *spec, const uint8_t *before, const uint8_t *after) {
    uint8_t *said = calloc(1, REGION / 2);
    sp_spec_write *writes = NULL;
    uint32_t n = 0;
    MUST(sp_spec_get_writes(spec, &writes, &n, err));
    assert_true(n > 0);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(writes[i].slot, OUT);
        sp_spec_each_write(&writes[i], before + writes[i].ids_slot * (REGION / 2) + writes[i].ids_offset, note_range, said);
    }
    for (uint64_t i = 0; i < REGION / 2; i++) {
        if (!said[i] && before[REGION / 2 + i] != after[REGION / 2 + i]) {
            fail_msg("%s: byte %llu changed, which is not said to be written", c->name, (unsigned long long)i);
        }
    }
    free(said);
    free(writes);
}

/* Ends the graph. */
static inline sp_spec *specialise_case(graph_case *c, sp_program **program) {
    uint32_t size;
    const void *bytes = sp_graph_bytes(&c->g, &size);
    if (!bytes) {
        fail_msg("%s: %s", c->name, c->g.error);
    }
    assert_true(c->used[0] <= REGION / 2 && c->used[1] <= REGION / 2);
    sp_weight_source source = {find_case_weight, c};
    sp_spec *spec = NULL;
    MUST(sp_program_load(bytes, size, &source, program, err));
    MUST(sp_program_specialise(*program, NULL, 0, NULL, &spec, err));
    return spec;
}

/* Ends the graph: both devices compute it, several times over the same memory, and must agree. */
static inline void compare(void **state, graph_case *c) {
    devices *d = *state;
    sp_program *program = NULL;
    sp_spec *spec = specialise_case(c, &program);
    uint8_t *mine = new_pages(REGION), *right = new_pages(REGION), *weights = new_pages(c->weight_bytes + 4096);
    for (uint32_t i = 0; i < c->n_windows; i++) {
        fill_window(&c->windows[i], mine + c->windows[i].slot * (REGION / 2));
    }
    for (uint32_t i = 0; i < c->n_weights; i++) {
        const struct sp_weight_entry *w = &c->weights[i];
        fill_numbers(w->type, weights + w->offset, w->ne[0], w->ne[1] * w->ne[2], -1, 1, 0);
    }
    uint8_t *before = new_pages(REGION);
    memcpy(right, mine, REGION);
    memcpy(before, mine, REGION);
    run_case(c, d->cpu, spec, weights, right, 1);
    run_case(c, d->tested, spec, weights, mine, 2);
    for (uint32_t i = 0; i < c->n_windows; i++) {
        if (c->windows[i].slot == OUT) {
            check_window(c, &c->windows[i], mine + REGION / 2, right + REGION / 2);
        }
    }
    check_writes(c, spec, before, right);
    check_writes(c, spec, before, mine);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(&c->g);
    munmap(before, REGION);
    munmap(mine, REGION);
    munmap(right, REGION);
    munmap(weights, c->weight_bytes + 4096);
}

#endif
