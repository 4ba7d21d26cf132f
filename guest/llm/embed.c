/* Embeddings: rows of the model's output, pooled over a text as the model says and normalised as llama.cpp does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "state.h"

static struct {
    int32_t pooling, normalise;
    double *sum; /* by mean: of the rows so far */
    float *row;  /* to be sent */
} embed;

/* What the model's file says; what it does not say is no pooling, as with llama.cpp. */
static int32_t model_pooling(void) {
    char key[64], value[16] = "";
    int n = snprintf(key, sizeof key, "%s.pooling_type", llm_model.architecture);
    int32_t length = sp_model_get_meta(0, key, (uint32_t)n, value, sizeof value - 1);
    return length > 0 ? (int32_t)strtol(value, NULL, 10) : SP_LLM_POOLING_NONE;
}

const char *embed_begin(const sp_llm_embed *settings) {
    embed.pooling = settings->pooling == SP_LLM_POOLING_MODEL ? model_pooling() : settings->pooling;
    embed.normalise = settings->normalise;
    if (embed.pooling < SP_LLM_POOLING_NONE || embed.pooling > SP_LLM_POOLING_LAST) {
        return "the model's pooling is of a kind that is not supported (a reranker's); choose one (--pooling)";
    }
    if (!embed.row) {
        embed.row = malloc(engine_row() * sizeof *embed.row);
        embed.sum = malloc(engine_row() * sizeof *embed.sum);
    }
    if (!embed.row || !embed.sum) {
        return "out of memory";
    }
    memset(embed.sum, 0, engine_row() * sizeof *embed.sum);
    return NULL;
}

/* llama.cpp's norms (common_embd_normalize), in its order of operations. */
static double norm_of(const float *row, uint32_t n, int32_t p) {
    double sum = 0;
    if (p < 0) {
        return 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (p == 0) {
            sum = sum < (double)fabsf(row[i]) ? (double)fabsf(row[i]) : sum;
        } else {
            sum += p == 2 ? (double)(row[i] * row[i]) : pow((double)fabsf(row[i]), p);
        }
    }
    return p == 0 ? sum / 32760.0 : p == 2 ? sqrt(sum) : pow(sum, 1.0 / p);
}

static void send_row(uint32_t position) {
    const uint32_t n = engine_row();
    const double norm = norm_of(embed.row, n, embed.normalise);
    const float scale = norm > 0 ? (float)(1.0 / norm) : 0;
    for (uint32_t i = 0; i < n; i++) {
        embed.row[i] *= scale;
    }
    sp_llm_embedding head = {.kind = SP_LLM_EMBEDDING, .pooling = embed.pooling, .position = position, .n_embd = n};
    send_with_text(&head, sizeof head, (const char *)embed.row, n * (uint32_t)sizeof *embed.row);
}

static void send_token(uint32_t i) {
    memcpy(embed.row, engine_output(i), engine_row() * sizeof *embed.row);
    send_row(actor.at + i);
}

static void add_token(uint32_t i) {
    const float *row = engine_output(i);
    for (uint32_t d = 0; d < engine_row(); d++) {
        embed.sum[d] += (double)row[d];
    }
}

void embed_batch(bool whole) {
    for (uint32_t i = 0; i < actor.batch; i++) {
        const bool first = actor.at + i == 0, last = whole && i == actor.batch - 1;
        if (embed.pooling == SP_LLM_POOLING_MEAN) {
            add_token(i);
        } else if (embed.pooling == SP_LLM_POOLING_NONE || (embed.pooling == SP_LLM_POOLING_CLS ? first : last)) {
            send_token(i);
        }
    }
    if (whole && embed.pooling == SP_LLM_POOLING_MEAN) {
        for (uint32_t d = 0; d < engine_row(); d++) {
            embed.row[d] = (float)(embed.sum[d] / actor.n_todo);
        }
        send_row(0);
    }
}
