/*
 * The guest of `samepage proof`: does in steps, each asked for by a message, what the host wants to measure between them.
 *   touch     allocates a region of 16 MiB and writes to every page; answers with its address
 *   share     opens it as a region
 *   product   C = A * B, 128x128, in the region; answers "elements wrong"
 */
#include "samepage/actor.h"
#include "samepage/graph.h"

enum { N = 128, BYTES = N * N * sizeof(float), SHARED = 16 << 20 };

static float *pages;
static uint32_t length;
static int32_t region;

static void touch(void) {
    pages = sp_actor_pages(SHARED, &length);
    for (uint32_t i = 0; i < length / sizeof(float); i++) {
        pages[i] = (float)((i * 2654435761u) >> 28) - 8; /* small whole numbers: sums are exact */
    }
    char text[32];
    snprintf(text, sizeof text, "%u %u", (unsigned)(uintptr_t)pages, length);
    sp_actor_say(text);
}

static void share(void) {
    region = sp_actor_check(sp_region_open(pages, length), "the region can't be shared");
    sp_actor_say("shared");
}

static void product(void) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor a = sp_graph_memory_2d(&g, "a", in, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(0));
    sp_tensor b = sp_graph_memory_2d(&g, "b", in, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(BYTES));
    sp_tensor c = sp_graph_memory_2d(&g, "c", out, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(0));
    sp_graph_into(&g, sp_mul_mat(&g, a, b), c);
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    int32_t program = sp_actor_check(bytes ? sp_program_load(bytes, size) : SP_E_FORMAT, "the program is refused");
    sp_graph_free(&g);
    sp_actor_check(sp_program_bind(program, 0, region, 0, 2 * BYTES), "bind");
    sp_actor_check(sp_program_bind(program, 1, region, 2 * BYTES, BYTES), "bind");
    sp_actor_check(sp_region_sync(region, 0, 2 * BYTES, SP_TO_DEVICE), "sync");
    sp_actor_check(sp_program_run(program, NULL, 0), "the product can't be computed");
    sp_actor_check(sp_region_sync(region, 2 * BYTES, BYTES, SP_FROM_DEVICE), "sync");
    int wrong = 0;
    for (int i = 0; i < N * N; i++) {
        float sum = 0;
        for (int k = 0; k < N; k++) {
            sum += pages[i % N * N + k] * pages[N * N + i / N * N + k];
        }
        wrong += pages[2 * N * N + i] != sum;
    }
    char text[32];
    snprintf(text, sizeof text, "%d %d", N * N, wrong);
    sp_actor_say(text);
}

int32_t sp_step(void) {
    char text[16];
    if (sp_actor_receive(text, sizeof text) < 0) {
        return SP_IDLE;
    }
    if (strcmp(text, "touch") == 0) {
        touch();
    } else if (strcmp(text, "share") == 0) {
        share();
    } else {
        product();
    }
    return SP_AGAIN;
}
