/* See bench_peer.h. Only llama.h's public functions are used, as a user of libllama would. */
#include <ggml-backend.h>
#include <stdlib.h>

#include "base/error.h"
#include "cli/bench_peer_impl.h"

enum { PEER_BATCH = 512 };

static void quiet(enum ggml_log_level level, const char *text, void *user) {
    (void)level, (void)text, (void)user;
}

sp_status sp_peer_open(const char *path, uint32_t n_ctx, int threads, sp_peer **out, sp_error *err) {
    *out = NULL;
    llama_log_set(quiet, NULL);
    sp_peer *peer = calloc(1, sizeof *peer);
    if (!peer) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    peer->model = llama_model_load_from_file(path, model_params);
    if (!peer->model) {
        sp_peer_close(peer);
        return sp_fail(err, SP_ERR_FORMAT, "%s: libllama can't load it", path);
    }
    peer->n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(peer->model));
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = n_ctx;
    params.n_batch = PEER_BATCH;
    params.n_ubatch = PEER_BATCH;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = params.op_offload = false;
    peer->context = llama_init_from_model(peer->model, params);
    struct ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    peer->pool = ggml_threadpool_new(&pool_params);
    if (!peer->context || !peer->pool) {
        sp_peer_close(peer);
        return sp_fail(err, SP_ERR_NO_MEMORY, "%s: libllama can't make a context of %u cells", path, n_ctx);
    }
    llama_attach_threadpool(peer->context, peer->pool, NULL);
    *out = peer;
    return SP_OK;
}

void sp_peer_close(sp_peer *peer) {
    if (!peer) {
        return;
    }
    if (peer->context) {
        llama_free(peer->context);
    }
    if (peer->pool) {
        ggml_threadpool_free(peer->pool);
    }
    if (peer->model) {
        llama_model_free(peer->model);
    }
    free(peer);
}

static int32_t likeliest(const sp_peer *peer) {
    const float *logits = llama_get_logits_ith(peer->context, -1);
    int32_t best = 0;
    for (int32_t i = 1; i < peer->n_vocab; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

int32_t sp_peer_prefill(sp_peer *peer, const int32_t *tokens, uint32_t count) {
    llama_memory_clear(llama_get_memory(peer->context), false);
    for (uint32_t at = 0; at < count; at += PEER_BATCH) {
        uint32_t n = count - at < PEER_BATCH ? count - at : PEER_BATCH;
        /* llama_batch_get_one only reads the tokens, in spite of its type. */
        if (llama_decode(peer->context, llama_batch_get_one((llama_token *)tokens + at, (int32_t)n))) {
            return -1;
        }
    }
    return likeliest(peer);
}

int32_t sp_peer_decode(sp_peer *peer, int32_t token) {
    return llama_decode(peer->context, llama_batch_get_one(&token, 1)) ? -1 : likeliest(peer);
}
