/* What the actor tells. */
#include <stdlib.h>
#include <string.h>

#include "conversation.h"
#include "samepage/abi.h"
#include "settings.h"
#include "state.h"

void send_with_text(void *head, uint32_t head_size, const char *text, uint32_t length) {
    uint8_t *bytes = malloc(head_size + length);
    if (bytes) {
        memcpy(bytes, head, head_size);
        memcpy(bytes + head_size, text, length);
        sp_send(bytes, head_size + length);
        free(bytes);
    }
}

void send_error(const char *text) {
    sp_llm_text head = {.kind = SP_LLM_ERROR, .length = (uint32_t)strlen(text)};
    send_with_text(&head, sizeof head, text, head.length);
}

void send_done(uint32_t reason) {
    uint64_t now = sp_clock();
    sp_llm_done done = {.kind = SP_LLM_DONE,
                        .reason = reason,
                        .n_prompt = actor.n_todo,
                        .n_cached = actor.n_cached,
                        .n_answer = actor.n_answer,
                        .n_past = actor.n_past,
                        .n_drafted = actor.n_drafted,
                        .n_draft_right = actor.n_draft_right};
    if (reason == SP_LLM_END_NOTHING && !actor.started) {
        sp_send(&done, sizeof done);
        return;
    }
    done.prompt_ns = (actor.answer_started ? actor.answer_started : now) - actor.started;
    done.answer_ns = actor.answer_started ? now - actor.answer_started : 0;
    sp_send(&done, sizeof done);
}

bool stream(int32_t token, float logprob, bool last) {
    bool stopped;
    size_t ready = text_ready(&answer, stops, stop_lengths, n_stops, last, &stopped);
    ready = ready > answer.sent ? ready : answer.sent;
    sp_llm_token head = {.kind = SP_LLM_TOKEN, .token = token, .logprob = logprob, .length = (uint32_t)(ready - answer.sent)};
    if (!last || head.length) {
        send_with_text(&head, sizeof head, answer.bytes + answer.sent, head.length);
    }
    answer.sent = ready;
    return stopped;
}

void send_message(bool partial) {
    uint32_t size;
    char *json = request_answer(actor.request, actor.request_length, answer.bytes ? answer.bytes : "", (uint32_t)answer.length, partial, &size);
    if (json) {
        sp_llm_message head = {.kind = SP_LLM_MESSAGE, .length = size, .partial = partial};
        send_with_text(&head, sizeof head, json, size);
        free(json);
    }
}
