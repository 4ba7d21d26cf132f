/*
 * Perplexity by libllama alone, in the chunks of llama.cpp's tool: the oracle of `samepage perplexity`.
 *
 *   score-text MODEL FILE CONTEXT CHUNKS      prints the perplexity, its error and the number of tokens that counted
 */
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TEXT = 1 << 20, MOST_BATCH = 512 };

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)level, (void)text, (void)user;
}

static void fail(const char *why) {
    fprintf(stderr, "score-text: %s\n", why);
    exit(1);
}

static struct llama_context *open_context(struct llama_model *model, uint32_t n_ctx) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = params.n_ubatch = MOST_BATCH;
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.swa_full = false;
    return llama_init_from_model(model, params);
}

/* The negative logarithm of the probability that the logits give a token. */
static double surprise(const float *logits, int n_vocab, llama_token token) {
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < n_vocab; i++) {
        most = fmax(most, (double)logits[i]);
    }
    for (int i = 0; i < n_vocab; i++) {
        sum += exp((double)logits[i] - most);
    }
    return most + log(sum) - (double)logits[token];
}

typedef struct score {
    double nll, nll2;
    int count;
} score;

/* The second half of a chunk counts. */
static void score_chunk(struct llama_context *context, const llama_token *chunk, int n, score *s) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    struct llama_batch batch = llama_batch_init(MOST_BATCH, 0, 1);
    llama_memory_clear(llama_get_memory(context), true);
    for (int at = 0; at < n; at += batch.n_tokens) {
        batch.n_tokens = n - at < MOST_BATCH ? n - at : MOST_BATCH;
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = chunk[at + i];
            batch.pos[i] = at + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = at + i >= n / 2;
        }
        if (llama_decode(context, batch) != 0) {
            fail("can't decode");
        }
        for (int i = 0; i < batch.n_tokens && at + i < n - 1; i++) {
            if (at + i >= n / 2) {
                const double nll = surprise(llama_get_logits_ith(context, i), n_vocab, chunk[at + i + 1]);
                s->nll += nll, s->nll2 += nll * nll, s->count++;
            }
        }
    }
    llama_batch_free(batch);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: score-text MODEL FILE CONTEXT CHUNKS\n");
        return 2;
    }
    llama_log_set(quiet, NULL);
    const int n_ctx = (int)strtol(argv[3], NULL, 10), n_chunks = (int)strtol(argv[4], NULL, 10);
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(argv[1], params);
    struct llama_context *context = model ? open_context(model, (uint32_t)n_ctx) : NULL;
    FILE *file = fopen(argv[2], "rb");
    static char text[MOST_TEXT];
    static llama_token tokens[MOST_TEXT];
    if (!context || !file) {
        fail("can't open the model or the text");
    }
    const size_t length = fread(text, 1, sizeof text, file);
    fclose(file);
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    const int n = llama_tokenize(vocab, text, (int32_t)length, tokens, MOST_TEXT, true, false);
    score s = {0};
    if (n < n_chunks * n_ctx) {
        fail("the text is too short");
    }
    for (int i = 0; i < n_chunks; i++) {
        if (llama_vocab_get_add_bos(vocab)) {
            tokens[(size_t)i * (size_t)n_ctx] = llama_vocab_bos(vocab);
        }
        score_chunk(context, tokens + (size_t)i * (size_t)n_ctx, n_ctx, &s);
    }
    const double mean = s.nll / s.count, variance = s.nll2 / s.count - mean * mean;
    printf("%.9g %.9g %d\n", exp(mean), sqrt(variance / (s.count - 1)) * exp(mean), s.count);
    llama_free(context);
    llama_model_free(model);
    return 0;
}
