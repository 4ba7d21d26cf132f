/*
 * Which drafts the language-model guest evaluates: its sources, compiled for this machine, on an engine and a clock that are made up. A run takes
 * what the test says, and batches give the bytes of their tokens alone, or others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t now;
static uint64_t sp_clock(void) {
    return now;
}
#include "../../guest/llm/lookup.c"

#include "../../guest/llm/alone.c"
#include "../../guest/llm/draft.c"

enum { LENGTH = 2000, PROMPT = 40, ROW = 5, TOKEN_NS = 1000000 };

/* The engine. */
static struct {
    double each;         /* time of a token more in a batch, in that of a token alone */
    uint32_t other_from; /* batches of so many tokens give other bytes */
    float output[64][ROW];
    uint32_t cells[LENGTH];
    uint32_t n, n_past; /* submitted */
} fake;

static void complete(void) {
    const uint32_t n = fake.n, n_past = fake.n_past;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t position = n_past + i, bytes = position * 2654435761u + (n >= fake.other_from);
        fake.cells[position] = bytes;
        for (int f = 0; f < ROW; f++) {
            fake.output[i][f] = (float)(bytes % 1000 + (uint32_t)f);
        }
    }
    now += (uint64_t)(TOKEN_NS * (1 + fake.each * (n - 1)));
}
const char *engine_submit_alone(const int32_t *tokens, uint32_t n, uint32_t n_past) {
    (void)tokens;
    fake.n = n;
    fake.n_past = n_past;
    return NULL;
}
float *engine_output(uint32_t i) {
    return fake.output[i];
}
uint32_t engine_row(void) {
    return ROW;
}
uint32_t engine_n_ctx(void) {
    return LENGTH;
}
uint32_t engine_keep(uint32_t n_past, uint32_t wanted) {
    (void)n_past;
    return wanted;
}
uint32_t engine_block(uint32_t position) {
    return position / 256;
}
uint32_t engine_block_left(uint32_t position) {
    return 256 - position % 256;
}
uint32_t engine_cell_bytes(void) {
    return sizeof *fake.cells;
}
bool engine_cells(int use, uint32_t from, uint32_t n, uint8_t *cells) {
    uint8_t *at = (uint8_t *)(fake.cells + from);
    if (use == CELLS_WRITE) {
        memcpy(at, cells, n * sizeof *fake.cells);
        return true;
    }
    if (use == CELLS_COMPARE) {
        return memcmp(at, cells, n * sizeof *fake.cells) == 0;
    }
    memcpy(cells, at, n * sizeof *fake.cells);
    return true;
}

/* Says the text, a prompt first, as the guest does; the time that it took in that of its tokens alone. */
static double say(const int32_t *text, uint32_t *largest) {
    int32_t next[1 + MAX_DRAFT];
    uint32_t n_past = PROMPT, match = 0, n_draft = 0;
    const uint64_t start = now;
    *largest = 0;
    alone_restart();
    while (n_past < LENGTH - MAX_DRAFT) {
        next[0] = text[n_past];
        const uint32_t left = engine_block_left(n_past) - 1;
        match = lookup_draft(text, n_past, next[0], MAX_DRAFT, next + 1);
        const draft_plan plan = match ? draft_choose(n_past, left < MAX_DRAFT ? left : MAX_DRAFT, MAX_DRAFT, match) : (draft_plan){.size = -1};
        draft_begin();
        if (plan.compare && alone_compare(plan.size, text, n_past)) {
            draft_submitted(alone_sizes[plan.size], true);
            complete();
            draft_done();
            assert_true(alone_compared());
            continue;
        }
        n_draft = plan.size >= 0 && !plan.compare ? alone_sizes[plan.size] - 1 : 0;
        *largest = n_draft + 1 > *largest ? n_draft + 1 : *largest;
        engine_submit_alone(next, 1 + n_draft, n_past);
        draft_submitted(1 + n_draft, false);
        complete();
        draft_done();
        assert_false(alone_compared());
        for (uint32_t i = 0; i <= n_draft; i++) {
            const int32_t token = text[n_past + 1];
            alone_note(n_past++, engine_output(i));
            if (match) {
                draft_came(match, token == next[i + 1]);
            }
            if (token != next[i + 1]) {
                break;
            }
        }
    }
    return (double)(now - start) / ((double)TOKEN_NS * (n_past - PROMPT));
}

static void begin(double each, uint32_t other_from) {
    memset(&fake, 0, sizeof fake);
    memset(&draft, 0, sizeof draft);
    fake.each = each;
    fake.other_from = other_from;
    alone_forget();
}

/* period: the text repeats after so many tokens; 0: it never does, but for short pieces. */
static const int32_t *text_of(uint32_t period) {
    static int32_t text[LENGTH + 1];
    uint32_t chance = 5;
    for (uint32_t i = 0; i <= LENGTH; i++) {
        chance = chance * 1664525 + 1013904223;
        text[i] = period && i >= period ? text[i - period] : (int32_t)(chance >> 16) % (period ? 1000 : 12);
    }
    return text;
}

/* Every cell holds what its token alone leaves there. */
static void check_cells(void) {
    for (uint32_t i = PROMPT; i < LENGTH - MAX_DRAFT; i++) {
        assert_int_equal(fake.cells[i], i * 2654435761u);
    }
}

static void test_repetition(void **state) {
    (void)state;
    uint32_t largest;
    begin(0.1, UINT32_MAX);
    const double took = say(text_of(30), &largest);
    print_message("a text that repeats itself: %.2f of the time\n", took);
    assert_true(took < 0.4);
    assert_true(largest >= 16);
    check_cells();
}

/* Where there is nothing to gain, nothing is lost. */
static void test_no_gain(void **state) {
    (void)state;
    uint32_t largest;
    begin(0.1, UINT32_MAX);
    assert_true(say(text_of(0), &largest) < 1.05);
    begin(1.1, UINT32_MAX); /* a batch takes longer than its tokens one by one */
    const double dear = say(text_of(30), &largest);
    print_message("batches that take longer than their tokens alone: %.2f of the time\n", dear);
    assert_true(dear < 1.2);
}

static void test_other_bytes(void **state) {
    (void)state;
    uint32_t largest;
    begin(0.1, 2);
    assert_true(say(text_of(30), &largest) < 1.05);
    assert_int_equal(largest, 1); /* no draft was evaluated */
    check_cells();
    begin(0.1, 8);
    assert_true(say(text_of(30), &largest) < 0.5);
    assert_int_equal(largest, 7);
    check_cells();
}

/* What was found out on one device says nothing of another, to which the actor was moved in the middle of a comparison. */
static void test_moved(void **state) {
    (void)state;
    uint32_t largest;
    begin(0.1, UINT32_MAX);
    const int32_t *text = text_of(30);
    for (uint32_t i = 100; i < 120; i++) {
        fake.n = 1;
        fake.n_past = i;
        complete();
        alone_note(i, engine_output(0));
    }
    assert_true(alone_can_compare(2, 120));
    assert_false(alone_can_compare(3, 120)); /* more tokens than are known */
    assert_true(alone_compare(2, text, 120));
    complete();
    alone_forget();
    assert_true(alone_compared());
    assert_false(alone_is_same(2, 120));
    assert_false(alone_can_compare(2, 120));
    fake.other_from = 2;
    assert_true(say(text, &largest) < 1.05);
    assert_int_equal(largest, 1);
}

static void test_blocks(void **state) {
    (void)state;
    begin(0.1, UINT32_MAX);
    const int32_t *text = text_of(30);
    for (uint32_t i = 230; i < 300; i++) {
        fake.n = 1;
        fake.n_past = i;
        complete();
        alone_note(i, engine_output(0));
        if (i + 1 == 250) {
            assert_true(alone_compare(0, text, 250));
            complete();
            assert_true(alone_compared());
        }
    }
    assert_true(alone_is_same(0, 253));
    assert_false(alone_is_same(0, 254)); /* its last token would look at more cells than its first alone */
    assert_false(alone_is_same(0, 256)); /* other cells, other sums */
    assert_false(alone_is_same(1, 240));
    assert_true(alone_can_compare(3, 300));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_repetition), cmocka_unit_test(test_no_gain), cmocka_unit_test(test_other_bytes),
                                       cmocka_unit_test(test_moved), cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
