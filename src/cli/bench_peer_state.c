/* libllama's state of a sequence, for `bench state`. See bench_peer.h. */
#include <llama.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/bench_peer_impl.h"

/*
 * What llama_state_seq_get_data writes for a plain attention cache: a magic number, the sequence, streams and cells (u32 each); a position, a count
 * and a sequence for each cell (i32 each); whether V is transposed, layers, and two sizes of rotations (u32 each); then, for K of each layer and V of
 * each layer, the type (i32), the bytes of a row (u64) and the rows.
 */
enum { HEAD = 16, CELL = 12, MIDDLE = 16, PART = 12 };

typedef struct buffer {
    uint8_t *bytes;
    size_t size;
} buffer;

static uint32_t read_u32(const uint8_t *at) {
    uint32_t n;
    memcpy(&n, at, sizeof n);
    return n;
}

static buffer get_state(sp_peer *peer) {
    buffer b = {.size = llama_state_seq_get_size(peer->context, 0)};
    b.bytes = malloc(b.size + 1);
    if (b.bytes && llama_state_seq_get_data(peer->context, b.bytes, b.size, 0) != b.size) {
        free(b.bytes);
        b.bytes = NULL;
    }
    return b;
}

/* The same state with `count` cells; the rows repeat. */
static buffer stretch(const buffer *from, uint32_t count, sp_error *err) {
    buffer to = {0};
    uint32_t cells = from->size > HEAD ? read_u32(from->bytes + 12) : 0;
    uint64_t middle = HEAD + (uint64_t)cells * CELL;
    if (!cells || read_u32(from->bytes + 8) != 1 || from->size < middle + MIDDLE || read_u32(from->bytes + middle) != 0) {
        sp_fail(err, SP_ERR_UNSUPPORTED, "libllama's state is not that of a plain attention cache");
        return to;
    }
    uint32_t parts = 2 * read_u32(from->bytes + middle + 4);
    uint64_t rows = (from->size - middle - MIDDLE - (uint64_t)parts * PART) / cells; /* bytes a cell */
    to.size = HEAD + MIDDLE + (uint64_t)parts * PART + count * (CELL + rows);
    to.bytes = malloc(to.size);
    if (!to.bytes) {
        sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
        return to;
    }
    uint8_t *at = to.bytes;
    const uint8_t *source = from->bytes + middle, *end = from->bytes + from->size;
    memcpy(at, from->bytes, HEAD);
    memcpy(at + 12, &count, sizeof count);
    at += HEAD;
    for (uint32_t i = 0; i < count; i++, at += CELL) {
        memcpy(at, (int32_t[3]){(int32_t)i, 1, 0}, CELL);
    }
    memcpy(at, source, MIDDLE);
    at += MIDDLE, source += MIDDLE;
    for (uint32_t part = 0; part < parts && end - source >= PART; part++) {
        uint64_t row;
        memcpy(&row, source + 4, sizeof row);
        memcpy(at, source, PART);
        at += PART, source += PART;
        for (uint32_t i = 0; i < count && row <= (uint64_t)(end - source) / cells; i++, at += row) {
            memcpy(at, source + (i % cells) * row, row);
        }
        source += row * cells;
    }
    if (at != to.bytes + to.size) {
        free(to.bytes);
        to.bytes = NULL;
        sp_fail(err, SP_ERR_UNSUPPORTED, "libllama's state has another layout");
    }
    return to;
}

sp_status sp_peer_assume(sp_peer *peer, uint32_t count, sp_error *err) {
    buffer from = get_state(peer), to = {0};
    sp_status status = from.bytes ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "libllama does not give its state");
    if (status == SP_OK) {
        to = stretch(&from, count, err);
        status = to.bytes ? SP_OK : SP_ERR_UNSUPPORTED;
    }
    free(from.bytes);
    if (status == SP_OK) {
        llama_memory_clear(llama_get_memory(peer->context), false);
        size_t read = llama_state_seq_set_data(peer->context, to.bytes, to.size, 0);
        bool whole = read == to.size && llama_memory_seq_pos_max(llama_get_memory(peer->context), 0) == (llama_pos)count - 1;
        status = whole ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "libllama does not take a state of %u cells", count);
    }
    free(to.bytes);
    return status;
}

sp_status sp_peer_save(sp_peer *peer, const char *path, const int32_t *tokens, uint32_t count, sp_error *err) {
    return llama_state_seq_save_file(peer->context, path, 0, tokens, count) ? SP_OK : sp_fail(err, SP_ERR_IO, "libllama can't save %s", path);
}

sp_status sp_peer_load(sp_peer *peer, const char *path, int32_t *tokens, uint32_t capacity, sp_error *err) {
    size_t count;
    llama_memory_clear(llama_get_memory(peer->context), false);
    return llama_state_seq_load_file(peer->context, path, 0, tokens, capacity, &count) ? SP_OK
                                                                                       : sp_fail(err, SP_ERR_IO, "libllama can't load %s", path);
}
