/*
 * GGUF headers: an input that begins with GGUF is a file; any other is a list of edits of a good one: numbers in its header set to numbers at an
 * edge, and its end cut off. What opens is looked at: its information, a text taken apart and put together again, and, if the first byte says so, its
 * graph.
 */
#include <gguf.h>
#include <string.h>

#include "edits.h"
#include "fuzz.h"
#include "model/model.h"

static uint8_t *good, *damaged;
static size_t good_size, header_size;

static void start(void) {
    if (good) {
        return;
    }
    good = read_file(tiny_model(), &good_size);
    damaged = malloc(good_size);
    struct gguf_context *gguf = gguf_init_from_file(tiny_model(), (struct gguf_init_params){.no_alloc = true});
    CHECK(damaged && gguf);
    header_size = gguf_get_data_offset(gguf);
    gguf_free(gguf);
}

static size_t damage(const uint8_t *data, size_t size) {
    edit e;
    size_t length = good_size;
    memcpy(damaged, good, good_size);
    for (size_t i = 0; edit_get(data, size, 1, i, &e); i++) {
        const size_t at = e.place % (header_size - 8);
        const uint64_t value = edit_value(e.value);
        if (e.kind % 8 == 7) {
            length = at < length ? (e.kind & 8 ? good_size - at : at) : length;
        } else {
            memcpy(damaged + at, &value, (size_t)1 << e.kind % 4);
        }
    }
    return length;
}

static void look_at(sp_model *model, bool graph) {
    sp_model_info info;
    int32_t tokens[64];
    size_t count = 0, length = 0;
    char text[256];
    sp_error err;
    const char *meta;
    sp_model_get_info(model, &info);
    sp_model_meta(model, "general.name", &meta, &err);
    if (sp_model_tokenize(model, "The red key.", 12, SP_TOKENIZE_ADD_SPECIAL, tokens, 64, &count, &err) == SP_OK) {
        sp_model_detokenize(model, tokens, count < 64 ? count : 64, 0, text, sizeof text, &length, &err);
    }
    const void *bytes;
    uint64_t size;
    if (graph && sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err) == SP_OK) {
        sp_program *program;
        const sp_weight_source weights = {.find = sp_model_find_weight, .context = model};
        CHECK(sp_program_load(bytes, size, &weights, &program, &err) == SP_OK);
        sp_program_free(program);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    start();
    if (size == 0) {
        return 0;
    }
    const bool whole = size >= 4 && memcmp(data, "GGUF", 4) == 0;
    const size_t length = whole ? size : damage(data, size);
    sp_model *model = NULL;
    sp_error err = {0};
    const sp_status status = sp_model_open_bytes_cached(NULL, whole ? data : damaged, length, NULL, &model, &err);
    CHECK((status == SP_OK) == (model != NULL) && (status == SP_OK || (err.message[0] && !strchr(err.message, '\n'))));
    if (model) {
        look_at(model, !whole && data[0] % 4 == 0);
        sp_model_close(model);
    }
    return 0;
}
