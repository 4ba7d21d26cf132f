/* Embeddings of the language-model actor, against libllama's on the same file: decoders, and encoders that keep no state. */
#include "support.h"

#include <math.h>
#include <unistd.h>

#include "model/synthetic.h"
#include "samepage/abi.h"
#include "samepage/program.h"

enum { THREADS = 1, N_CTX = 256 };

static const char text[] = "The red key is in the attic. Where is the red key? A text of some length, so that there is something to pool.";

static char *write_model(const char *architecture, const char *pooling) {
    char name[96];
    snprintf(name, sizeof name, "embeddings-%ld-%s.gguf", (long)getpid(), architecture);
    char *path = in_folder("BUILD_DIR", name), *vocabulary = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    const bool gemma = strcmp(architecture, "gemma-embedding") == 0;
    const sp_synthetic what = {.architecture = architecture,
                               .vocabulary = vocabulary,
                               .n_layer = gemma ? 6 : 3, /* its last attends without a window */
                               .n_window = gemma ? 16 : 0,
                               .n_embd = 128,
                               .n_head = 4,
                               .n_head_kv = 4,
                               .n_ff = 256,
                               .n_ctx = N_CTX,
                               .type = SP_TYPE_Q8_0,
                               .pooling = pooling,
                               .seed = 3};
    sp_error err = {0};
    if (sp_synthetic_write(&what, path, &err) != SP_OK) {
        fail_msg("%s", err.message);
    }
    free(vocabulary);
    return path;
}

static session *open_embedder(const char *path, const char *device, uint32_t n_batch) {
    session *s = session_open(path, device, THREADS);
    sp_llm_config config = {.kind = SP_LLM_CONFIG, .n_batch = n_batch, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1, .embeddings = 1};
    session_ask(s, &config, sizeof config);
    assert_string_equal(s->problem, "");
    return s;
}

static void embed(session *s, const char *what, int32_t pooling, int32_t normalise) {
    const size_t length = strlen(what);
    sp_llm_embed *message = malloc(sizeof *message + length);
    *message = (sp_llm_embed){.kind = SP_LLM_EMBED, .length = (uint32_t)length, .pooling = pooling, .normalise = normalise};
    memcpy(message + 1, what, length);
    session_ask(s, message, sizeof *message + length);
    free(message);
}

/* libllama's rows for the text: of the sequence, or of each token. Malloc'ed. */
static float *ask_oracle(const char *path, enum llama_pooling_type pooling, int *n_rows, int *n_embd) {
    struct llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, model_params);
    assert_non_null(model);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX;
    params.n_threads = params.n_threads_batch = THREADS;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.embeddings = true;
    params.pooling_type = pooling;
    struct llama_context *context = llama_init_from_model(model, params);
    assert_non_null(context);
    int32_t tokens[N_CTX];
    const int n = llama_tokenize(llama_model_get_vocab(model), text, (int32_t)strlen(text), tokens, N_CTX, true, true);
    assert_true(n > 20);
    assert_int_equal(llama_decode(context, llama_batch_get_one(tokens, n)), 0);
    const bool pooled = llama_pooling_type(context) != LLAMA_POOLING_TYPE_NONE;
    *n_embd = llama_model_n_embd_out(model);
    *n_rows = pooled ? 1 : n;
    const float *rows = pooled ? llama_get_embeddings_seq(context, 0) : llama_get_embeddings(context);
    const size_t size = (size_t)*n_rows * (size_t)*n_embd * sizeof *rows;
    float *copy = malloc(size);
    memcpy(copy, rows, size);
    llama_free(context);
    llama_model_free(model);
    return copy;
}

static double difference(const float *got, const float *wanted, size_t n) {
    double error = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - (double)wanted[i]) * ((double)got[i] - (double)wanted[i]);
        squares += (double)wanted[i] * (double)wanted[i];
    }
    assert_true(squares > 0);
    return error / squares;
}

/* The same bytes, but for the mean: libllama sums in its product's order and in floats, and the actor in double. */
static void compare(session *s, const char *path, int32_t pooling, enum llama_pooling_type oracle_pooling) {
    int n_rows, n_embd;
    float *wanted = ask_oracle(path, oracle_pooling, &n_rows, &n_embd);
    embed(s, text, pooling, -1);
    assert_string_equal(s->problem, "");
    assert_int_equal(s->n_rows, n_rows);
    assert_int_equal(s->n_embd, n_embd);
    const size_t n = (size_t)n_rows * (size_t)n_embd;
    if (pooling == SP_LLM_POOLING_MEAN) {
        assert_true(difference(s->logits, wanted, n) < 1e-12);
    } else {
        assert_memory_equal(s->logits, wanted, n * sizeof *wanted);
    }
    free(wanted);
}

static void check(const char *architecture, const char *pooling, const char *device) {
    char *path = write_model(architecture, pooling);
    session *s = open_embedder(path, device, 0);
    compare(s, path, SP_LLM_POOLING_NONE, LLAMA_POOLING_TYPE_NONE);
    compare(s, path, SP_LLM_POOLING_MEAN, LLAMA_POOLING_TYPE_MEAN);
    compare(s, path, SP_LLM_POOLING_CLS, LLAMA_POOLING_TYPE_CLS);
    compare(s, path, SP_LLM_POOLING_LAST, LLAMA_POOLING_TYPE_LAST);
    if (!pooling || strcmp(pooling, "mean") != 0) {
        compare(s, path, SP_LLM_POOLING_MODEL, LLAMA_POOLING_TYPE_UNSPECIFIED);
    }
    session_close(s);
    unlink(path);
    free(path);
}

static void test_decoders(void **state) {
    (void)state;
    check("llama", NULL, "cpu");
    check("qwen3", "last", "cpu");
    check("lfm2", "cls", "cpu");
}

static void test_encoders(void **state) {
    (void)state;
    check("bert", "cls", "cpu");
    check("nomic-bert", "mean", "cpu");
    check("gemma-embedding", "mean", "cpu"); /* a window to both sides */
}

static void test_separate_memory(void **state) {
    (void)state;
    check("qwen3", "last", "discrete");
    check("bert", "cls", "discrete");
}

/* A text of several batches: an encoder takes it in one all the same. */
static void test_batches(void **state) {
    (void)state;
    static const char *const architectures[] = {"qwen3", "bert"};
    for (size_t i = 0; i < 2; i++) {
        char *path = write_model(architectures[i], "mean");
        session *s = open_embedder(path, "cpu", 8);
        int n_rows, n_embd;
        float *wanted = ask_oracle(path, LLAMA_POOLING_TYPE_MEAN, &n_rows, &n_embd);
        embed(s, text, SP_LLM_POOLING_MODEL, -1);
        assert_int_equal(s->n_rows, 1);
        assert_true(difference(s->logits, wanted, (size_t)n_embd) < 1e-6);
        free(wanted);
        session_close(s);
        unlink(path);
        free(path);
    }
}

static void test_norms(void **state) {
    (void)state;
    char *path = write_model("llama", "last");
    session *s = open_embedder(path, "cpu", 0);
    static const int32_t norms[] = {-1, 0, 1, 2, 3};
    float raw[512] = {0};
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        embed(s, text, SP_LLM_POOLING_MODEL, norms[i]);
        assert_string_equal(s->problem, "");
        assert_true(s->n_embd <= 512);
        double sum = 0, most = 0;
        for (uint32_t d = 0; d < s->n_embd; d++) {
            const double value = fabs((double)s->logits[d]);
            raw[d] = norms[i] < 0 ? s->logits[d] : raw[d];
            sum += pow(value, norms[i] > 0 ? norms[i] : 1);
            most = value > most ? value : most;
        }
        assert_true(norms[i] > 0 ? fabs(sum - 1) < 1e-5 : norms[i] < 0 || fabs(most - 32760) < 1e-2);
        const double scale = (double)s->logits[0] / (double)raw[0];
        for (uint32_t d = 0; d < s->n_embd; d++) {
            assert_true(fabs((double)s->logits[d] - scale * (double)raw[d]) <= 1e-5 * most);
        }
    }
    session_close(s);
    unlink(path);
    free(path);
}

/* What can't be embedded is refused, and the actor goes on. */
static void test_refusals(void **state) {
    (void)state;
    char *path = write_model("bert", "cls");
    session *s = open_embedder(path, "cpu", 0);
    char *longer = malloc(8 * 1024);
    memset(longer, 'x', 8 * 1024 - 1);
    longer[8 * 1024 - 1] = 0;
    embed(s, longer, SP_LLM_POOLING_MODEL, 2);
    assert_non_null(strstr(s->problem, "the context has room for 256"));
    embed(s, text, 4, 2);
    assert_non_null(strstr(s->problem, "not supported"));
    session_say(s, SP_LLM_COMPLETE, "text");
    assert_non_null(strstr(s->problem, "embeddings alone"));
    const sp_llm_embed cut = {.kind = SP_LLM_EMBED, .length = 100};
    session_ask(s, &cut, sizeof cut);
    assert_non_null(strstr(s->problem, "cut"));
    compare(s, path, SP_LLM_POOLING_MODEL, LLAMA_POOLING_TYPE_UNSPECIFIED);
    session_close(s);
    session *other = session_open(path, "cpu", THREADS);
    session_ask(other, &(sp_llm_config){.kind = SP_LLM_CONFIG, .type_k = 1, .type_v = 1}, sizeof(sp_llm_config));
    assert_non_null(strstr(other->problem, "logits"));
    session_close(other);
    free(longer);
    unlink(path);
    free(path);
}

int main(void) {
    llama_log_set(oracle_log, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoders), cmocka_unit_test(test_encoders), cmocka_unit_test(test_separate_memory),
        cmocka_unit_test(test_batches),  cmocka_unit_test(test_norms),    cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
