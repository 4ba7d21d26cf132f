/*
 * gemm: a 128x128 product of two matrices, on pages that guest and device share.
 *
 * The guest puts A, B and C into one region, describes C = A * B as a program, runs it, and compares every element with a plain loop. Nothing is
 * copied where the device works on the guest's pages; where it has memory of its own, the two calls of sp_region_sync move what changed.
 */
#include "samepage/actor.h"
#include "samepage/graph.h"

enum { N = 128, BYTES = N * N * sizeof(float) };

/* The program: `out` receives mul_mat(a, b), which is, as ggml defines it, out[i][j] = sum over k of a[j][k] * b[i][k]. */
static int32_t load_program(void) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor a = sp_graph_memory_2d(&g, "a", in, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(0));
    sp_tensor b = sp_graph_memory_2d(&g, "b", in, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(BYTES));
    sp_tensor c = sp_graph_memory_2d(&g, "c", out, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(0));
    sp_graph_into(&g, sp_mul_mat(&g, a, b), c);
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    if (!bytes) {
        fprintf(stderr, "the program can't be built: %s\n", g.error);
        __builtin_trap();
    }
    int32_t program = sp_actor_check(sp_program_load(bytes, size), "the program is refused");
    sp_graph_free(&g);
    return program;
}

/* Small whole numbers: every sum is exact, whatever the order that it is added in. */
static void fill(float *m, uint32_t seed) {
    for (int i = 0; i < N * N; i++) {
        seed = seed * 1664525 + 1013904223;
        m[i] = (float)(int)(seed >> 28) - 8;
    }
}

static int count_wrong(const float *a, const float *b, const float *c) {
    int wrong = 0;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < N; k++) {
                sum += a[j * N + k] * b[i * N + k];
            }
            wrong += c[i * N + j] != sum;
        }
    }
    return wrong;
}

int32_t sp_step(void) {
    uint32_t length;
    float *a = sp_actor_pages(3 * BYTES, &length), *b = a + N * N, *c = b + N * N;
    fill(a, 1);
    fill(b, 2);
    int32_t region = sp_actor_check(sp_region_open(a, length), "the memory can't be shared");
    int32_t program = load_program();
    sp_actor_check(sp_program_bind(program, 0, region, 0, 2 * BYTES), "bind in");
    sp_actor_check(sp_program_bind(program, 1, region, 2 * BYTES, BYTES), "bind out");
    sp_actor_check(sp_region_sync(region, 0, 2 * BYTES, SP_TO_DEVICE), "sync");
    sp_actor_check(sp_program_run(program, NULL, 0), "the product can't be computed");
    sp_actor_check(sp_region_sync(region, 2 * BYTES, BYTES, SP_FROM_DEVICE), "sync");
    printf("%d elements, %d wrong\n", N * N, count_wrong(a, b, c));
    fflush(stdout); /* an actor has no exit that would do it */
    return SP_DONE;
}
