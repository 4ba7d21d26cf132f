/* Conversations and grammars: limits on what nobody trusts, then llama.cpp. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/model_impl.h"

enum { MAX_DEPTH = 100, MAX_REQUEST = 8 << 20, MAX_ANSWER = 4 << 20, MAX_GRAMMAR = 256 << 10, MAX_SCHEMA = 64 << 10 };

/* How deep brackets are nested outside of strings. The JSON library below recurses. */
static bool is_too_deep(const char *json, size_t length) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length && depth <= MAX_DEPTH; i++) {
        char c = json[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else {
            in_string = c == '"';
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        }
    }
    return depth > MAX_DEPTH;
}

static sp_status check_json(const char *what, const char *json, size_t length, size_t most, sp_error *err) {
    if (length > most) {
        return sp_fail(err, SP_ERR_LIMIT, "%s has %zu bytes; at most %zu are handled", what, length, most);
    }
    if (is_too_deep(json, length)) {
        return sp_fail(err, SP_ERR_LIMIT, "%s is nested deeper than %d levels", what, MAX_DEPTH);
    }
    return SP_OK;
}

/* The model's templates, made at the first use; under the model's lock. */
static struct sp_chat_templates *templates_of(sp_model *model, char *why, size_t capacity) {
    if (!model->chat) {
        model->chat = sp_shim_chat_open(model->vocab_model, why, capacity);
    }
    return model->chat;
}

sp_status sp_model_chat_format(const sp_model *constant, const char *json, size_t length, uint32_t flags, char **text, size_t *size, sp_error *err) {
    sp_model *model = (sp_model *)(uintptr_t)constant;
    *text = NULL;
    sp_status status = check_json("the conversation", json, length, MAX_REQUEST, err);
    if (status != SP_OK) {
        return status;
    }
    char why[300] = "";
    pthread_mutex_lock(&model->lock);
    struct sp_chat_templates *templates = templates_of(model, why, sizeof why);
    if (templates) {
        *text = sp_shim_chat_apply(templates, json, length, flags, size, why, sizeof why);
    }
    pthread_mutex_unlock(&model->lock);
    return *text ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the model's chat template refused the conversation: %s", why);
}

sp_status sp_model_chat_parse(const sp_model *constant, const char *json, size_t length, const char *answer, size_t answer_length, bool partial,
                              char **text, size_t *size, sp_error *err) {
    sp_model *model = (sp_model *)(uintptr_t)constant;
    *text = NULL;
    sp_status status = check_json("the conversation", json, length, MAX_REQUEST, err);
    if (status != SP_OK) {
        return status;
    }
    if (answer_length > MAX_ANSWER) {
        return sp_fail(err, SP_ERR_LIMIT, "the answer has %zu bytes; at most %d are parsed", answer_length, MAX_ANSWER);
    }
    char why[300] = "";
    pthread_mutex_lock(&model->lock);
    struct sp_chat_templates *templates = templates_of(model, why, sizeof why);
    if (templates) {
        *text = sp_shim_chat_parse(templates, json, length, answer, answer_length, partial, size, why, sizeof why);
    }
    pthread_mutex_unlock(&model->lock);
    return *text ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the answer can't be parsed: %s", why);
}

sp_status sp_grammar_open(const sp_model *constant, uint32_t kind, const char *text, size_t length, sp_grammar **out, sp_error *err) {
    sp_model *model = (sp_model *)(uintptr_t)constant;
    *out = NULL;
    if (kind > SP_GRAMMAR_CHAT) {
        return sp_fail(err, SP_ERR_ARGUMENT, "no kind of grammar has the number %u", kind);
    }
    if (llama_vocab_type(model->vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the model has no vocabulary");
    }
    sp_status status = SP_OK;
    if (kind != SP_GRAMMAR_GBNF) {
        status = check_json(kind == SP_GRAMMAR_CHAT ? "the conversation" : "the JSON schema", text, length,
                            kind == SP_GRAMMAR_CHAT ? MAX_REQUEST : MAX_SCHEMA, err);
    } else if (length > MAX_GRAMMAR || memchr(text, 0, length)) {
        status = sp_fail(err, SP_ERR_LIMIT, "a grammar has at most %d bytes, none of them 0", MAX_GRAMMAR);
    }
    if (status != SP_OK) {
        return status;
    }
    char why[300] = "";
    bool none = false;
    struct sp_chat_templates *templates = NULL;
    pthread_mutex_lock(&model->lock);
    if (kind != SP_GRAMMAR_CHAT || (templates = templates_of(model, why, sizeof why))) {
        *out = sp_shim_grammar_open(model->vocab, templates, kind, text, length, &none, why, sizeof why);
    }
    pthread_mutex_unlock(&model->lock);
    if (none) {
        return sp_fail(err, SP_ERR_NOT_FOUND, "this request constrains nothing");
    }
    return *out ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the grammar can't be used: %s", why);
}

void sp_grammar_close(sp_grammar *grammar) {
    sp_shim_grammar_close(grammar);
}

static bool is_token(const sp_model *model, int32_t token) {
    return token >= 0 && (uint32_t)token < model->info.n_vocab;
}

sp_status sp_grammar_accept(sp_grammar *grammar, const sp_model *model, const int32_t *tokens, size_t count, sp_error *err) {
    for (size_t i = 0; i < count; i++) {
        if (!is_token(model, tokens[i])) {
            return sp_fail(err, SP_ERR_RANGE, "token %d: the vocabulary has 0 to %u", tokens[i], model->info.n_vocab - 1);
        }
    }
    char why[300] = "";
    return sp_shim_grammar_accept(grammar, tokens, count, why, sizeof why) ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the grammar: %s", why);
}

sp_status sp_grammar_allows(const sp_grammar *grammar, const sp_model *model, int32_t token, bool *allows, sp_error *err) {
    char why[300] = "a token before did not fit";
    if (!is_token(model, token)) {
        return sp_fail(err, SP_ERR_RANGE, "token %d: the vocabulary has 0 to %u", token, model->info.n_vocab - 1);
    }
    return sp_shim_grammar_allows(grammar, token, allows, why, sizeof why) ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the grammar: %s", why);
}

sp_status sp_grammar_mask(const sp_grammar *grammar, const sp_model *model, float *logits, size_t count, sp_error *err) {
    char why[300] = "a token before did not fit";
    if (count != model->info.n_vocab) {
        return sp_fail(err, SP_ERR_RANGE, "%zu logits; the vocabulary has %u tokens", count, model->info.n_vocab);
    }
    return sp_shim_grammar_mask(grammar, logits, count, why, sizeof why) ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "the grammar: %s", why);
}
