/* Conversations as text: the model's own template, ChatML where there is none, and refusals that say why. */
#include "model_test.h"

#include <gguf.h>

static const char conversation[] = "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\" Where is the red key? \"}]";

static void expect_text(const sp_model *model, const char *json, bool add_generation_prompt, const char *wanted) {
    char *text = NULL;
    sp_error err = {0};
    size_t size;
    must(sp_model_chat_format(model, json, strlen(json), add_generation_prompt ? SP_CHAT_ADD_GENERATION_PROMPT : 0, &text, &size, &err), &err);
    assert_int_equal(size, strlen(wanted));
    assert_string_equal(text, wanted);
    free(text);
}

static void expect_refusal(const sp_model *model, const char *json, const char *words) {
    char *text = NULL;
    sp_error err = {0};
    size_t size;
    assert_int_equal(sp_model_chat_format(model, json, strlen(json), SP_CHAT_ADD_GENERATION_PROMPT, &text, &size, &err), SP_ERR_FORMAT);
    assert_null(text);
    if (!strstr(err.message, words)) {
        fail_msg("wanted \"%s\" in \"%s\"", words, err.message);
    }
}

static void test_pocket(void **state) {
    (void)state;
    char path[512];
    sp_model *model = open_model(source_path(path, "models/pocket/pocket-q8_0.gguf"));
    const char turns[] = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhere is the "
                         "red key?<|eot_id|>";
    char prompted[512];
    snprintf(prompted, sizeof prompted, "%s<|start_header_id|>assistant<|end_header_id|>\n\n", turns);
    expect_text(model, conversation, false, turns);
    expect_text(model, conversation, true, prompted);
    expect_refusal(model, "{", "parse error");
    expect_refusal(model, "{\"role\":\"user\"}", "neither an array");
    expect_refusal(model, "[{\"role\":\"user\"}]", "Expected 'content'");
    expect_refusal(model, "[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\",\"role\":7}]", "Failed to parse messages");
    expect_refusal(model, "[\"user\"]", "to be an object");
    sp_model_close(model);
}

/* A model with another template, or none. */
static sp_model *open_with_template(char path[512], const char *source) {
    char whole[512];
    source_path(whole, "models/pocket/pocket-q8_0.gguf");
    struct gguf_context *gguf = gguf_init_from_file(whole, (struct gguf_init_params){.no_alloc = true});
    assert_non_null(gguf);
    if (source) {
        gguf_set_val_str(gguf, "tokenizer.chat_template", source);
    } else {
        gguf_remove_key(gguf, "tokenizer.chat_template");
    }
    struct gguf_context *bare = gguf_init_empty(); /* a template needs no weights */
    gguf_set_kv(bare, gguf);
    gguf_free(gguf);
    assert_true(gguf_write_to_file(bare, scratch_path(path, "template.gguf"), false));
    gguf_free(bare);
    return open_model(path);
}

static void test_no_template(void **state) {
    (void)state;
    char path[512];
    sp_model *model = open_with_template(path, NULL);
    expect_text(model, conversation, true,
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Where is the red key? <|im_end|>\n<|im_start|>assistant\n");
    sp_model_close(model);
    unlink(path);
}

static void test_template_refuses(void **state) {
    (void)state;
    char path[512];
    sp_model *model = open_with_template(
        path,
        "{% for m in messages %}{% if m['role'] == 'judge' %}{{ raise_exception('no judges, please') }}{% endif %}{{ m['content'] }}{% endfor %}");
    expect_refusal(model, "[{\"role\":\"judge\",\"content\":\"Guilty\"}]", "no judges, please");
    expect_text(model, "[{\"role\":\"user\",\"content\":\"Hello\"}]", true, "Hello");
    sp_model_close(model);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pocket), cmocka_unit_test(test_no_template), cmocka_unit_test(test_template_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
