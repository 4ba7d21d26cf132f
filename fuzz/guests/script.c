/*
 * A guest that does what a message tells: calls of imports with the arguments that stand there, and bytes into its memory. It begins with a region,
 * a program that gathers rows and one that multiplies, all bound, so that calls have something to work on.
 */
#include "samepage/actor.h"
#include "samepage/graph.h"

enum { PAGES = 6, WIDTH = 4, ROWS = 16, IDS = 2, N = 8 };

static uint8_t script[4096], *pages;
static uint32_t length, page, at, end;

static uint32_t next(void) {
    return at < end ? script[at++] : 0;
}

/* A byte stands for an argument: a small number, a number at an edge, a place in memory, or four bytes that follow. */
static uint32_t argument(void) {
    const uint32_t size = (uint32_t)__builtin_wasm_memory_size(0) << 16, kind = next();
    const uint32_t edges[] = {size,     size - 1,  size + 1,   size - 4096, UINT32_MAX, UINT32_MAX - 4095,
                              1u << 31, INT32_MAX, 0x40000000, 0x10000,     page,       length};
    const uint32_t n_edges = sizeof edges / sizeof edges[0];
    if (kind < 96) {
        return kind;
    }
    if (kind < 96 + n_edges) {
        return edges[kind - 96];
    }
    if (kind < 160) {
        return (uint32_t)(uintptr_t)pages + (kind - 128) * 64;
    }
    if (kind < 192) {
        return (kind - 160) * page;
    }
    if (kind < 224) {
        return (uint32_t)(uintptr_t)pages + (kind - 192) * page;
    }
    return next() | next() << 8 | next() << 16 | next() << 24;
}

static int32_t load(bool gather) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), ids = sp_graph_slot(&g, "ids", SP_SLOT_READ),
             out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_expr n = sp_symbol(&g, "n", 1, N);
    if (gather) {
        sp_tensor table = sp_graph_memory_2d(&g, "table", in, SP_TYPE_F32, sp_dim(WIDTH), sp_dim(ROWS), sp_dim(0));
        sp_tensor which = sp_graph_memory_1d(&g, "which", ids, SP_TYPE_I32, n, sp_dim(0));
        sp_graph_into(&g, sp_get_rows(&g, table, which), sp_graph_memory_2d(&g, "to", out, SP_TYPE_F32, sp_dim(WIDTH), n, sp_dim(0)));
    } else {
        sp_tensor a = sp_graph_memory_2d(&g, "a", in, SP_TYPE_F32, sp_dim(N), n, sp_dim(0));
        sp_tensor b = sp_graph_memory_2d(&g, "b", ids, SP_TYPE_F32, sp_dim(N), sp_dim(N), sp_dim(0));
        sp_graph_into(&g, sp_mul_mat(&g, a, b), sp_graph_memory_2d(&g, "c", out, SP_TYPE_F32, n, sp_dim(N), sp_dim(0)));
    }
    uint32_t size;
    const void *bytes = sp_graph_bytes(&g, &size);
    int32_t program = sp_program_load(bytes, size);
    memcpy(pages + 4 * page, bytes, size < page ? size : page);
    sp_graph_free(&g);
    for (uint32_t slot = 0; slot < 3; slot++) {
        sp_program_bind(program, slot, 0, slot * page, page);
    }
    return program;
}

#define A (void *)(uintptr_t)argument()
#define I (int32_t) argument()

static void call(uint32_t what) {
    switch (what % 31) {
    case 0:
        sp_region_open(A, argument());
        break;
    case 1:
        sp_region_close(I);
        break;
    case 2:
        sp_region_sync(I, argument(), argument(), I);
        break;
    case 3:
        sp_program_load(A, argument());
        break;
    case 4:
        sp_program_close(I);
        break;
    case 5:
        sp_program_bind(I, argument(), I, argument(), argument());
        break;
    case 6:
        sp_program_run(I, A, argument());
        break;
    case 7:
        sp_program_submit(I, A, argument());
        break;
    case 8:
        sp_model_get_info(I, A);
        break;
    case 9:
        sp_model_get_meta(I, A, argument(), A, argument());
        break;
    case 10:
        sp_model_get_program(I, argument(), argument(), A, argument());
        break;
    case 11:
        sp_tokenize(I, A, argument(), argument(), A, argument());
        break;
    case 12:
        sp_detokenize(I, A, argument(), argument(), A, argument());
        break;
    case 13:
        sp_token_is_end(I, I);
        break;
    case 14:
        sp_chat_format(I, A, argument(), argument(), A, argument());
        break;
    case 15:
        sp_receive(A, argument());
        break;
    case 16:
        sp_send(A, argument());
        break;
    case 17:
        sp_last_error(A, argument());
        break;
    case 18:
        __builtin_wasm_memory_grow(0, argument());
        break;
    case 19:
        pages[argument() % length] = (uint8_t)next();
        break;
    case 20:
        memset(pages + argument() % length, (int)next(), 1);
        break;
    case 21:
        ((uint32_t *)pages)[argument() % (length / 4)] = argument();
        break;
    case 23:
        sp_grammar_open(I, argument() % 4, A, argument());
        break;
    case 24:
        sp_grammar_close(I);
        break;
    case 25:
        sp_grammar_accept(I, A, argument());
        break;
    case 26:
        sp_grammar_allows(I, I);
        break;
    case 27:
        sp_grammar_mask(I, A, argument());
        break;
    case 28:
        sp_chat_parse(I, A, argument(), A, argument(), argument(), A, argument());
        break;
    case 29:
        sp_model_get_embeddings_program(I, argument(), argument(), A, argument());
        break;
    case 22:
        load(next() & 1);
        break;
    default:
        sp_page_size(), sp_device_is_unified(), sp_model_count(), sp_seed(), sp_clock();
        break;
    }
}

int32_t sp_step(void) {
    page = sp_page_size();
    if (!pages) {
        pages = sp_actor_pages(PAGES * page, &length);
        sp_region_open(pages, length);
        load(true);
        load(false);
    }
    int32_t n = sp_receive(script, sizeof script);
    if (n < 0) {
        return SP_IDLE;
    }
    at = 0;
    end = (uint32_t)n < sizeof script ? (uint32_t)n : sizeof script;
    while (at < end) {
        call(next());
    }
    return SP_AGAIN;
}
