/* `samepage generate`: continues a text. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/kept.h"

typedef struct generation {
    bool json, chat;
    char *text;
    size_t length;
    json_t *tokens;
    const char *session, *store;
    sp_kept *kept; /* NULL: nothing is kept */
} generation;

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    generation *g = user;
    if (!g->json) {
        fwrite(text, 1, token->length, stdout);
        fflush(stdout);
    } else if (token->token >= 0) {
        json_array_append_new(g->tokens, json_integer(token->token));
    }
    char *grown = realloc(g->text, g->length + token->length + 1);
    if (grown) {
        memcpy(grown + g->length, text, token->length);
        g->text = grown;
        g->length += token->length;
        g->text[g->length] = 0;
    }
}

static void print_json(const generation *g, const sp_llm_settings *s, sp_llm_client *client, const sp_llm_done *d) {
    json_t *text = json_stringn(g->text ? g->text : "", g->length);
    json_t *root =
        json_pack("{s:o?, s:O, s:s, s:i, s:i, s:i, s:f, s:f, s:s, s:s, s:s}", "text", text, "tokens", g->tokens, "reason", sp_end_reason(d->reason),
                  "prompt_tokens", (int)(d->n_prompt + d->n_cached), "cached_tokens", (int)d->n_cached, "generated_tokens", (int)d->n_answer,
                  "prompt_ms", (double)d->prompt_ns * 1e-6, "generate_ms", (double)d->answer_ns * 1e-6, "model", s->model ? s->model : "pocket",
                  "device", s->device, "fingerprint", sp_model_fingerprint(sp_llm_model(client)));
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static sp_status open_client(generation *g, const sp_kept_line *line, sp_llm_client **out, sp_error *err) {
    *out = NULL;
    if (!g->session) {
        return sp_llm_open(line->settings, out, err);
    }
    sp_status status = sp_kept_open(g->store, g->session, &g->kept, err);
    return status ? status : sp_kept_start(g->kept, line, out, err);
}

static sp_status keep(generation *g, sp_llm_client *client, const char *prompt, const sp_llm_done *done, sp_error *err) {
    if (!g->kept) {
        return SP_OK;
    }
    sp_kept_turn turn = {.kind = "turn", .user = prompt, .answer = g->text ? g->text : "", .tokens = done->n_past};
    sp_error why;
    sp_status status = sp_kept_commit(g->kept, client, &turn, &why);
    return status ? sp_fail(err, status, "this is not saved: %s", why.message) : SP_OK;
}

/* The text's last line ends when it is kept. */
static sp_status answer(generation *g, const sp_llm_settings *s, sp_llm_client *client, const char *prompt, size_t length, sp_error *err) {
    sp_llm_catch_interrupts(client);
    sp_llm_events events = {.on_token = on_token, .user = g};
    sp_llm_done done;
    bool chat = g->chat || g->kept;
    sp_status status = sp_llm_ask(client, chat ? SP_LLM_USER : SP_LLM_COMPLETE, prompt, length, &events, &done, err);
    if (status != SP_OK) {
        return status;
    }
    status = keep(g, client, prompt, &done, err);
    if (g->json) {
        print_json(g, s, client, &done);
    } else {
        putchar('\n');
    }
    if (done.reason == SP_LLM_END_CONTEXT) {
        fprintf(stderr, "samepage: the context of %u tokens is full: the text ends here\n", sp_llm_ready_info(client)->n_ctx);
    }
    return status;
}

static int generate(generation *g, const sp_kept_line *line, const char *prompt, size_t length) {
    sp_llm_client *client;
    sp_error err;
    sp_status status = open_client(g, line, &client, &err);
    int exit_code = status == SP_ERR_ARGUMENT ? SP_EXIT_USAGE : SP_EXIT_FAILED;
    if (status == SP_OK) {
        status = answer(g, line->settings, client, prompt, length, &err);
        exit_code = SP_EXIT_FAILED;
    }
    sp_llm_close(client);
    sp_kept_close(g->kept);
    if (status != SP_OK) {
        sp_failed(&err);
        return exit_code;
    }
    return SP_EXIT_OK;
}

int sp_cmd_generate(int argc, char **argv) {
    generation g = {0};
    sp_llm_settings settings = sp_llm_defaults;
    const char *prompt = NULL, *file = NULL;
    sp_option table[SP_LLM_OPTION_ROWS + 8] = {0};
    size_t n = sp_llm_option_rows(&settings, table);
    table[n++] = (sp_option){'p', "prompt", SP_OPT_TEXT, &prompt, 0, 0, "TEXT", "the text to continue (default: standard input)"};
    table[n++] = (sp_option){'f', "file", SP_OPT_TEXT, &file, 0, 0, "FILE", "a file with the text"};
    table[n++] = (sp_option){0, "chat", SP_OPT_FLAG, &g.chat, 0, 0, NULL, "the text is a message in a chat, in the model's format"};
    table[n++] = (sp_option){0, "session", SP_OPT_TEXT, &g.session,
                             0, 0,         "NAME",      "the text is the next message of this session (see: samepage help sessions)"};
    table[n++] = (sp_option){0, "store", SP_OPT_TEXT, &g.store, 0, 0, "DIR", "folder of sessions (default: XDG_DATA_HOME/samepage/sessions)"};
    table[n++] = (sp_option){0, "json", SP_OPT_FLAG, &g.json, 0, 0, NULL, "text, token ids, counts and times as JSON"};
    int at = sp_options_parse(table, "generate", "[OPTION...]", "Continues a text.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("generate", "%s: the text goes behind --prompt", argv[at]);
    }
    if (prompt && file) {
        return sp_usage_error("generate", "--prompt and --file exclude each other");
    }
    if (g.store && !g.session) {
        return sp_usage_error("generate", "--store needs --session NAME");
    }
    sp_error err;
    char *read = NULL;
    size_t length = prompt ? strlen(prompt) : 0;
    if (!prompt) {
        read = sp_read_file(file ? file : "-", &length, &err);
        if (!read) {
            return sp_failed(&err);
        }
    }
    g.tokens = json_array();
    sp_kept_line line = {.table = table, .argc = argc, .argv = argv, .settings = &settings};
    int exit_code = generate(&g, &line, prompt ? prompt : read, length);
    json_decref(g.tokens);
    free(g.text);
    free(read);
    return exit_code;
}
