/* See synthetic.h. */
#include "model/synthetic.h"

#include <errno.h>
#include <fcntl.h>
#include <ggml.h>
#include <gguf.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/os.h"
#include "samepage/program.h"

sp_synthetic sp_synthetic_llama_1b(uint32_t type) {
    return (sp_synthetic){.architecture = "llama",
                          .n_vocab = 128256,
                          .n_layer = 16,
                          .n_embd = 2048,
                          .n_head = 32,
                          .n_head_kv = 8,
                          .n_ff = 8192,
                          .n_ctx = 32768,
                          .type = type,
                          .seed = 1};
}

sp_synthetic sp_synthetic_llama_8b(uint32_t type) {
    sp_synthetic what = sp_synthetic_llama_1b(type);
    what.n_layer = 32, what.n_embd = 4096, what.n_ff = 14336, what.untied = true;
    return what;
}

bool sp_synthetic_1b(const char *kind, uint32_t type, sp_synthetic *out) {
    *out = sp_synthetic_llama_1b(type);
    if (strcmp(kind, "mixture") == 0) {
        out->architecture = "qwen3moe";
        out->n_embd = 1024, out->n_head = 16, out->n_head_kv = 4, out->n_ff = 512, out->n_expert = 32, out->n_expert_used = 4;
    } else if (strcmp(kind, "window") == 0) {
        out->architecture = "gemma3";
        out->n_layer = 26, out->n_embd = 1536, out->n_head = 6, out->n_head_kv = 2, out->head = 256, out->n_ff = 6144, out->n_window = 512;
    } else if (strcmp(kind, "hybrid") == 0) {
        out->architecture = "lfm2";
    } else {
        return strcmp(kind, "dense") == 0;
    }
    return true;
}

typedef struct builder {
    const sp_synthetic *what;
    struct gguf_context *gguf;
    struct ggml_context *context;
} builder;

static void set_u32(builder *b, const char *suffix, uint32_t value) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", b->what->architecture, suffix);
    gguf_set_val_u32(b->gguf, key, value);
}

static void set_f32(builder *b, const char *suffix, float value) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", b->what->architecture, suffix);
    gguf_set_val_f32(b->gguf, key, value);
}

enum { CONVOLUTION = 3, MAX_LAYERS = 128 };

static uint32_t head_width(const sp_synthetic *w) {
    return w->head ? w->head : w->n_embd / w->n_head;
}

static bool is_hybrid(const sp_synthetic *w) {
    return strcmp(w->architecture, "lfm2") == 0;
}

static bool is_encoder(const sp_synthetic *w) {
    return strcmp(w->architecture, "bert") == 0 || strcmp(w->architecture, "nomic-bert") == 0;
}

/* Of a hybrid's layers every third attends; the others have a short convolution. */
static bool attends(const sp_synthetic *w, uint32_t layer) {
    return !is_hybrid(w) || layer % 3 == 2;
}

static void set_heads_kv(builder *b) {
    const sp_synthetic *w = b->what;
    uint32_t heads[MAX_LAYERS];
    char key[96];
    if (!is_hybrid(w) || w->n_layer > MAX_LAYERS) {
        set_u32(b, "attention.head_count_kv", w->n_head_kv);
        return;
    }
    for (uint32_t i = 0; i < w->n_layer; i++) {
        heads[i] = attends(w, i) ? w->n_head_kv : 0;
    }
    snprintf(key, sizeof key, "%s.attention.head_count_kv", w->architecture);
    gguf_set_arr_data(b->gguf, key, GGUF_TYPE_UINT32, heads, w->n_layer);
}

static void set_metadata(builder *b) {
    const sp_synthetic *w = b->what;
    gguf_set_val_str(b->gguf, "general.architecture", w->architecture);
    gguf_set_val_str(b->gguf, "general.name", "synthetic");
    set_u32(b, "context_length", w->n_ctx);
    set_u32(b, "embedding_length", w->n_embd);
    set_u32(b, "block_count", w->n_layer);
    set_u32(b, "feed_forward_length", w->n_ff);
    set_u32(b, "attention.head_count", w->n_head);
    set_heads_kv(b);
    set_u32(b, "rope.dimension_count", head_width(w));
    if (w->head) {
        set_u32(b, "attention.key_length", w->head);
        set_u32(b, "attention.value_length", w->head);
    }
    if (w->n_expert) {
        set_u32(b, "expert_count", w->n_expert);
        set_u32(b, "expert_used_count", w->n_expert_used);
        set_u32(b, "expert_feed_forward_length", w->n_ff);
    }
    if (w->n_window) {
        set_u32(b, "attention.sliding_window", w->n_window);
    }
    if (is_hybrid(w)) {
        set_u32(b, "shortconv.l_cache", CONVOLUTION);
    }
    for (uint32_t i = 1; w->pooling && i <= 3; i++) { /* llama.cpp's numbers */
        static const char *const kinds[] = {"none", "mean", "cls", "last"};
        if (strcmp(kinds[i], w->pooling) == 0) {
            set_u32(b, "pooling_type", i);
        }
    }
    if (is_encoder(w)) {
        char key[96];
        snprintf(key, sizeof key, "%s.attention.causal", w->architecture);
        gguf_set_val_bool(b->gguf, key, false);
        set_f32(b, "attention.layer_norm_epsilon", 1e-5f);
        gguf_set_val_u32(b->gguf, "tokenizer.ggml.token_type_count", 2);
    }
    set_f32(b, "rope.freq_base", 500000);
    if (w->n_ctx_original) {
        set_u32(b, "rope.scaling.original_context_length", w->n_ctx_original);
    }
    set_f32(b, "attention.layer_norm_rms_epsilon", 1e-5f);
}

/* A byte's character in GPT-2's alphabet of visible ones (openai/gpt-2, encoder.py). */
static void byte_character(unsigned byte, char out[8]) {
    static const struct {
        unsigned from, to;
    } visible[] = {{'!', '~'}, {0xa1, 0xac}, {0xae, 0xff}};
    unsigned code = byte, hidden = 256;
    bool seen = false;
    for (unsigned i = 0; i <= byte; i++) {
        bool shown = false;
        for (int r = 0; r < 3; r++) {
            shown |= i >= visible[r].from && i <= visible[r].to;
        }
        seen = shown;
        hidden += !shown && i < byte;
    }
    code = seen ? byte : hidden;
    if (code < 0x80) {
        out[0] = (char)code, out[1] = 0;
    } else {
        out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 0x3f)), out[2] = 0;
    }
}

static sp_status make_vocabulary(builder *b, sp_error *err) {
    uint32_t n = b->what->n_vocab;
    char(*texts)[16] = calloc(n, sizeof *texts);
    const char **tokens = calloc(n, sizeof *tokens);
    int32_t *types = calloc(n, sizeof *types);
    if (!texts || !tokens || !types) {
        free(texts), free(tokens), free(types);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i < 256) {
            byte_character(i, texts[i]);
        } else {
            snprintf(texts[i], sizeof texts[i], "w%" PRIu32, i);
        }
        tokens[i] = texts[i];
        types[i] = 1; /* normal */
    }
    const char *merges[] = {"w 1"};
    gguf_set_val_str(b->gguf, "tokenizer.ggml.model", "gpt2");
    gguf_set_val_str(b->gguf, "tokenizer.ggml.pre", "llama-bpe");
    gguf_set_arr_str(b->gguf, "tokenizer.ggml.tokens", tokens, n);
    gguf_set_arr_data(b->gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types, n);
    gguf_set_arr_str(b->gguf, "tokenizer.ggml.merges", merges, 1);
    gguf_set_val_u32(b->gguf, "tokenizer.ggml.bos_token_id", n - 2);
    gguf_set_val_u32(b->gguf, "tokenizer.ggml.eos_token_id", n - 1);
    free(texts), free(tokens), free(types);
    return SP_OK;
}

static sp_status take_vocabulary(builder *b, uint32_t *n_vocab, sp_error *err) {
    struct gguf_context *from = gguf_init_from_file(b->what->vocabulary, (struct gguf_init_params){.no_alloc = true});
    if (!from) {
        return sp_fail(err, SP_ERR_IO, "%s: can't be read", b->what->vocabulary);
    }
    int64_t id = gguf_find_key(from, "tokenizer.ggml.tokens");
    *n_vocab = id < 0 ? 0 : (uint32_t)gguf_get_arr_n(from, id);
    for (int64_t i = gguf_get_n_kv(from) - 1; i >= 0; i--) {
        if (strncmp(gguf_get_key(from, i), "tokenizer.", 10) != 0) {
            gguf_remove_key(from, gguf_get_key(from, i));
        }
    }
    gguf_set_kv(b->gguf, from);
    gguf_free(from);
    return *n_vocab ? SP_OK : sp_fail(err, SP_ERR_FORMAT, "%s: has no vocabulary", b->what->vocabulary);
}

static void add(builder *b, uint32_t type, int64_t ne0, int64_t ne1, const char *format, uint32_t layer) {
    char name[GGML_MAX_NAME];
    snprintf(name, sizeof name, format, layer);
    struct ggml_tensor *t = ne1 ? ggml_new_tensor_2d(b->context, (enum ggml_type)type, ne0, ne1) : ggml_new_tensor_1d(b->context, GGML_TYPE_F32, ne0);
    ggml_set_name(t, name);
    gguf_add_tensor(b->gguf, t);
}

static void add_experts(builder *b, int64_t ne0, int64_t ne1, const char *format, uint32_t layer) {
    char name[GGML_MAX_NAME];
    snprintf(name, sizeof name, format, layer);
    struct ggml_tensor *t = ggml_new_tensor_3d(b->context, (enum ggml_type)b->what->type, ne0, ne1, b->what->n_expert);
    ggml_set_name(t, name);
    gguf_add_tensor(b->gguf, t);
}

/* The matrices that files called Q4_K_M have in Q6_K: half of the layers' values and outputs. */
static uint32_t finer(const builder *b, uint32_t layer) {
    return b->what->type == SP_TYPE_Q4_K && layer % 2 == 0 ? SP_TYPE_Q6_K : b->what->type;
}

static void add_attention(builder *b, uint32_t i) {
    const sp_synthetic *w = b->what;
    const bool qwen2 = strcmp(w->architecture, "qwen2") == 0, qwen3 = strncmp(w->architecture, "qwen3", 5) == 0;
    const int64_t width = w->n_embd, head = head_width(w), q = head * w->n_head, kv = head * w->n_head_kv;
    add(b, w->type, q, width, "blk.%u.attn_output.weight", i);
    add(b, w->type, width, q, "blk.%u.attn_q.weight", i);
    add(b, w->type, width, kv, "blk.%u.attn_k.weight", i);
    add(b, finer(b, i), width, kv, "blk.%u.attn_v.weight", i);
    if (qwen2) {
        add(b, 0, q, 0, "blk.%u.attn_q.bias", i);
        add(b, 0, kv, 0, "blk.%u.attn_k.bias", i);
        add(b, 0, kv, 0, "blk.%u.attn_v.bias", i);
    }
    if (qwen3 || w->n_window || is_hybrid(w)) {
        add(b, 0, head, 0, "blk.%u.attn_q_norm.weight", i);
        add(b, 0, head, 0, "blk.%u.attn_k_norm.weight", i);
    }
}

static void add_convolution(builder *b, uint32_t i) {
    const int64_t width = b->what->n_embd;
    add(b, SP_TYPE_F32, CONVOLUTION, width, "blk.%u.shortconv.conv.weight", i);
    add(b, b->what->type, width, 3 * width, "blk.%u.shortconv.in_proj.weight", i);
    add(b, b->what->type, width, width, "blk.%u.shortconv.out_proj.weight", i);
}

static void add_feed_forward(builder *b, uint32_t i) {
    const sp_synthetic *w = b->what;
    const int64_t width = w->n_embd, ff = w->n_ff;
    if (w->n_expert) {
        add(b, SP_TYPE_F32, width, w->n_expert, "blk.%u.ffn_gate_inp.weight", i);
        add_experts(b, width, ff, "blk.%u.ffn_gate_exps.weight", i);
        add_experts(b, width, ff, "blk.%u.ffn_up_exps.weight", i);
        add_experts(b, ff, width, "blk.%u.ffn_down_exps.weight", i);
        return;
    }
    add(b, w->type, width, ff, "blk.%u.ffn_gate.weight", i);
    add(b, w->type, width, ff, "blk.%u.ffn_up.weight", i);
    add(b, finer(b, i), ff, width, "blk.%u.ffn_down.weight", i);
}

/* Phi 3 has its products joined. */
static void add_phi3(builder *b, uint32_t i) {
    const sp_synthetic *w = b->what;
    const int64_t width = w->n_embd, kv = (int64_t)head_width(w) * w->n_head_kv;
    add(b, w->type, width, width, "blk.%u.attn_output.weight", i);
    add(b, w->type, width, width + 2 * kv, "blk.%u.attn_qkv.weight", i);
    add(b, w->type, width, 2 * (int64_t)w->n_ff, "blk.%u.ffn_up.weight", i);
    add(b, w->type, w->n_ff, width, "blk.%u.ffn_down.weight", i);
}

static void add_norm(builder *b, const char *name, uint32_t layer) {
    char format[64];
    snprintf(format, sizeof format, "%s.weight", name);
    add(b, 0, b->what->n_embd, 0, format, layer);
    snprintf(format, sizeof format, "%s.bias", name);
    add(b, 0, b->what->n_embd, 0, format, layer);
}

/* BERT knows positions by a table and has biases, Nomic's turns them and has a gate. */
static void add_encoder(builder *b, uint32_t n_vocab) {
    const sp_synthetic *w = b->what;
    const bool bert = strcmp(w->architecture, "bert") == 0;
    const int64_t width = w->n_embd, ff = w->n_ff;
    add(b, w->type, width, n_vocab, "token_embd.weight", 0);
    add(b, SP_TYPE_F32, width, 2, "token_types.weight", 0);
    if (bert) {
        add(b, SP_TYPE_F32, width, w->n_ctx, "position_embd.weight", 0);
    }
    add_norm(b, "token_embd_norm", 0);
    for (uint32_t i = 0; i < w->n_layer; i++) {
        add(b, w->type, width, 3 * width, "blk.%u.attn_qkv.weight", i);
        add(b, w->type, width, width, "blk.%u.attn_output.weight", i);
        add(b, w->type, width, ff, "blk.%u.ffn_up.weight", i);
        add(b, w->type, ff, width, "blk.%u.ffn_down.weight", i);
        add_norm(b, "blk.%u.attn_output_norm", i);
        add_norm(b, "blk.%u.layer_output_norm", i);
        if (bert) {
            add(b, 0, 3 * width, 0, "blk.%u.attn_qkv.bias", i);
            add(b, 0, width, 0, "blk.%u.attn_output.bias", i);
            add(b, 0, ff, 0, "blk.%u.ffn_up.bias", i);
            add(b, 0, width, 0, "blk.%u.ffn_down.bias", i);
        } else {
            add(b, w->type, width, ff, "blk.%u.ffn_gate.weight", i);
        }
    }
}

/* What llama.cpp's architectures of these names want. */
static sp_status add_tensors(builder *b, uint32_t n_vocab, sp_error *err) {
    static const char *const known[] = {"llama", "qwen2", "qwen3", "qwen3moe", "phi3", "gemma3", "lfm2", "bert", "nomic-bert", "gemma-embedding"};
    const sp_synthetic *w = b->what;
    const bool phi3 = strcmp(w->architecture, "phi3") == 0;
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        found |= strcmp(known[i], w->architecture) == 0;
    }
    if (!found) {
        return sp_fail(err, SP_ERR_ARGUMENT, "no synthetic model of architecture %s", w->architecture);
    }
    if (is_encoder(w)) {
        add_encoder(b, n_vocab);
        return SP_OK;
    }
    const int64_t width = w->n_embd;
    add(b, finer(b, 0), width, n_vocab, "token_embd.weight", 0);
    add(b, 0, width, 0, is_hybrid(w) ? "token_embd_norm.weight" : "output_norm.weight", 0);
    if (phi3 || w->untied) {
        add(b, w->type, width, n_vocab, "output.weight", 0);
    }
    if (w->n_ctx_original) {
        add(b, 0, head_width(w) / 2, 0, "rope_factors_long.weight", 0);
        add(b, 0, head_width(w) / 2, 0, "rope_factors_short.weight", 0);
    }
    for (uint32_t i = 0; i < w->n_layer; i++) {
        add(b, 0, width, 0, "blk.%u.attn_norm.weight", i);
        add(b, 0, width, 0, "blk.%u.ffn_norm.weight", i);
        if (w->n_window) {
            add(b, 0, width, 0, "blk.%u.post_attention_norm.weight", i);
            add(b, 0, width, 0, "blk.%u.post_ffw_norm.weight", i);
        }
        if (phi3) {
            add_phi3(b, i);
            continue;
        }
        (attends(w, i) ? add_attention : add_convolution)(b, i);
        add_feed_forward(b, i);
    }
    return SP_OK;
}

static uint64_t next_random(uint64_t *state) { /* xorshift64*, Vigna 2016 */
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* Rows of random values with a standard deviation of about 1 / sqrt(width), made in the type itself: quantising a billion floats would take minutes.
 */
static void fill_matrix(uint8_t *out, size_t size, uint32_t type, int64_t ne0, uint64_t *state) {
    const float scale = 1 / sqrtf((float)ne0);
    const size_t block = ggml_type_size((enum ggml_type)type), d_at = type == SP_TYPE_Q6_K ? block - 2 : 0;
    const float divisor = type == SP_TYPE_Q4_0 ? 4.6f : type == SP_TYPE_Q4_K ? 200 : type == SP_TYPE_Q6_K ? 1370 : 74;
    const ggml_fp16_t d = ggml_fp32_to_fp16(scale / divisor), least = ggml_fp32_to_fp16(7.5f * scale / divisor);
    for (size_t at = 0; at + block <= size; at += block) {
        if (type == SP_TYPE_F16) {
            float uniform = (float)(next_random(state) >> 40) / (1 << 24) - 0.5f;
            ggml_fp16_t value = ggml_fp32_to_fp16(uniform * 3.46f * scale);
            memcpy(out + at, &value, sizeof value);
            continue;
        }
        for (size_t i = 0; i < block; i += 8) {
            uint64_t r = next_random(state);
            memcpy(out + at + i, &r, block - i < 8 ? block - i : 8);
        }
        memcpy(out + at + d_at, &d, sizeof d);
        if (type == SP_TYPE_Q4_K) {
            memcpy(out + at + 2, &least, sizeof least);
        }
    }
}

static void fill_vector(float *out, int64_t n, const char *name, uint64_t *state) {
    bool bias = strstr(name, "bias") || strstr(name, "gate_inp");
    for (int64_t i = 0; i < n; i++) {
        float uniform = (float)(next_random(state) >> 40) / (1 << 24) - 0.5f;
        out[i] = bias ? 0.1f * uniform : 1 + 0.2f * uniform;
    }
}

/* ---- the file: chunks of random values, each by a seed of its own, so that threads share them ---- */

enum { CHUNK = 16 << 20, MAX_WRITERS = 64 };

typedef struct writing {
    const builder *b;
    int fd;
    uint64_t data_at; /* where tensors begin */
    atomic_uint next; /* chunk */
    atomic_int failed;
} writing;

/* The chunk's tensor and its bytes in it; false: there is none. Chunks are whole rows. */
static bool find_chunk(const builder *b, uint32_t number, int64_t *tensor, uint64_t *from, uint64_t *bytes) {
    *tensor = 0;
    for (struct ggml_tensor *t = ggml_get_first_tensor(b->context); t; t = ggml_get_next_tensor(b->context, t), ++*tensor) {
        uint64_t row = ggml_row_size(t->type, t->ne[0]), size = ggml_nbytes(t), each = (CHUNK / row + 1) * row;
        uint32_t n = (uint32_t)((size + each - 1) / each);
        if (number < n) {
            *from = number * each;
            *bytes = size - *from < each ? size - *from : each;
            return true;
        }
        number -= n;
    }
    return false;
}

static bool write_chunk(const writing *w, uint32_t number, int64_t tensor, uint64_t from, uint64_t bytes) {
    uint64_t state = (w->b->what->seed + ((uint64_t)number << 20)) * 0x9e3779b97f4a7c15u + 1, at = w->data_at + from;
    const char *name = gguf_get_tensor_name(w->b->gguf, tensor);
    const struct ggml_tensor *t = ggml_get_tensor(w->b->context, name);
    uint8_t *values = malloc(bytes);
    bool ok = values != NULL;
    if (ok && t->type == GGML_TYPE_F32) {
        fill_vector((float *)(void *)values, (int64_t)(bytes / sizeof(float)), name, &state);
    } else if (ok) {
        fill_matrix(values, bytes, (uint32_t)t->type, t->ne[0], &state);
    }
    at += gguf_get_tensor_offset(w->b->gguf, tensor);
    ok = ok && sp_os_write_at(w->fd, values, bytes, at);
    free(values);
    return ok;
}

static void *write_chunks(void *user) {
    writing *w = user;
    int64_t tensor;
    uint64_t from, bytes;
    for (uint32_t number; !atomic_load(&w->failed) && find_chunk(w->b, number = atomic_fetch_add(&w->next, 1), &tensor, &from, &bytes);) {
        if (!write_chunk(w, number, tensor, from, bytes)) {
            atomic_store(&w->failed, errno ? errno : ENOMEM);
        }
    }
    return NULL;
}

static bool write_data(builder *b, int fd) {
    writing w = {.b = b, .fd = fd};
    struct stat st;
    int64_t last = gguf_get_n_tensors(b->gguf) - 1;
    if (fstat(fd, &st) != 0) {
        return false;
    }
    w.data_at = (uint64_t)st.st_size;
    if (ftruncate(fd, (off_t)(w.data_at + gguf_get_tensor_offset(b->gguf, last) +
                              GGML_PAD(gguf_get_tensor_size(b->gguf, last), gguf_get_alignment(b->gguf)))) != 0) {
        return false;
    }
    pthread_t threads[MAX_WRITERS];
    int n = 0, wanted = sp_os_cores() - 1;
    while (n < wanted && n < MAX_WRITERS && pthread_create(&threads[n], NULL, write_chunks, &w) == 0) {
        n++;
    }
    write_chunks(&w);
    while (n > 0) {
        pthread_join(threads[--n], NULL);
    }
    errno = atomic_load(&w.failed);
    return errno == 0;
}

static sp_status write_file(builder *b, const char *path, sp_error *err) {
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = gguf_write_to_file(b->gguf, temporary, true) ? open(temporary, O_WRONLY | O_CLOEXEC) : -1;
    bool ok = fd >= 0 && write_data(b, fd);
    int failed = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        ok = false;
        failed = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        failed = errno;
    }
    if (!ok) {
        unlink(temporary);
    }
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: a synthetic model can't be written: %s", path, strerror(failed));
}

sp_status sp_synthetic_write(const sp_synthetic *what, const char *path, sp_error *err) {
    if (what->type != SP_TYPE_F16 && what->type != SP_TYPE_Q8_0 && what->type != SP_TYPE_Q4_0 && what->type != SP_TYPE_Q4_K) {
        return sp_fail(err, SP_ERR_ARGUMENT, "synthetic models have matrices of type f16, q8_0, q4_0 or q4_K");
    }
    builder b = {.what = what, .gguf = gguf_init_empty()};
    b.context = ggml_init((struct ggml_init_params){.mem_size = ggml_tensor_overhead() * (what->n_layer * 16 + 16), .no_alloc = true});
    uint32_t n_vocab = what->n_vocab;
    set_metadata(&b);
    sp_status status = what->vocabulary ? take_vocabulary(&b, &n_vocab, err) : make_vocabulary(&b, err);
    if (status == SP_OK) {
        status = add_tensors(&b, n_vocab, err);
    }
    if (status == SP_OK) {
        status = write_file(&b, path, err);
    }
    ggml_free(b.context);
    gguf_free(b.gguf);
    return status;
}
