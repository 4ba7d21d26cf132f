#include "oracle/weights.h"

#include <ggml.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "program/program_impl.h"

enum { MAX_POOL = 200 };

static gen_weight pool[MAX_POOL];
static uint32_t pool_count;

static void add(uint32_t type, int64_t ne0, int64_t ne1, int64_t ne2) {
    pool[pool_count++] = (gen_weight){.type = type, .ne = {ne0, ne1, ne2, 1}};
}

const gen_weight *weight_pool(uint32_t *count) {
    for (uint32_t type = pool_count ? 64 : 0; type < 64; type++) {
        const sp_type_traits *traits = sp_type_get(type);
        if (!traits || type == SP_TYPE_I64) {
            continue;
        }
        add(type, 256, 4, 1);
        add(type, 256, 8, 1); /* eight rows: there are faster layouts of them */
        add(type, 256, 8, 3);
        if (traits->block < 256) {
            add(type, 64, 16, 1);
            add(type, 32, 6, 4);
        }
        if (!traits->quantised) {
            add(type, 64, 1, 1);
            add(type, 32, 1, 1);
        }
    }
    *count = pool_count;
    return pool;
}

static bool find(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    (void)context;
    char *end;
    *out = (sp_weight_info){.index = UINT32_MAX, .type = (uint32_t)strtoul(name, &end, 10)};
    for (int i = 0; i < 4; i++) {
        if (*end != ' ') {
            return false;
        }
        out->ne[i] = strtoll(end, &end, 10);
    }
    for (uint32_t i = 0; i < pool_count; i++) {
        if (pool[i].type == out->type && memcmp(pool[i].ne, out->ne, sizeof out->ne) == 0) {
            out->index = i;
        }
    }
    return model == 0 && *end == 0;
}

const sp_weight_source described_weights = {.find = find};

static uint64_t bytes_of(const gen_weight *w) {
    const sp_type_traits *traits = sp_type_get(w->type);
    return (uint64_t)(w->ne[0] / traits->block * w->ne[1] * w->ne[2]) * traits->size;
}

static uint64_t next(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

void weight_fill_grid(uint32_t type, uint8_t *at, uint64_t bytes, uint64_t *state) {
    const uint32_t size = sp_type_get(type)->size;
    for (uint64_t block = 0; block < bytes; block += size) {
        for (uint32_t i = 0; i < size; i++) {
            at[block + i] = (uint8_t)next(state);
        }
        if (type == SP_TYPE_IQ1_M) { /* the scale's four bits lie on top of four words at 48 */
            at[block + 55] = (at[block + 55] & 0x0f) | 0x20;
        } else {
            at[block + 1] = 0x28; /* a half near 0.03 */
        }
    }
}

bool weight_is_grid(uint32_t type) {
    return type >= SP_TYPE_IQ2_XXS && sp_type_class(type) == T_WQ && type != SP_TYPE_MXFP4;
}

static void fill(const gen_weight *w, uint8_t *at, uint64_t *state) {
    const int64_t n = w->ne[0] * w->ne[1] * w->ne[2];
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; values && i < n; i++) {
        values[i] = (float)((double)next(state) / (1 << 30) - 1);
        if (w->type == SP_TYPE_I32) {
            ((int32_t *)(void *)at)[i] = (int32_t)(next(state) % 50);
        }
    }
    if (weight_is_grid(w->type)) {
        weight_fill_grid(w->type, at, bytes_of(w), state);
    } else if (values && w->type != SP_TYPE_I32) {
        ggml_quantize_chunk((enum ggml_type)w->type, values, at, 0, n / w->ne[0], w->ne[0], NULL);
    }
    free(values);
}

const sp_weight_table *weight_pool_table(void) {
    static struct sp_weight_entry entries[MAX_POOL];
    static sp_weight_table table;
    uint32_t count;
    weight_pool(&count);
    if (table.n) {
        return &table;
    }
    uint64_t size = 0, state = 1;
    for (uint32_t i = 0; i < count; i++) {
        entries[i] = (struct sp_weight_entry){.name = "", .type = pool[i].type, .offset = size};
        memcpy(entries[i].ne, pool[i].ne, sizeof pool[i].ne);
        size += (bytes_of(&pool[i]) + 63) / 64 * 64;
    }
    size = (size + 65535) / 65536 * 65536;
    uint8_t *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        fill(&pool[i], base + entries[i].offset, &state);
    }
    mprotect(base, size, PROT_READ);
    table = (sp_weight_table){.base = base, .size = size, .n = count, .entries = entries};
    return &table;
}
