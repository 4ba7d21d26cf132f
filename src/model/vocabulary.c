/* Tokens and chat templates: pure functions of the model's file, from llama.cpp's libraries. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/model_impl.h"

sp_status sp_model_tokenize(const sp_model *model, const char *text, size_t length, uint32_t flags, int32_t *tokens, size_t capacity, size_t *count,
                            sp_error *err) {
    if (length > INT32_MAX / 4 || capacity > INT32_MAX) {
        return sp_fail(err, SP_ERR_LIMIT, "%zu bytes are too many to tokenise at once", length);
    }
    if (llama_vocab_type(model->vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the model has no vocabulary");
    }
    sp_tokenize_call call = {.vocab = model->vocab,
                             .text = text,
                             .length = length,
                             .add_special = flags & SP_TOKENIZE_ADD_SPECIAL,
                             .parse_special = flags & SP_TOKENIZE_PARSE_SPECIAL,
                             .tokens = tokens,
                             .capacity = capacity};
    if (!sp_llama_tokenize(&call)) {
        return sp_fail(err, SP_ERR_FORMAT, "the model's vocabulary can't tokenise: %s", sp_model_complaint());
    }
    int32_t n = call.count;
    if (n == INT32_MIN) {
        return sp_fail(err, SP_ERR_LIMIT, "the text has too many tokens");
    }
    *count = (size_t)(n < 0 ? -n : n);
    return SP_OK;
}

sp_status sp_model_detokenize(const sp_model *model, const int32_t *tokens, size_t count, uint32_t flags, char *text, size_t capacity, size_t *length,
                              sp_error *err) {
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= model->info.n_vocab) {
            return sp_fail(err, SP_ERR_RANGE, "token %d: the vocabulary has 0 to %u", tokens[i], model->info.n_vocab - 1);
        }
        char piece[512];
        sp_piece_call call = {
            .vocab = model->vocab, .token = tokens[i], .special = flags & SP_DETOKENIZE_SPECIAL, .text = piece, .capacity = sizeof piece};
        if (llama_vocab_type(model->vocab) == LLAMA_VOCAB_TYPE_NONE || !sp_llama_to_piece(&call)) {
            return sp_fail(err, SP_ERR_FORMAT, "the model's vocabulary has no text for token %d", tokens[i]);
        }
        int32_t n = call.length;
        if (n < 0) {
            return sp_fail(err, SP_ERR_LIMIT, "token %d has a text of %d bytes; at most %zu are handled", tokens[i], -n, sizeof piece);
        }
        for (int32_t j = 0; j < n && *length + (size_t)j < capacity; j++) {
            text[*length + (size_t)j] = piece[j];
        }
        *length += (size_t)n;
    }
    return SP_OK;
}

bool sp_model_is_end(const sp_model *model, int32_t token) {
    return llama_vocab_type(model->vocab) != LLAMA_VOCAB_TYPE_NONE && token >= 0 && (uint32_t)token < model->info.n_vocab &&
           llama_vocab_is_eog(model->vocab, token);
}

/* Takes role and content of each message; the strings belong to the array. */
static sp_status take_messages(json_t *array, const char **roles, const char **contents, sp_error *err) {
    size_t i;
    json_t *message;
    json_array_foreach(array, i, message) {
        roles[i] = json_string_value(json_object_get(message, "role"));
        contents[i] = json_string_value(json_object_get(message, "content"));
        if (!roles[i] || !contents[i]) {
            return sp_fail(err, SP_ERR_FORMAT, "message %zu of the conversation lacks \"role\" or \"content\"", i);
        }
    }
    return SP_OK;
}

static sp_status render(sp_model *model, const char **roles, const char **contents, size_t count, bool add_generation_prompt, char **text,
                        sp_error *err) {
    char why[300] = "";
    pthread_mutex_lock(&model->lock);
    if (!model->chat) {
        model->chat = sp_shim_chat_open(model->vocab_model, why, sizeof why);
    }
    if (model->chat) {
        *text = sp_shim_chat_apply(model->chat, roles, contents, count, add_generation_prompt, why, sizeof why);
    }
    pthread_mutex_unlock(&model->lock);
    return *text ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the model's chat template refused the conversation: %s", why);
}

sp_status sp_model_chat_format(const sp_model *model, const char *json, size_t length, bool add_generation_prompt, char **text, sp_error *err) {
    *text = NULL;
    json_error_t problem;
    json_t *array = json_loadb(json, length, 0, &problem);
    if (!json_is_array(array)) {
        json_decref(array);
        return sp_fail(err, SP_ERR_FORMAT, "the conversation is no JSON array: %s", problem.text);
    }
    size_t count = json_array_size(array);
    const char **roles = calloc(count + 1, sizeof *roles), **contents = calloc(count + 1, sizeof *contents);
    sp_status status = roles && contents ? take_messages(array, roles, contents, err) : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    if (status == SP_OK) {
        status = render((sp_model *)(uintptr_t)model, roles, contents, count, add_generation_prompt, text, err);
    }
    free(roles);
    free(contents);
    json_decref(array);
    return status;
}
