/*
 * Programs from the generator, whose choices are the input's bytes: half of them with one rule broken, which must be refused with that rule's reason;
 * the others must run on a device and give what the evaluator says.
 */
#include <string.h>

#include "fuzz.h"
#include "oracle/run.h"

static runner *runners[2];

static void start(void) {
    sp_error err = {0};
    if (!runners[0]) {
        runners[0] = runner_open("cpu", 1, &err);
        runners[1] = runner_open("discrete", 1, &err);
    }
    if (!runners[0] || !runners[1]) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
}

static void check_refusal(choices *c, const gen_options *options) {
    generated p;
    sp_error err = {0};
    if (!generate_broken(c, options, &p)) {
        return;
    }
    const bool accepted = gen_check(&p, &err);
    if (accepted || !strstr(err.message, p.words)) {
        fprintf(stderr, "%s of %s broken: %s; should say: %s\n", p.broken, sp_op_name(p.last_op), accepted ? "accepted" : err.message, p.words);
        abort();
    }
    generated_free(&p);
}

static void check_run(choices *c, runner *r, const gen_options *options) {
    generated p;
    if (!generate(c, options, &p)) {
        return;
    }
    eval_result result;
    sp_error err = {0};
    const run_options run = {.seed = c->state, .wild = chance(c, 4)};
    const run_outcome outcome = runner_run(r, &p, &run, &result, &err);
    if (outcome == RUN_WRONG || outcome == RUN_FAILED) {
        sp_program_print(p.program, stderr, &err);
        fprintf(stderr, "does not hold: tensor %u: %s\n", result.tensor, outcome == RUN_WRONG ? result.reason : err.message);
        abort();
    }
    CHECK(runner_refuses_bad_ids(r, &p, c->state, &err));
    generated_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    start();
    if (size < 4) {
        return 0;
    }
    gen_options options = {.ops = 1 + data[0] % 6, .alignment = 32, .chains = data[0] & 128};
    options.weights = weight_pool(&options.n_weights);
    choices c = {.data = data, .size = size, .at = 2};
    for (size_t i = 0; i < size; i++) { /* when the input is used up, it is the seed of what follows */
        c.state = (c.state ^ data[i]) * UINT64_C(0x100000001b3);
    }
    if (data[1] & 1) {
        check_refusal(&c, &options);
    } else {
        check_run(&c, runners[data[1] >> 1 & 1], &options);
    }
    return 0;
}
