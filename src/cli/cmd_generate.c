/* `samepage generate`: continues a text. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/kept.h"
#include "model/model.h"
#include "samepage/abi.h"

typedef struct generation {
    bool json, chat;
    const char *messages, *tools; /* files */
    sp_llm_client *client;
    char *text;
    size_t length;
    const char *session, *store;
    sp_kept *kept; /* NULL: nothing is kept */
    json_t *tokens, *logprobs, *top, *message;
} generation;

static json_t *token_text(const generation *g, int32_t token) {
    char text[512];
    size_t length = 0;
    bool known = sp_model_detokenize(sp_llm_model(g->client), &token, 1, SP_DETOKENIZE_SPECIAL, text, sizeof text, &length, NULL) == SP_OK;
    json_t *whole = known && length <= sizeof text ? json_stringn(text, length) : NULL;
    return whole ? whole : json_null(); /* a part of a character */
}

static json_t *likely(const generation *g, int32_t token, double logprob) {
    return json_pack("{s:i, s:o, s:f}", "token", (int)token, "text", token_text(g, token), "logprob", logprob);
}

/* The likeliest tokens, and the parsed message. */
static void on_other(void *user, const void *bytes, size_t size) {
    generation *g = user;
    uint32_t kind = 0;
    memcpy(&kind, bytes, size < sizeof kind ? size : sizeof kind);
    if (kind == SP_LLM_TOP) {
        sp_llm_top head;
        memcpy(&head, bytes, sizeof head);
        json_decref(g->top);
        g->top = json_array();
        for (uint32_t i = 0; i < head.n; i++) {
            sp_llm_likely l;
            memcpy(&l, (const char *)bytes + sizeof head + i * sizeof l, sizeof l);
            json_array_append_new(g->top, likely(g, l.token, (double)l.logprob));
        }
    } else if (kind == SP_LLM_MESSAGE) {
        json_decref(g->message);
        g->message = json_loadb((const char *)bytes + sizeof(sp_llm_message), size - sizeof(sp_llm_message), 0, NULL);
    }
}

static void on_token(void *user, const sp_llm_token *token, const char *text) {
    generation *g = user;
    if (!g->json && !g->messages) {
        fwrite(text, 1, token->length, stdout);
        fflush(stdout);
    } else if (token->token >= 0) {
        json_array_append_new(g->tokens, json_integer(token->token));
        if (g->logprobs) {
            json_t *entry = likely(g, token->token, (double)token->logprob);
            json_object_set_new(entry, "top", g->top ? g->top : json_array());
            g->top = NULL;
            json_array_append_new(g->logprobs, entry);
        }
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
    if (s->n_lookup) {
        json_object_set_new(root, "drafted_tokens", json_integer(d->n_drafted));
        json_object_set_new(root, "drafted_tokens_right", json_integer(d->n_draft_right));
    }
    if (g->message) {
        json_object_set(root, "message", g->message);
    }
    if (g->logprobs) {
        json_object_set(root, "logprobs", g->logprobs);
    }
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

/* For people: the content, then a line for each call of a tool. */
static void print_message(const generation *g) {
    const char *content = json_string_value(json_object_get(g->message, "content"));
    if (content && *content) {
        puts(content);
    }
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(g->message, "tool_calls"), i, call) {
        json_t *function = json_object_get(call, "function");
        const char *name = json_string_value(json_object_get(function, "name")),
                   *arguments = json_string_value(json_object_get(function, "arguments"));
        printf("%s(%s)\n", name ? name : "?", arguments ? arguments : "");
    }
}

/* {"messages": ..., "tools": ...} of the files; the first may be a whole request already. */
static sp_status read_request(const generation *g, char **out, sp_error *err) {
    json_error_t problem;
    *out = NULL;
    json_t *messages = json_load_file(g->messages, 0, &problem);
    if (!messages) {
        return sp_fail(err, SP_ERR_FORMAT, "%s: line %d: %s", g->messages, problem.line, problem.text);
    }
    json_t *request = json_is_array(messages) ? json_pack("{s:o}", "messages", messages) : messages;
    json_t *tools = g->tools ? json_load_file(g->tools, 0, &problem) : NULL;
    sp_status status = SP_OK;
    if (!json_is_object(request)) {
        status = sp_fail(err, SP_ERR_FORMAT, "%s: neither an array of messages nor an object with \"messages\"", g->messages);
    } else if (g->tools && !tools) {
        status = sp_fail(err, SP_ERR_FORMAT, "%s: line %d: %s", g->tools, problem.line, problem.text);
    } else if (tools) {
        json_object_set(request, "tools", tools);
    }
    *out = status == SP_OK ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(tools);
    json_decref(request);
    return *out || status != SP_OK ? status : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
}

static sp_status ask_request(generation *g, const sp_llm_events *events, sp_llm_done *done, sp_error *err) {
    char *json;
    sp_status status = read_request(g, &json, err);
    if (status != SP_OK) {
        return status;
    }
    size_t length = strlen(json);
    sp_llm_chat head = {.kind = SP_LLM_CHAT, .length = (uint32_t)length};
    uint8_t *message = malloc(sizeof head + length);
    if (message) {
        memcpy(message, &head, sizeof head);
        memcpy(message + sizeof head, json, length);
        status = sp_llm_ask_bytes(g->client, message, sizeof head + length, events, done, err);
    }
    free(json);
    free(message);
    return message ? status : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
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
    g->client = client;
    sp_llm_events events = {.on_token = on_token, .on_other = on_other, .user = g};
    sp_llm_done done = {0};
    bool chat = g->chat || g->kept;
    sp_status status = g->messages ? ask_request(g, &events, &done, err)
                                   : sp_llm_ask(client, chat ? SP_LLM_USER : SP_LLM_COMPLETE, prompt, length, &events, &done, err);
    if (status != SP_OK) {
        return status;
    }
    status = keep(g, client, prompt, &done, err);
    if (g->json) {
        print_json(g, s, client, &done);
    } else if (g->messages) {
        print_message(g);
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
    sp_option table[SP_LLM_OPTION_ROWS + 11] = {0};
    size_t n = sp_llm_option_rows(&settings, table);
    table[n++] = (sp_option){'p', "prompt", SP_OPT_TEXT, &prompt, 0, 0, "TEXT", "the text to continue (default: standard input)"};
    table[n++] = (sp_option){'f', "file", SP_OPT_TEXT, &file, 0, 0, "FILE", "a file with the text"};
    table[n++] = (sp_option){0, "chat", SP_OPT_FLAG, &g.chat, 0, 0, NULL, "the text is a message in a chat, in the model's format"};
    table[n++] = (sp_option){0, "session", SP_OPT_TEXT, &g.session,
                             0, 0,         "NAME",      "the text is the next message of this session (see: samepage help sessions)"};
    table[n++] = (sp_option){0, "store", SP_OPT_TEXT, &g.store, 0, 0, "DIR", "folder of sessions (default: XDG_DATA_HOME/samepage/sessions)"};
    table[n++] =
        (sp_option){0, "messages", SP_OPT_TEXT, &g.messages, 0, 0, "FILE", "a conversation as JSON, as OpenAI's API has it; its answer follows"};
    table[n++] = (sp_option){0, "tools", SP_OPT_TEXT, &g.tools, 0, 0, "FILE", "tools that the model may call, as JSON; with --messages"};
    table[n++] = (sp_option){0, "logprobs",     SP_OPT_INT, &settings.n_top,
                             0, SP_LLM_MAX_TOP, "N",        "tell each token's log-probability, and the N likeliest tokens with theirs; with --json"};
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
    if (g.messages && (prompt || file || g.chat || g.session)) {
        return sp_usage_error("generate", "--messages excludes --prompt, --file, --chat and --session");
    }
    if ((g.tools && !g.messages) || (settings.n_top >= 0 && !g.json)) {
        return sp_usage_error("generate", g.tools && !g.messages ? "--tools goes with --messages" : "--logprobs goes with --json");
    }
    sp_error err;
    char *read = NULL;
    size_t length = prompt ? strlen(prompt) : 0;
    if (!prompt && !g.messages) {
        read = sp_read_file(file ? file : "-", &length, &err);
        if (!read) {
            return sp_failed(&err);
        }
    }
    g.tokens = json_array();
    g.logprobs = settings.n_top >= 0 ? json_array() : NULL;
    sp_kept_line line = {.table = table, .argc = argc, .argv = argv, .settings = &settings};
    int exit_code = generate(&g, &line, prompt ? prompt : read, length);
    json_decref(g.tokens);
    json_decref(g.logprobs);
    json_decref(g.top);
    json_decref(g.message);
    free(g.text);
    free(read);
    return exit_code;
}
