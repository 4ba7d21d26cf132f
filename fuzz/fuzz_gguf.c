/*
 * GGUF headers: an input that begins with GGUF is a file; any other is a list of edits of a good one: numbers in its header set to numbers at an
 * edge, and its end cut off. What opens is looked at: its information, a text taken apart and put together again, and, if the first byte says so, its
 * graph.
 */
#include <string.h>

#include "edits.h"
#include "fuzz.h"
#include "model/model.h"

static header good;

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
    if (graph) {
        trace_model(model);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    header_of(&good, tiny_model());
    if (size == 0) {
        return 0;
    }
    const bool whole = size >= 4 && memcmp(data, "GGUF", 4) == 0;
    const size_t length = whole ? size : header_damage(&good, data, size);
    sp_model *model = NULL;
    sp_error err = {0};
    const sp_status status = sp_model_open_bytes_cached(NULL, whole ? data : good.damaged, length, NULL, &model, &err);
    CHECK((status == SP_OK) == (model != NULL) && (status == SP_OK || (err.message[0] && !strchr(err.message, '\n'))));
    if (model) {
        look_at(model, !whole && data[0] % 4 == 0);
        sp_model_close(model);
    }
    return 0;
}
