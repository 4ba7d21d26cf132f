/* What libllama would believe, and follow a wild pointer for: checked before it sees the file. What it asserts instead is guarded (guard_shim.cpp).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/model_impl.h"

enum { MOST_LAYERS = 512 }; /* libllama's */

static bool has(const sp_model *model, uint32_t layer, const char *suffix) {
    char name[96];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer, suffix);
    return gguf_find_tensor(model->gguf, name) >= 0;
}

/* Attention has its three products, as one tensor or in pieces; libllama takes a missing one for optional and uses it all the same. */
static bool attention_is_whole(const sp_model *model, uint32_t layer) {
    return has(model, layer, "attn_qkv") || has(model, layer, "attn_kv_a_mqa") || (has(model, layer, "attn_q_b") && has(model, layer, "attn_kv")) ||
           (has(model, layer, "attn_q") && has(model, layer, "attn_k") && has(model, layer, "attn_v"));
}

/* Layers of models whose layers differ, and that have neither: a convolution over few tokens, or experts or a feed-forward net alone. */
static bool needs_neither(const sp_model *model, uint32_t layer) {
    return has(model, layer, "shortconv.conv") || (strncmp(model->info.architecture, "nemotron_h", 10) == 0 && has(model, layer, "ffn_up")) ||
           (strncmp(model->info.architecture, "nemotron_h", 10) == 0 && has(model, layer, "ffn_gate_inp"));
}

/* Layers that are stored: the stacks of HRM go over the same ones again. */
static uint32_t stored_layers(const sp_model *model) {
    const uint32_t stack = sp_model_number(model, "hrm.layers_per_stack");
    return stack && stack <= MOST_LAYERS && 2 * stack < model->info.n_layer ? 2 * stack : model->info.n_layer;
}

sp_status sp_model_check_layers(const sp_model *model, sp_error *err) {
    if (model->info.n_layer < 1 || model->info.n_layer > MOST_LAYERS) {
        return sp_fail(err, SP_ERR_FORMAT, "the file claims %" PRIu32 " layers; 1 to %d are possible", model->info.n_layer, MOST_LAYERS);
    }
    char key[96];
    snprintf(key, sizeof key, "%s.attention.shared_kv_layers", model->info.architecture);
    bool shared = gguf_find_key(model->gguf, key) >= 0; /* some layers use another's keys and values */
    for (uint32_t i = 0; i < stored_layers(model); i++) {
        bool attends = has(model, i, "attn_norm") || has(model, i, "attn_output");
        bool recurs = has(model, i, "ssm_in") || has(model, i, "ssm_out") || has(model, i, "time_mix_key");
        if (!recurs && !needs_neither(model, i) && !(attends && (shared || attention_is_whole(model, i)))) {
            return sp_fail(err, SP_ERR_UNSUPPORTED,
                           "layer %" PRIu32 " of %" PRIu32 " has no attention that is known, or the file lacks tensors of it", i,
                           model->info.n_layer);
        }
    }
    return SP_OK;
}
