/* Grammars: handles, floods of them, texts that are none, deep and endless ones, tokens and logits at the edges.
 * expect: done
 * limits: text_bytes=100000 step_ms=60000 */
#include "hostile.h"

static char text[100001];
static float logits[4];

static int32_t open_text(const char *rules) {
    return sp_grammar_open(0, SP_GRAMMAR_GBNF, rules, (uint32_t)strlen(rules));
}

int32_t sp_step(void) {
    int32_t id = 0, grammar = sp_actor_check(open_text("root ::= [a-z]*"), "a grammar"), opened = 0;
    EXPECT(SP_E_RANGE, sp_grammar_open(0, SP_GRAMMAR_GBNF, at(memory_size()), 1));
    EXPECT(SP_E_LIMIT, sp_grammar_open(0, SP_GRAMMAR_GBNF, text, 100001));
    EXPECT(SP_E_NOT_FOUND, sp_grammar_open(1, SP_GRAMMAR_GBNF, text, 1));
    EXPECT(1, sp_grammar_open(0, 77, text, 1) < 0);
    static const char *const bad[] = {
        "", "root", "root ::= (", "root ::= root", "root ::= other", "root ::= \"a\"{1000000000}", "x ::= \"a\"", "root ::= [\xff"};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        EXPECT(1, open_text(bad[i]) < 0 ? 1 : -(int)i);
    }
    memset(text, '(', 100000);
    memcpy(text, "root ::= ", 9);
    EXPECT(1, sp_grammar_open(0, SP_GRAMMAR_GBNF, text, 100000) < 0);
    static const int32_t wrong[] = {-1, 1 << 30, INT32_MAX, INT32_MIN};
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        EXPECT(SP_E_NOT_FOUND, sp_grammar_close(wrong[i]));
        EXPECT(SP_E_NOT_FOUND, sp_grammar_accept(wrong[i], &id, 1));
        EXPECT(SP_E_NOT_FOUND, sp_grammar_allows(wrong[i], 0));
        EXPECT(SP_E_NOT_FOUND, sp_grammar_mask(wrong[i], logits, 4));
        EXPECT(1, sp_grammar_allows(grammar, wrong[i]) <= 0);
        id = wrong[i];
        EXPECT(1, sp_grammar_accept(grammar, &id, 1) < 0);
    }
    EXPECT(SP_E_LIMIT, sp_grammar_accept(grammar, at(0), 0x40000001));
    EXPECT(SP_E_RANGE, sp_grammar_accept(grammar, at(memory_size() - 4), 2));
    EXPECT(SP_E_ARGUMENT, sp_grammar_accept(grammar, at(1025), 1));
    EXPECT(SP_E_RANGE, sp_grammar_mask(grammar, at(memory_size() - 4), 2));
    EXPECT(1, sp_grammar_mask(grammar, logits, 4) < 0); /* not as many as the vocabulary has */
    for (int i = 0; i < 1000 && opened >= 0; i++) {
        opened = open_text("root ::= \"a\"");
    }
    EXPECT(SP_E_LIMIT, opened);
    EXPECT(0, sp_grammar_close(grammar));
    EXPECT(SP_E_NOT_FOUND, sp_grammar_close(grammar));
    return SP_DONE;
}
