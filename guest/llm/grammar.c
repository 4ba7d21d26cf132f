/* See grammar.h. */
#include "grammar.h"

#include <stdlib.h>
#include <string.h>

#include "conversation.h"
#include "samepage/abi.h"

static struct {
    uint32_t kind, length;
    char *text;
} given; /* by SP_LLM_GRAMMAR */

static struct {
    bool active;
    uint32_t kind, length;
    const char *text;
    int32_t handle; /* may be unknown to the host */
    int32_t *tokens;
    uint32_t n, capacity;
} now = {.handle = -1};

const char *grammar_set(uint32_t kind, const char *text, uint32_t length) {
    char *copy = NULL;
    if (length) {
        int32_t handle = sp_grammar_open(0, kind, text, length);
        if (handle < 0) {
            return host_error("the grammar is refused");
        }
        sp_grammar_close(handle);
        copy = malloc(length);
        if (!copy) {
            return "out of memory";
        }
        memcpy(copy, text, length);
    }
    now.active = false;
    free(given.text);
    given.kind = kind;
    given.length = length;
    given.text = copy;
    return NULL;
}

static int32_t open_now(void) {
    now.handle = sp_grammar_open(0, now.kind, now.text, now.length);
    return now.handle;
}

const char *grammar_begin(const char *request, uint32_t length) {
    if (now.handle >= 0) {
        sp_grammar_close(now.handle); /* unknown after a thaw: no harm */
        now.handle = -1;
    }
    now.n = 0;
    now.active = given.length || request;
    now.kind = given.length ? given.kind : SP_GRAMMAR_CHAT;
    now.text = given.length ? given.text : request;
    now.length = given.length ? given.length : length;
    int32_t opened = now.active ? open_now() : 0;
    if (opened == SP_E_NOT_FOUND && !given.length) {
        now.active = false; /* nothing in the request constrains the answer */
        return NULL;
    }
    return opened < 0 ? host_error("the grammar is refused") : NULL;
}

bool grammar_active(void) {
    return now.active;
}

/* After SP_E_NOT_FOUND: the same state again, from the text and the tokens. */
static bool reopen(void) {
    return open_now() >= 0 && sp_grammar_accept(now.handle, now.tokens, now.n) >= 0;
}

bool grammar_allows(int32_t token) {
    int32_t r = sp_grammar_allows(now.handle, token);
    if (r == SP_E_NOT_FOUND && reopen()) {
        r = sp_grammar_allows(now.handle, token);
    }
    return r == 1;
}

const char *grammar_mask(float *logits, uint32_t n) {
    int32_t r = sp_grammar_mask(now.handle, logits, n);
    if (r == SP_E_NOT_FOUND && reopen()) {
        r = sp_grammar_mask(now.handle, logits, n);
    }
    return r < 0 ? host_error("the answer can't go on") : NULL;
}

const char *grammar_accept(int32_t token) {
    if (now.n == now.capacity) {
        uint32_t more = now.capacity ? now.capacity * 2 : 256;
        int32_t *grown = realloc(now.tokens, more * sizeof *grown);
        if (!grown) {
            return "out of memory";
        }
        now.tokens = grown;
        now.capacity = more;
    }
    int32_t r = sp_grammar_accept(now.handle, &token, 1);
    if (r == SP_E_NOT_FOUND && reopen()) {
        r = sp_grammar_accept(now.handle, &token, 1);
    }
    now.tokens[now.n++] = token;
    return r < 0 ? host_error("the answer can't go on") : NULL;
}
