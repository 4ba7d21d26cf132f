/* `samepage bench gpu`: the device alone: the way to it and back, and how fast its memory is. */
#include <string.h>

#include "base/error.h"
#include "cli/bench.h"
#include "cli/bench_gpu.h"
#include "device/device.h"
#include "memory/os.h"
#include "samepage/graph.h"

enum { ROUNDS = 501, PASSES = 21, WIDTH = 4096 };

/* A program that is ready to run, with one region for its one slot. */
typedef struct subject {
    sp_program *program;
    sp_spec *spec;
    sp_device_weights *weights;
    sp_device_memory *memory;
    sp_workspace *workspace;
    sp_executable *executable;
    void *pages;
    uint64_t length;
} subject;

static void close_subject(subject *s) {
    sp_executable_close(s->executable);
    sp_workspace_close(s->workspace);
    sp_device_memory_close(s->memory);
    sp_device_weights_close(s->weights);
    sp_spec_free(s->spec);
    sp_program_free(s->program);
    if (s->pages) {
        sp_os_release(s->pages, s->length);
    }
}

/* To be closed in either case. */
static sp_status open_subject(subject *s, sp_device *device, sp_graph *g, uint64_t bytes, const sp_weight_source *source,
                              const sp_weight_table *table, sp_error *err) {
    uint32_t size = 0;
    uint64_t page = sp_os_page_size();
    const void *program = sp_graph_bytes(g, &size);
    s->length = (bytes + page - 1) / page * page;
    s->pages = sp_os_reserve(s->length);
    sp_status status = s->pages && sp_os_commit(s->pages, s->length) ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    status = status ? status : sp_program_load(program, size, source, &s->program, err);
    status = status ? status : sp_program_specialise(s->program, NULL, 0, NULL, &s->spec, err);
    status = status ? status : sp_device_memory_open(device, s->pages, s->length, &s->memory, err);
    status = status ? status : sp_device_memory_sync(s->memory, 0, s->length, SP_SYNC_TO_DEVICE, err);
    status = status ? status : sp_workspace_open(device, 1ull << 30, &s->workspace, err);
    status = status || !table ? status : sp_device_weights_open(device, table, NULL, NULL, &s->weights, err);
    const sp_slot_binding binding = {s->memory, 0, s->length};
    return status ? status : sp_device_prepare(s->workspace, s->spec, &binding, &s->weights, table ? 1 : 0, &s->executable, err);
}

/* The median time of so many runs, in ns, after some that warm up. */
static sp_status time_runs(const subject *s, int n, double *ns, sp_error *err) {
    double times[ROUNDS];
    sp_status status = SP_OK;
    for (int i = -n / 20 - 1; status == SP_OK && i < n; i++) {
        uint64_t start = sp_bench_now_ns();
        status = sp_device_execute(s->executable, err);
        if (i >= 0) {
            times[i] = (double)(sp_bench_now_ns() - start);
        }
    }
    *ns = status == SP_OK ? sp_bench_median(times, n) : 0;
    return status;
}

sp_status sp_gpu_round_trip(sp_device *device, double *us, sp_error *err) {
    subject s = {0};
    sp_graph g;
    double ns = 0;
    sp_graph_init(&g);
    uint32_t slot = sp_graph_slot(&g, "x", SP_SLOT_STATE);
    sp_tensor x = sp_graph_memory_1d(&g, "x", slot, SP_TYPE_F32, sp_dim(1), sp_dim(0));
    sp_graph_into(&g, sp_scale(&g, x, 1), x);
    sp_status status = open_subject(&s, device, &g, sizeof(float), NULL, NULL, err);
    status = status ? status : time_runs(&s, ROUNDS, &ns, err);
    *us = ns * 1e-3;
    close_subject(&s);
    sp_graph_free(&g);
    return status;
}

static bool find_weight(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    (void)model, (void)name;
    const struct sp_weight_entry *entry = context;
    *out = (sp_weight_info){.type = entry->type};
    memcpy(out->ne, entry->ne, sizeof out->ne);
    return true;
}

/* Weights of zeros, which take no memory of the host, times a column of zeros. */
sp_status sp_gpu_product_bandwidth(sp_device *device, uint64_t bytes, double *rate, sp_error *err) {
    subject s = {0};
    sp_graph g;
    double ns = 0;
    int64_t rows = (int64_t)(bytes / (WIDTH * 2));
    struct sp_weight_entry entry = {.name = "w", .type = SP_TYPE_F16, .ne = {WIDTH, rows, 1, 1}};
    void *zeros = sp_os_reserve(bytes);
    const sp_weight_table table = {.base = zeros, .size = bytes, .n = 1, .entries = &entry};
    const sp_weight_source source = {find_weight, &entry};
    sp_graph_init(&g);
    uint32_t slot = sp_graph_slot(&g, "x", SP_SLOT_STATE);
    sp_tensor w = sp_graph_weight(&g, "w"), x = sp_graph_memory_1d(&g, "x", slot, SP_TYPE_F32, sp_dim(WIDTH), sp_dim(0));
    sp_tensor y = sp_graph_memory_1d(&g, "y", slot, SP_TYPE_F32, sp_dim(rows), sp_dim(WIDTH * 4));
    sp_graph_into(&g, sp_mul_mat(&g, w, x), y);
    sp_status status = zeros && sp_os_commit(zeros, bytes) ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    status = status ? status : open_subject(&s, device, &g, (WIDTH + (uint64_t)rows) * sizeof(float), &source, &table, err);
    status = status ? status : time_runs(&s, PASSES, &ns, err);
    *rate = ns > 0 ? (double)bytes / ns * 1e9 : 0;
    close_subject(&s);
    sp_graph_free(&g);
    if (zeros) {
        sp_os_release(zeros, bytes);
    }
    return status;
}
