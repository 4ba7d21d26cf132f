/* Answering: sampling, grammars, drafts. */
#include <stdlib.h>
#include <string.h>

#include "alone.h"
#include "conversation.h"
#include "draft.h"
#include "engine.h"
#include "grammar.h"
#include "settings.h"
#include "state.h"

/* What was sampled joins the answer. False: the answer ended, and *result is what the step returns. */
static bool emit(int32_t token, float logprob, int32_t *result) {
    char piece[512];
    /* A tool call is often framed by control tokens: the parser wants to see them. */
    int32_t n = sp_detokenize(0, &token, 1, actor.request ? SP_DETOKENIZE_SPECIAL : 0, piece, sizeof piece);
    if (n > 0) {
        text_append(&answer, piece, (size_t)n < sizeof piece ? (size_t)n : sizeof piece);
    }
    actor.n_answer++;
    if (stream(token, logprob, false)) {
        *result = finish(SP_LLM_END_STOP_STRING);
    } else if (sampling.config.max_tokens >= 0 && actor.n_answer >= (uint32_t)sampling.config.max_tokens) {
        *result = finish(SP_LLM_END_MAX_TOKENS);
    } else if (actor.n_past >= engine_n_ctx()) {
        *result = finish(SP_LLM_END_CONTEXT);
    } else {
        if (actor.request && actor.partial) {
            send_message(true);
        }
        return true;
    }
    return false;
}

static void send_top(const float *logits) {
    struct {
        sp_llm_top head;
        sp_llm_likely likely[SP_LLM_MAX_TOP];
    } m = {.head = {.kind = SP_LLM_TOP}};
    m.head.n = sampler_top(logits, llm_model.n_vocab, sampling.config.n_top, m.likely);
    sp_send(&m, sizeof m.head + m.head.n * sizeof *m.likely);
}

/*
 * Picks a token as llama.cpp does: without the grammar first, since most of
 * what a model wants fits, and again among what fits if it does not. -1:
 * nothing fits.
 */
static int32_t pick(float *logits) {
    uint32_t n = llm_model.n_vocab;
    sampler_adjust(&sampling, logits, n, actor.context, actor.n_past);
    int32_t token = sampler_choose(&sampling, logits, n);
    if (token >= 0 && grammar_active() && !grammar_allows(token)) {
        token = grammar_mask(logits, n) ? -1 : sampler_choose(&sampling, logits, n);
    }
    return token;
}

/* Does nobody look at more than which logit is the largest? */
static bool wants_largest(void) {
    const sp_llm_config *c = &sampling.config;
    return sampler_takes_largest(&sampling) && !c->logprobs && !c->n_top && !grammar_active() && !actor.drafting;
}

/* Samples from output i. False: the answer ended, and *result is what the step returns. */
static bool sample(uint32_t i, int32_t *token, int32_t *result) {
    const int32_t largest = wants_largest() ? engine_largest(i) : -1;
    float *logits = largest < 0 ? engine_output(i) : NULL, *raw = NULL, logprob = 0;
    uint32_t n = llm_model.n_vocab;
    if (sampling.config.logprobs || sampling.config.n_top) {
        raw = malloc(n * sizeof *raw);
        if (!raw) {
            *result = fail("out of memory");
            return false;
        }
        memcpy(raw, logits, n * sizeof *raw);
    }
    *token = largest < 0 ? pick(logits) : largest;
    actor.answer_started = actor.answer_started ? actor.answer_started : sp_clock();
    bool ends = *token >= 0 && !sampling.config.ignore_end && sp_token_is_end(0, *token) == 1;
    if (raw && *token >= 0 && !ends) {
        logprob = sampler_logprob(raw, n, *token);
        send_top(raw);
    }
    free(raw);
    const char *wrong = *token >= 0        ? NULL
                        : grammar_active() ? "nothing that the vocabulary has fits the grammar here"
                                           : "the model gives no number for any token: its weights, or an adapter's, are damaged or do not fit it";
    if (!wrong && !ends && grammar_active()) {
        wrong = grammar_accept(*token);
    }
    if (wrong || ends) {
        *result = wrong ? fail(wrong) : finish(SP_LLM_END_TOKEN);
        return false;
    }
    return emit(*token, logprob, result);
}

/* ---- drafts ---- */

static uint32_t most_drafted(void) {
    return sampling.config.n_lookup < MAX_DRAFT ? sampling.config.n_lookup : MAX_DRAFT;
}

/* What may follow the token that was sampled, of which `draft_choose` says how much to use. */
static draft_plan plan_next(void) {
    const uint32_t asked = most_drafted(), room = engine_n_ctx() - actor.n_past - 1, block = engine_block_left(actor.n_past) - 1;
    uint32_t most = asked < room ? asked : room, wanted = MAX_DRAFT;
    most = most < block ? most : block;
    most = most < engine_n_batch() - 1 ? most : engine_n_batch() - 1;
    if (sampling.config.max_tokens >= 0 && (uint32_t)sampling.config.max_tokens - actor.n_answer <= wanted) {
        wanted = (uint32_t)sampling.config.max_tokens - actor.n_answer - 1;
    }
    actor.match = actor.drafting ? lookup_draft(actor.context, actor.n_past, actor.next[0], MAX_DRAFT, actor.next + 1) : 0;
    /* What is not confirmed is taken back; where the state can't go back, nothing is drafted. */
    if (!actor.match || !most || engine_keep(actor.n_past + 1 + most, actor.n_past + 1) != actor.n_past + 1) {
        return (draft_plan){.size = -1};
    }
    return sampling.config.lookup_always ? draft_largest(actor.n_past, most) : draft_choose(actor.n_past, most, wanted, actor.match);
}

/* Submits the token that was sampled, with what was drafted behind it; or, to know whether that may be done, tokens that were evaluated before. */
static int32_t submit_next(int32_t token) {
    actor.next[0] = token;
    const draft_plan plan = plan_next();
    draft_begin();
    if (plan.compare && alone_compare(plan.size, actor.context, actor.n_past)) {
        draft_submitted(alone_sizes[plan.size], true);
        return SP_AGAIN;
    }
    actor.n_draft = plan.size >= 0 && !plan.compare ? alone_sizes[plan.size] - 1 : 0;
    actor.n_drafted += actor.n_draft;
    const char *wrong =
        actor.n_draft ? engine_submit_alone(actor.next, 1 + actor.n_draft, actor.n_past) : engine_submit(actor.next, 1, actor.n_past, 1);
    draft_submitted(1 + actor.n_draft, false);
    return wrong ? fail(wrong) : SP_AGAIN;
}

void allow_drafts(void) {
    actor.drafting = sampling.config.n_lookup && engine_allow_alone(1 + most_drafted());
}

int32_t first_token(void) {
    int32_t token, result;
    actor.doing = ANSWER;
    if (sampling.config.max_tokens == 0) {
        return finish(SP_LLM_END_MAX_TOKENS);
    }
    alone_restart();
    return sample(0, &token, &result) ? submit_next(token) : result;
}

/* The token and the draft behind it are evaluated: each token of the draft that is what would have been sampled counts. */
int32_t after_token(void) {
    int32_t token, result;
    draft_done();
    if (alone_compared()) {
        return submit_next(actor.next[0]);
    }
    for (uint32_t i = 0;; i++) {
        actor.context[actor.n_past++] = actor.next[i];
        if (actor.stop_asked) {
            return finish(SP_LLM_END_INTERRUPTED);
        }
        if (actor.drafting) {
            alone_note(actor.n_past - 1, engine_output(i));
        }
        if (!sample(i, &token, &result)) {
            return result;
        }
        actor.n_draft_right += i < actor.n_draft && token == actor.next[i + 1];
        if (actor.match) {
            draft_came(actor.match, token == actor.next[i + 1]);
        }
        if (i == actor.n_draft || token != actor.next[i + 1]) {
            return submit_next(token);
        }
    }
}
