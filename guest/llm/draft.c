/* See draft.h. */
#include "draft.h"

#include "alone.h"
#include "engine.h"
#include "lookup.h"
#include "samepage/abi.h"

static struct {
    double right[LOOKUP_LONGEST + 1]; /* by match: the share of drafted tokens that were right */
    uint32_t n_came[LOOKUP_LONGEST + 1];
    double took[ALONE_SIZES + 1]; /* nanoseconds of a batch of each size, and of a token alone; 0: not measured */
    double prepared;              /* nanoseconds that the first batch of a size and a block took to submit */
    uint64_t began, submitted;
    uint32_t n_tokens;
} draft;

enum { ALONE = ALONE_SIZES };

static double share(uint32_t match) {
    return draft.n_came[match] ? draft.right[match] : 0.5;
}

void draft_came(uint32_t match, bool right) {
    const double before = share(match);
    draft.n_came[match]++;
    draft.right[match] = before + ((right ? 0.995 : 0.001) - before) / (draft.n_came[match] < 15 ? draft.n_came[match] + 1 : 16);
}

void draft_begin(void) {
    draft.began = sp_clock();
}

void draft_submitted(uint32_t n_tokens, bool compares) {
    draft.submitted = sp_clock();
    draft.n_tokens = n_tokens;
    if (compares) {
        draft.prepared = (double)(draft.submitted - draft.began);
    }
}

void draft_done(void) {
    const double took = (double)(sp_clock() - draft.submitted);
    for (int i = 0; draft.n_tokens && i <= ALONE; i++) {
        if (draft.n_tokens == (i == ALONE ? 1 : alone_sizes[i])) {
            /* Something else on the machine may make it longer, and nothing makes it shorter. */
            draft.took[i] = draft.took[i] > 0 && took > draft.took[i] ? draft.took[i] + (took - draft.took[i]) / 8 : took;
        }
    }
    draft.n_tokens = 0;
}

/* A token more in a batch that was not measured takes half of what it takes in the largest that was, for larger ones have better kernels; or, at
 * first, a quarter of a token alone. */
static double guess_of(int size) {
    double more = draft.took[ALONE] / 4;
    for (int i = 0; i < ALONE_SIZES && i != size; i++) {
        more = draft.took[i] > 0 ? (draft.took[i] - draft.took[ALONE]) / (alone_sizes[i] - 1) / 2 : more;
    }
    return draft.took[ALONE] + (more > 0 ? more : 0) * (alone_sizes[size] - 1);
}

static double time_of(int size) {
    return draft.took[size] > 0 ? draft.took[size] : guess_of(size);
}

/* What was measured long ago is doubted. */
static void doubt(int used) {
    for (int i = 0; i < ALONE_SIZES; i++) {
        if (i != used && draft.took[i] > draft.took[ALONE] * 2) {
            draft.took[i] *= 0.9995;
        }
    }
}

/* Tokens that a batch brings on average: those of the draft that are right, as far as they are of use, and one more. */
static double expected(int size, double right, uint32_t wanted) {
    double sum = 1, all = 1;
    for (uint32_t i = 0; i < alone_sizes[size] - 1 && i < wanted; i++) {
        all *= right;
        sum += all;
    }
    return sum;
}

draft_plan draft_largest(uint32_t n_past, uint32_t most) {
    for (int i = ALONE_SIZES - 1; i >= 0; i--) {
        const bool same = alone_is_same(i, n_past);
        if (alone_sizes[i] - 1 <= most && (same || alone_can_compare(i, n_past))) {
            return (draft_plan){.size = i, .compare = !same};
        }
    }
    return (draft_plan){.size = -1};
}

draft_plan draft_choose(uint32_t n_past, uint32_t most, uint32_t wanted, uint32_t match) {
    draft_plan best = {.size = -1};
    const double right = share(match);
    double time = draft.took[ALONE] * 0.95; /* of a token, by the best way so far; a draft is to be worth the trouble */
    if (time <= 0) {
        return best;
    }
    for (int i = 0; i < ALONE_SIZES && alone_sizes[i] - 1 <= most; i++) {
        const double each = time_of(i) / expected(i, right, wanted);
        if (each < time && alone_is_same(i, n_past)) {
            time = each;
            best.size = i;
        }
    }
    /* Comparing costs a batch; it is worth it if that much is saved before the text turns to something else, or to other cells. */
    const double run = 1 / (1 - right), block = engine_block_left(n_past), left = run < block ? run : block;
    double most_saved = 0;
    draft_plan compare = {.size = -1, .compare = true};
    for (int i = 0; i < ALONE_SIZES && alone_sizes[i] - 1 <= most; i++) {
        const double saved = left * (time - time_of(i) / expected(i, right, wanted)) - 2 * (time_of(i) + draft.prepared); /* it is slower at first */
        if (saved > most_saved && !alone_is_same(i, n_past) && alone_can_compare(i, n_past)) {
            most_saved = saved;
            compare.size = i;
        }
    }
    best = compare.size >= 0 ? compare : best;
    doubt(best.size);
    return best;
}
