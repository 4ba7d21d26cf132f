/*
 * mlp: a small network, y = W2 * silu(W1 * x) for a batch whose size is a symbol, checked against plain loops. W1, W2, x and y all lie in one region.
 */
#include <math.h>

#include "samepage/actor.h"
#include "samepage/graph.h"

/* Some GPUs multiply in half precision. */
#define TOLERANCE 5e-3

enum { IN = 64, HIDDEN = 96, OUT = 32, MOST = 16 };
enum { W1 = 0, W2 = W1 + IN * HIDDEN, X = W2 + HIDDEN * OUT, READ = X + IN * MOST, Y = READ, ALL = Y + OUT * MOST }; /* in floats */

static int32_t load_program(void) {
    sp_graph g;
    sp_graph_init(&g);
    sp_expr n = sp_symbol(&g, "n", 1, MOST);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor w1 = sp_graph_memory_2d(&g, "w1", in, SP_TYPE_F32, sp_dim(IN), sp_dim(HIDDEN), sp_dim(W1 * 4));
    sp_tensor w2 = sp_graph_memory_2d(&g, "w2", in, SP_TYPE_F32, sp_dim(HIDDEN), sp_dim(OUT), sp_dim(W2 * 4));
    sp_tensor x = sp_graph_memory_2d(&g, "x", in, SP_TYPE_F32, sp_dim(IN), n, sp_dim(X * 4));
    sp_tensor y = sp_graph_memory_2d(&g, "y", out, SP_TYPE_F32, sp_dim(OUT), n, sp_dim(0));
    sp_graph_into(&g, sp_mul_mat(&g, w2, sp_silu(&g, sp_mul_mat(&g, w1, x))), y);
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    int32_t program = sp_actor_check(bytes ? sp_program_load(bytes, size) : SP_E_FORMAT, "the program is refused");
    sp_graph_free(&g);
    return program;
}

/* The largest difference to the network computed by loops. */
static double worst(const float *m, int n) {
    double most = 0;
    for (int i = 0; i < n; i++) {
        float h[HIDDEN];
        for (int j = 0; j < HIDDEN; j++) {
            double sum = 0;
            for (int k = 0; k < IN; k++) {
                sum += (double)m[W1 + j * IN + k] * m[X + i * IN + k];
            }
            h[j] = (float)(sum / (1 + exp(-sum)));
        }
        for (int j = 0; j < OUT; j++) {
            double sum = 0;
            for (int k = 0; k < HIDDEN; k++) {
                sum += (double)m[W2 + j * HIDDEN + k] * h[k];
            }
            most = fmax(most, fabs(sum - m[Y + i * OUT + j]));
        }
    }
    return most;
}

int32_t sp_step(void) {
    uint32_t length, seed = 7;
    float *m = sp_actor_pages(ALL * sizeof(float), &length);
    for (int i = 0; i < READ; i++) {
        seed = seed * 1664525 + 1013904223;
        m[i] = (float)(seed >> 8) / (1 << 24) - 0.5f;
    }
    int32_t region = sp_actor_check(sp_region_open(m, length), "the memory can't be shared"), program = load_program();
    sp_actor_check(sp_program_bind(program, 0, region, 0, READ * 4), "bind in");
    sp_actor_check(sp_program_bind(program, 1, region, Y * 4, (ALL - Y) * 4), "bind out");
    sp_actor_check(sp_region_sync(region, 0, READ * 4, SP_TO_DEVICE), "sync");
    for (uint64_t n = 1; n <= MOST; n += 5) {
        sp_actor_check(sp_program_run(program, &n, 1), "the network can't be run");
        sp_actor_check(sp_region_sync(region, Y * 4, (uint32_t)n * OUT * 4, SP_FROM_DEVICE), "sync");
        double difference = worst(m, (int)n);
        printf("batch of %2d: largest difference %.1e, %s\n", (int)n, difference, difference < TOLERANCE ? "ok" : "WRONG");
    }
    fflush(stdout); /* an actor has no exit that would do it */
    return SP_DONE;
}
