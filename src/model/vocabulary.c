/* Tokens and their text: pure functions of the model's file, from llama.cpp's libraries. */
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
