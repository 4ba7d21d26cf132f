/* Inside the peer. */
#ifndef SP_CLI_BENCH_PEER_IMPL_H
#define SP_CLI_BENCH_PEER_IMPL_H

#include <ggml-cpu.h>
#include <llama.h>

#include "cli/bench_peer.h"

struct sp_peer {
    struct llama_model *model;
    struct llama_context *context;
    struct ggml_threadpool *pool;
    int32_t n_vocab;
};

#endif
