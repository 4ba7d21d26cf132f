/* Grammars: what may come next, by GBNF and by JSON schema; and grammars that want to hang, crash or fill the memory are refused with a reason. */
#include "model_test.h"

#include <gguf.h>
#include <math.h>

static sp_model *model;

static sp_grammar *open_grammar(uint32_t kind, const char *text) {
    sp_grammar *grammar = NULL;
    sp_error err = {0};
    must(sp_grammar_open(model, kind, text, strlen(text), &grammar, &err), &err);
    return grammar;
}

/* Accepts a text token by token; false: one does not fit. */
static bool accept_text(sp_grammar *grammar, const char *text, bool end) {
    int32_t tokens[256];
    size_t n = 0;
    sp_error err = {0};
    must(sp_model_tokenize(model, text, strlen(text), 0, tokens, 256, &n, &err), &err);
    for (size_t i = 0; i < n; i++) {
        bool allows = false;
        must(sp_grammar_allows(grammar, model, tokens[i], &allows, &err), &err);
        if (!allows) {
            assert_int_equal(sp_grammar_accept(grammar, model, &tokens[i], 1, &err), SP_ERR_FORMAT);
            assert_int_equal(sp_grammar_accept(grammar, model, &tokens[i], 1, &err), SP_ERR_FORMAT); /* it stays failed */
            return false;
        }
        must(sp_grammar_accept(grammar, model, &tokens[i], 1, &err), &err);
    }
    sp_model_info info;
    sp_model_get_info(model, &info);
    bool may_end = false;
    must(sp_grammar_allows(grammar, model, info.token_eos, &may_end, &err), &err);
    assert_int_equal(may_end, end);
    return true;
}

static void expect(uint32_t kind, const char *text, const char *answer, bool fits, bool end) {
    sp_grammar *grammar = open_grammar(kind, text);
    if (accept_text(grammar, answer, end) != fits) {
        fail_msg("%s: \"%s\" %s", text, answer, fits ? "does not fit" : "fits");
    }
    sp_grammar_close(grammar);
}

static void test_fits(void **state) {
    (void)state;
    const char *list = "root ::= \"- \" [a-z]+ (\"\\n- \" [a-z]+)*\n";
    expect(SP_GRAMMAR_GBNF, list, "- red\n- blue", true, true);
    expect(SP_GRAMMAR_GBNF, list, "- ", true, false);
    expect(SP_GRAMMAR_GBNF, list, "- Red", false, false);
    const char *schema = "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"},\"c\":{\"enum\":[\"red\",\"blue\"]}},"
                         "\"required\":[\"n\",\"c\"],\"additionalProperties\":false}";
    expect(SP_GRAMMAR_JSON_SCHEMA, schema, "{\"n\":12,\"c\":\"red\"}", true, true);
    expect(SP_GRAMMAR_JSON_SCHEMA, schema, "{\"n\":12,\"c\":\"green\"}", false, false);
}

/* A mask says of each token what asking for it alone says. */
static void test_mask(void **state) {
    (void)state;
    sp_model_info info;
    sp_model_get_info(model, &info);
    float *logits = calloc(info.n_vocab, sizeof *logits);
    sp_grammar *grammar = open_grammar(SP_GRAMMAR_GBNF, "root ::= \"The \" [a-m]* \" key\"");
    sp_error err = {0};
    int32_t tokens[16];
    size_t n;
    must(sp_model_tokenize(model, "The ", 4, 0, tokens, 16, &n, &err), &err);
    must(sp_grammar_accept(grammar, model, tokens, n, &err), &err);
    logits[7] = -INFINITY;
    must(sp_grammar_mask(grammar, model, logits, info.n_vocab, &err), &err);
    uint32_t allowed = 0;
    for (uint32_t i = 0; i < info.n_vocab; i++) {
        bool allows = false;
        must(sp_grammar_allows(grammar, model, (int32_t)i, &allows, &err), &err);
        assert_int_equal(logits[i] == 0, allows && i != 7);
        allowed += allows;
    }
    assert_true(allowed > 1 && allowed < info.n_vocab / 2);
    assert_int_equal(sp_grammar_mask(grammar, model, logits, info.n_vocab - 1, &err), SP_ERR_RANGE);
    int32_t beyond = (int32_t)info.n_vocab;
    assert_int_equal(sp_grammar_accept(grammar, model, &beyond, 1, &err), SP_ERR_RANGE);
    sp_grammar_close(grammar);
    free(logits);
}

static void refuse(uint32_t kind, const char *text, size_t length, sp_status status, const char *words) {
    sp_grammar *grammar = NULL;
    sp_error err = {0};
    sp_status got = sp_grammar_open(model, kind, text, length, &grammar, &err);
    if (got != status || !strstr(err.message, words)) {
        fail_msg("%.60s: %s: %s; wanted %s", text, sp_status_name(got), err.message, words);
    }
    assert_null(grammar);
}

static void refuse_text(uint32_t kind, const char *text, const char *words) {
    refuse(kind, text, strlen(text), SP_ERR_FORMAT, words);
}

/* n times a text, between others. */
static char *repeated(const char *before, const char *text, int n, const char *after) {
    char *out = malloc(strlen(before) + strlen(text) * (size_t)n + strlen(after) + 1), *at = stpcpy(out, before);
    for (int i = 0; i < n; i++) {
        at = stpcpy(at, text);
    }
    strcpy(at, after);
    return out;
}

static void test_bad(void **state) {
    (void)state;
    refuse_text(SP_GRAMMAR_GBNF, "", "");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= x", "Undefined rule identifier 'x'");
    refuse_text(SP_GRAMMAR_GBNF, "start ::= \"a\"", "does not contain a 'root'");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= \"a", "unexpected end");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= root \"a\"", "left recursion");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= \"a\"{5,2}", "below its minimum");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= \"a\"{99999999999999999999}", "");
    refuse_text(SP_GRAMMAR_GBNF, "root ::= ((\"a\"{2000}){2000}){2000}", "repe");
    refuse_text(SP_GRAMMAR_JSON_SCHEMA, "{", "parse error");
    refuse_text(SP_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#/nowhere\"}", "nowhere");
    refuse_text(SP_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":1000000000}", "repe");
    refuse(SP_GRAMMAR_GBNF, "a\0b", 3, SP_ERR_LIMIT, "none of them 0");
    refuse(77, "a", 1, SP_ERR_ARGUMENT, "77");
}

static void test_hostile(void **state) {
    (void)state;
    char *text = repeated("root ::= ", "(", 100000, "\"a\"");
    refuse_text(SP_GRAMMAR_GBNF, text, "nested too deeply");
    free(text);
    text = repeated("", "[", 300000, "");
    refuse(SP_GRAMMAR_GBNF, text, 300000, SP_ERR_LIMIT, "at most");
    refuse(SP_GRAMMAR_JSON_SCHEMA, text, 60000, SP_ERR_LIMIT, "nested deeper");
    free(text);
    /* 2^40 stacks at the first character; 2^40 ways to look for left recursion. */
    char *at = text = malloc(1 << 16);
    at += sprintf(at, "root ::= r0\n");
    for (int i = 0; i < 40; i++) {
        at += sprintf(at, "r%d ::= r%d r%d | \"%c\" r%d | r%d | \"\"\n", i, i + 1, i + 1, 'a' + i % 26, i + 1, i + 1);
    }
    sprintf(at, "r40 ::= \"x\" | \"\"\n");
    refuse_text(SP_GRAMMAR_GBNF, text, "work");
    free(text);
    /* Each rule leads to the next: as deep as there are rules. */
    at = text = malloc(1 << 20);
    at += sprintf(at, "root ::= r0\n");
    for (int i = 0; i < 10000; i++) {
        at += sprintf(at, "r%d ::= r%d\n", i, i + 1);
    }
    sprintf(at, "r10000 ::= \"x\"\n");
    refuse_text(SP_GRAMMAR_GBNF, text, "nested too deeply");
    free(text);
}

/* Ambiguity that grows with each token ends in an error, not in a hang. */
static void test_grows(void **state) {
    (void)state;
    sp_grammar *grammar = open_grammar(SP_GRAMMAR_GBNF, "root ::= s\ns ::= \"a\" s s s | \"a\" s s | \"a\" s | \"a\"\n");
    int32_t tokens[4];
    size_t n;
    sp_error err = {0};
    must(sp_model_tokenize(model, "a", 1, 0, tokens, 4, &n, &err), &err);
    sp_status status = SP_OK;
    for (int i = 0; status == SP_OK && i < 1000; i++) {
        status = sp_grammar_accept(grammar, model, tokens, n, &err);
    }
    assert_int_equal(status, SP_ERR_FORMAT);
    assert_non_null(strstr(err.message, "work"));
    sp_grammar_close(grammar);
}

/* A tool call is constrained once it begins; what comes before is free, however long. */
static void test_tools(void **state) {
    (void)state;
    const char *request = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
    sp_grammar *grammar = NULL;
    sp_error err = {0};
    assert_int_equal(sp_grammar_open(model, SP_GRAMMAR_CHAT, request, strlen(request), &grammar, &err), SP_ERR_NOT_FOUND);
    const char *tools = "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"response_format\":{\"type\":\"json_object\"}}";
    grammar = open_grammar(SP_GRAMMAR_CHAT, tools);
    assert_true(accept_text(grammar, "{\"a\": [1, 2]}", true));
    sp_grammar_close(grammar);
}

/* Templates that loop, nest or grow are refused as the templates' errors are. */
static sp_model *with_template(char path[512], const char *source) {
    char whole[512];
    struct gguf_context *gguf =
        gguf_init_from_file(source_path(whole, "models/pocket/pocket-q8_0.gguf"), (struct gguf_init_params){.no_alloc = true});
    struct gguf_context *bare = gguf_init_empty();
    gguf_set_val_str(gguf, "tokenizer.chat_template", source);
    gguf_set_kv(bare, gguf);
    gguf_free(gguf);
    assert_true(gguf_write_to_file(bare, scratch_path(path, "hostile.gguf"), false));
    gguf_free(bare);
    return open_model(path);
}

static void refuse_template(const char *source, const char *words) {
    char path[512], *text = NULL;
    sp_model *other = with_template(path, source);
    const char *request = "[{\"role\":\"user\",\"content\":\"Hi\"}]";
    sp_error err = {0};
    size_t size;
    sp_status status = sp_model_chat_format(other, request, strlen(request), SP_CHAT_ADD_GENERATION_PROMPT, &text, &size, &err);
    if (status != SP_ERR_FORMAT || !strstr(err.message, words)) {
        fail_msg("%.60s: %s: %s; wanted %s", source, sp_status_name(status), err.message, words);
    }
    sp_model_close(other);
    unlink(path);
}

static void test_templates(void **state) {
    (void)state;
    refuse_template("{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}", "");
    refuse_template("{% for i in range(1000000000000) %}x{% endfor %}", "");
    refuse_template("{{ 'x' * 1000000000000 }}", "");
    refuse_template("{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}", "");
    refuse_template("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "");
    char *text = repeated("{{ ", "(", 100000, "1 }}");
    refuse_template(text, "");
    free(text);
    text = repeated("{{ 1", "+1", 100000, " }}");
    refuse_template(text, "");
    free(text);
}

int main(void) {
    char path[512];
    model = open_model(source_path(path, "models/pocket/pocket-q8_0.gguf"));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fits),     cmocka_unit_test(test_mask),  cmocka_unit_test(test_bad),
                                       cmocka_unit_test(test_hostile),  cmocka_unit_test(test_grows), cmocka_unit_test(test_tools),
                                       cmocka_unit_test(test_templates)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sp_model_close(model);
    return failed;
}
