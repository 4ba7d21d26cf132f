/* See alone.h. */
#include "alone.h"

#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Some CPU kernels change their order at 4 rows (weights of type q4_K in ggml's faster layout) or at 8 (other K-quants). */
const uint32_t alone_sizes[ALONE_SIZES] = {3, 7, 16, 32};
enum { KNOWN = 64, LANES = 4 };

static struct {
    int refused;            /* 1 + the number of the smallest size that is not the same; 0: none is known to be so */
    uint8_t *same;          /* by the block of cells: bits of sizes */
    uint64_t hashes[KNOWN]; /* of the logits of the tokens at positions from `from` up to `end`, each at its position modulo KNOWN */
    uint32_t from, end;
    int comparing;  /* 1 + the number of the size under way */
    bool outdated;  /* the device changed since the comparison began */
    uint32_t at;    /* the first token of it */
    uint8_t *cells; /* of these tokens, as they were */
} alone;

void alone_forget(void) {
    alone.refused = 0;
    alone.from = alone.end = 0;
    alone.outdated = true;
    free(alone.same);
    alone.same = NULL;
}

void alone_restart(void) {
    alone.from = alone.end = 0;
}

/* Equal bytes give equal hashes; others do not, but for a chance of 2^-64 or so. */
static uint64_t hash_of(const float *logits) {
    const char *at = (const char *)logits;
    uint64_t lanes[LANES] = {1, 2, 3, 4}, words[LANES] = {0};
    for (size_t left = engine_row() * sizeof *logits; left; at += sizeof words) {
        const size_t n = left < sizeof words ? left : sizeof words;
        memcpy(words, at, n);
        for (int i = 0; i < LANES; i++) {
            lanes[i] = (lanes[i] ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
            lanes[i] ^= lanes[i] >> 29;
        }
        left -= n;
    }
    return (lanes[0] * 3 + lanes[1]) * UINT64_C(0xff51afd7ed558ccd) ^ (lanes[2] * 5 + lanes[3]);
}

void alone_note(uint32_t position, const float *logits) {
    if (alone.refused == 1) {
        return;
    }
    if (position != alone.end) {
        alone.from = position;
    }
    alone.hashes[position % KNOWN] = hash_of(logits);
    alone.end = position + 1;
}

static bool may_be_same(int size) {
    return !alone.refused || size < alone.refused - 1;
}

/* A token alone looks at the cells of its block and those before. */
static bool in_one_block(uint32_t from, uint32_t n) {
    return engine_block(from) == engine_block(from + n - 1);
}

bool alone_is_same(int size, uint32_t n_past) {
    return alone.same && in_one_block(n_past, alone_sizes[size]) && alone.same[engine_block(n_past)] >> size & 1;
}

bool alone_can_compare(int size, uint32_t n_past) {
    const uint32_t n = alone_sizes[size];
    return may_be_same(size) && engine_cell_bytes() && n_past >= n && alone.end == n_past && alone.end - alone.from >= n &&
           in_one_block(n_past - n, n + 1) && engine_keep(n_past, n_past - n) == n_past - n;
}

bool alone_compare(int size, const int32_t *context, uint32_t n_past) {
    const uint32_t n = alone_sizes[size];
    if (!alone.same) {
        alone.same = calloc(engine_block(engine_n_ctx() - 1) + 1, 1);
    }
    alone.cells = malloc(n * engine_cell_bytes());
    if (!alone.same || !alone.cells) {
        free(alone.cells);
        return false;
    }
    const uint32_t at = n_past - n;
    if (!engine_cells(CELLS_READ, at, n, alone.cells) || engine_submit_alone(context + at, n, at)) {
        free(alone.cells);
        alone.refused = size + 1;
        return false;
    }
    alone.at = at;
    alone.comparing = size + 1;
    alone.outdated = false;
    return true;
}

static bool is_same(uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (hash_of(engine_output(i)) != alone.hashes[(alone.at + i) % KNOWN]) {
            return false;
        }
    }
    return true;
}

bool alone_compared(void) {
    if (!alone.comparing) {
        return false;
    }
    const int size = alone.comparing - 1;
    const uint32_t n = alone_sizes[size];
    const bool same_cells = engine_cells(CELLS_COMPARE, alone.at, n, alone.cells);
    if (!same_cells) {
        engine_cells(CELLS_WRITE, alone.at, n, alone.cells);
    }
    if (same_cells && !alone.outdated && is_same(n)) {
        alone.same[engine_block(alone.at)] |= (uint8_t)(1 << size);
    } else if (!alone.outdated) {
        alone.refused = size + 1;
    }
    free(alone.cells);
    alone.comparing = 0;
    return true;
}
