#include "oracle/fill.h"

#include <ggml.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/numbers.h"

static bool is_mask(const sp_spec *spec, uint32_t tensor) {
    for (uint32_t i = tensor + 1; i < spec->n_tensors; i++) {
        const sp_spec_tensor *t = &spec->tensors[i];
        for (uint32_t s = 0; t->kind == SP_TENSOR_OP && s < t->n_src; s++) {
            if (t->src[s] == tensor && strcmp(sp_rule_get(t->op)->src[s].name, "mask") == 0) {
                return true;
            }
        }
    }
    return false;
}

static float some_number(choices *c, bool mask) {
    if (mask) {
        return chance(c, 3) ? -INFINITY : chance(c, 2) ? 0 : (float)choose(c, 1000) * -0.01f;
    }
    switch (choose(c, 40)) {
    case 0:
        return 0;
    case 1:
        return 60;
    case 2:
        return -1e-3f;
    default:
        return ((float)choose(c, 1 << 20) + (float)choose(c, 1 << 20) - (float)(1 << 20)) * 0x1p-19f;
    }
}

static void put_row(choices *c, const sp_spec_tensor *t, uint8_t *at, bool mask) {
    float values[64 * 64 * 3]; /* the longest: a state of three heads */
    if (t->ne[0] > (int64_t)(sizeof values / sizeof *values)) {
        return;
    }
    for (int64_t i = 0; i < t->ne[0]; i++) {
        values[i] = some_number(c, mask);
        const int32_t number = (int32_t)choose(c, 3000);
        const int64_t wide = number;
        const uint16_t half = number_to_half((double)values[i]);
        switch (t->type) {
        case SP_TYPE_F16:
            memcpy(at + 2 * i, &half, 2);
            break;
        case SP_TYPE_I32:
            memcpy(at + 4 * i, &number, 4);
            break;
        case SP_TYPE_I64:
            memcpy(at + 8 * i, &wide, 8);
            break;
        case SP_TYPE_BF16:
            memcpy(at + 2 * i, (const uint8_t *)&values[i] + 2, 2);
            break;
        default:
            break;
        }
    }
    if (t->type == SP_TYPE_F32) {
        memcpy(at, values, (size_t)t->ne[0] * sizeof *values);
    } else if (weight_is_grid(t->type)) {
        weight_fill_grid(t->type, at, (uint64_t)t->ne[0] / 256 * t->nb[0], &c->state);
    } else if (sp_type_get(t->type)->quantised) {
        ggml_quantize_chunk((enum ggml_type)t->type, values, at, 0, 1, t->ne[0], NULL);
    }
}

static void put_bytes(choices *c, const sp_spec_tensor *t, uint8_t *at) {
    const sp_type_traits *traits = sp_type_get(t->type);
    for (uint64_t i = 0; i < (uint64_t)t->ne[0] / traits->block * traits->size; i++) {
        /* Ones often: NaN and the largest numbers. */
        at[i] = chance(c, 4) ? 0xff : chance(c, 4) ? 0x7f : (uint8_t)choose(c, 256);
    }
}

/* Ids of a row, or of the whole window where there are enough: all different. */
static void put_ids(choices *c, const sp_spec_tensor *t, int64_t bound, uint8_t *at) {
    const int64_t count = sp_elements(t), group = count <= bound ? count : t->ne[0];
    int64_t *order = malloc((size_t)bound * sizeof *order);
    for (int64_t i = 0; order && i < count; i++) {
        if (i % group == 0) {
            for (int64_t k = 0; k < bound; k++) {
                order[k] = k;
            }
        }
        int64_t id = choose(c, (uint32_t)bound);
        if (group <= bound) {
            const int64_t from = i % group, to = from + (int64_t)choose(c, (uint32_t)(bound - from));
            id = order[to];
            order[to] = order[from];
        }
        const int32_t narrow = (int32_t)id;
        memcpy(at + i * (t->type == SP_TYPE_I64 ? 8 : 4), t->type == SP_TYPE_I64 ? (const void *)&id : &narrow, t->type == SP_TYPE_I64 ? 8 : 4);
    }
    free(order);
}

static void put_window(choices *c, const sp_spec_tensor *t, uint8_t *base, bool mask, bool wild) {
    for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
                uint8_t *at = base + numbers_row_offset(t, i1, i2, i3);
                if (wild) {
                    put_bytes(c, t, at);
                } else {
                    put_row(c, t, at, mask);
                }
            }
        }
    }
}

void fill_slots(const sp_spec *spec, uint8_t *const *slots, uint64_t seed, bool wild) {
    choices c = {.state = seed};
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        memset(slots[i], 0xa5, spec->slots[i].size);
    }
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        const sp_spec_tensor *t = &spec->tensors[i];
        if (t->kind == SP_TENSOR_MEMORY && t->slot != GEN_SEEN && !t->index) {
            put_window(&c, t, slots[t->slot] + t->offset, is_mask(spec, i), wild);
        }
    }
    for (uint32_t i = 0; i < spec->n_indices; i++) {
        const sp_spec_tensor *t = &spec->tensors[spec->indices[i].tensor];
        put_ids(&c, t, spec->indices[i].bound, slots[t->slot] + t->offset);
    }
}
