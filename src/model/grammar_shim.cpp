/* llama.cpp's grammars: GBNF, JSON schemas, and what a chat template wants of tool calls. No exception leaves this file. */
#include "model/text_shim.hpp"

#include <cstring>
#include <deque>
#include <json-schema-to-grammar.h>
#include <limits>
#include <llama-grammar.h>
#include <memory>
#include <stdexcept>
#include <vector>

struct grammar_free {
    void operator()(llama_grammar *g) const {
        llama_grammar_free_impl(g);
    }
};

/* Where a text stands in the middle of a character: how many bytes are missing, and what the next one may be. */
struct utf8_state {
    int missing = 0;
    uint8_t low = 0x80, high = 0xbf;

    bool take(uint8_t byte) {
        if (missing > 0) {
            const bool fits = byte >= low && byte <= high;
            missing--, low = 0x80, high = 0xbf;
            return fits;
        }
        missing = byte < 0x80 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
        low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;  /* no overlong forms */
        high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf; /* no surrogates, nothing beyond U+10FFFF */
        return byte < 0x80 || (byte >= 0xc2 && byte <= 0xf4);
    }

    bool take(const std::string &text) {
        for (const char c : text) {
            if (!take(static_cast<uint8_t>(c))) {
                return false;
            }
        }
        return true;
    }
};

struct sp_grammar {
    const llama_vocab *vocab;
    std::string text;
    bool lazy = false; /* constrains nothing until a trigger was seen */
    std::vector<std::string> patterns;
    std::vector<llama_token> trigger_tokens;
    std::unique_ptr<llama_grammar, grammar_free> state;
    utf8_state utf8;                /* llama.cpp lets halves of surrogates and the like pass as characters */
    bool failed = false;            /* a token did not fit: its state is lost */
    std::deque<llama_token> recent; /* while a trigger is awaited */
};

/* While it waits, llama.cpp searches all of the answer for a trigger after each token. So it starts over now and then, with what came last. */
enum { MAX_AWAITING = 4096, KEPT_AWAITING = 64 };

/* What may come next is looked for in each stack, one for each way to have come here. Usual grammars have a few; a JSON schema some dozens. */
enum { MAX_STACKS = 2000 };

static void check_stacks(const sp_grammar *g) {
    if (g->state->stacks.size() > MAX_STACKS) {
        throw std::runtime_error("it takes too much work: it is too ambiguous");
    }
}

static void start(sp_grammar *g) {
    std::vector<const char *> patterns;
    for (const std::string &pattern : g->patterns) {
        patterns.push_back(pattern.c_str());
    }
    g->state.reset(llama_grammar_init_impl(g->vocab, g->text.c_str(), "root", g->lazy, patterns.data(), patterns.size(), g->trigger_tokens.data(),
                                           g->trigger_tokens.size()));
    if (!g->state) {
        throw std::runtime_error(sp_model_complaint());
    }
    check_stacks(g);
}

static std::string escaped(const std::string &word) {
    std::string out;
    for (const char c : word) {
        if (std::strchr(".^$|()*+?[]{}\\", c)) {
            out += '\\';
        }
        out += c;
    }
    return out;
}

static void take_trigger(sp_grammar *g, const common_grammar_trigger &trigger) {
    switch (trigger.type) {
    case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
        g->trigger_tokens.push_back(trigger.token);
        break;
    case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
        g->patterns.push_back(escaped(trigger.value));
        break;
    case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
        g->patterns.push_back(trigger.value);
        break;
    case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
        g->patterns.push_back("^(" + trigger.value + ")$");
        break;
    }
}

static std::string piece_of(const llama_vocab *vocab, llama_token token) {
    char piece[512];
    const int32_t n = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, true);
    return n > 0 ? std::string(piece, static_cast<size_t>(n)) : std::string();
}

/* What the template has written of the answer already counts for the grammar. */
static void prefill(sp_grammar *g, const std::string &text) {
    std::vector<llama_token> tokens(text.size() + 8);
    const int32_t n =
        llama_tokenize(g->vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(), static_cast<int32_t>(tokens.size()), false, true);
    for (int32_t i = 0; i < n; i++) {
        const std::string piece = piece_of(g->vocab, tokens[static_cast<size_t>(i)]);
        /* Some vocabularies put a space before the first token. */
        if (i == 0 && !piece.empty() && piece[0] == ' ' && text[0] != ' ') {
            continue;
        }
        llama_grammar_accept_impl(*g->state, tokens[static_cast<size_t>(i)]);
    }
}

static void open_for_chat(sp_grammar *g, sp_chat_templates *templates, const std::string &request) {
    const common_chat_params &params = sp_shim_chat_params(templates, request);
    g->text = params.grammar;
    g->lazy = params.grammar_lazy;
    if (g->text.empty()) {
        return;
    }
    if (g->lazy) {
        for (const common_grammar_trigger &trigger : params.grammar_triggers) {
            take_trigger(g, trigger);
        }
    }
    start(g);
    if (!g->lazy && !params.generation_prompt.empty()) {
        prefill(g, params.generation_prompt);
    }
}

sp_grammar *sp_shim_grammar_open(const struct llama_vocab *vocab, sp_chat_templates *templates, uint32_t kind, const char *text, size_t length,
                                 bool *none, char *why, size_t capacity) {
    std::unique_ptr<sp_grammar> g(new (std::nothrow) sp_grammar{});
    *none = false;
    const bool ok = g && sp_shim_guarded(
                             sp_shim_grammar_work,
                             [&] {
                                 sp_model_quiet();
                                 g->vocab = vocab;
                                 const std::string given(text, length);
                                 if (kind == SP_GRAMMAR_CHAT) {
                                     open_for_chat(g.get(), templates, given);
                                     *none = !g->state;
                                     return;
                                 }
                                 g->text = kind == SP_GRAMMAR_JSON_SCHEMA ? json_schema_to_grammar(common_json::parse(given)) : given;
                                 start(g.get());
                             },
                             why, capacity);
    return ok && !*none ? g.release() : nullptr;
}

void sp_shim_grammar_close(sp_grammar *grammar) {
    delete grammar;
}

static void await_trigger(sp_grammar *g, llama_token token) {
    g->recent.push_back(token);
    llama_work::spend(g->state->trigger_buffer.size() / 4); /* what a search costs */
    if (g->recent.size() > KEPT_AWAITING) {
        g->recent.pop_front();
    }
    if (g->state->awaiting_trigger && g->state->trigger_buffer.size() > MAX_AWAITING) {
        start(g);
        for (const llama_token t : g->recent) {
            llama_grammar_accept_impl(*g->state, t);
        }
    }
}

bool sp_shim_grammar_accept(sp_grammar *grammar, const int32_t *tokens, size_t count, char *why, size_t capacity) {
    if (grammar->failed) {
        std::snprintf(why, capacity, "a token before did not fit the grammar");
        return false;
    }
    const bool ok = sp_shim_guarded(
        8 * sp_shim_grammar_work, /* a long answer is accepted again at once */
        [&] {
            for (size_t i = 0; i < count; i++) {
                llama_grammar_accept_impl(*grammar->state, tokens[i]);
                if (grammar->state->awaiting_trigger) {
                    await_trigger(grammar, tokens[i]);
                } else if (!llama_vocab_is_eog(grammar->vocab, tokens[i]) && !grammar->utf8.take(piece_of(grammar->vocab, tokens[i]))) {
                    throw std::runtime_error("a character is broken");
                }
                check_stacks(grammar);
            }
        },
        why, capacity);
    grammar->failed = !ok;
    return ok;
}

/* What the grammar lets pass must also go on as UTF-8. */
static bool is_text(const sp_grammar *g, llama_token token) {
    utf8_state after = g->utf8;
    return g->state->awaiting_trigger || llama_vocab_is_eog(g->vocab, token) || after.take(piece_of(g->vocab, token));
}

bool sp_shim_grammar_allows(const sp_grammar *grammar, int32_t token, bool *allows, char *why, size_t capacity) {
    return !grammar->failed && sp_shim_guarded(
                                   sp_shim_grammar_work,
                                   [&] {
                                       llama_token_data one = {token, 0, 0};
                                       llama_token_data_array array = {&one, 1, -1, false};
                                       llama_grammar_apply_impl(*grammar->state, &array);
                                       *allows = one.logit == 0 && is_text(grammar, token);
                                   },
                                   why, capacity);
}

bool sp_shim_grammar_mask(const sp_grammar *grammar, float *logits, size_t count, char *why, size_t capacity) {
    const float never = -std::numeric_limits<float>::infinity();
    return !grammar->failed && sp_shim_guarded(
                                   sp_shim_grammar_work,
                                   [&] {
                                       std::vector<llama_token_data> candidates;
                                       candidates.reserve(count);
                                       for (size_t i = 0; i < count; i++) {
                                           if (logits[i] > never) {
                                               candidates.push_back({static_cast<llama_token>(i), 0, 0});
                                           }
                                       }
                                       llama_token_data_array array = {candidates.data(), candidates.size(), -1, false};
                                       llama_grammar_apply_impl(*grammar->state, &array);
                                       for (const llama_token_data &c : candidates) {
                                           if (c.logit != 0 || !is_text(grammar, c.id)) {
                                               logits[c.id] = never;
                                           }
                                       }
                                   },
                                   why, capacity);
}
