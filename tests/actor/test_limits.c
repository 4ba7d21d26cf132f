/* The table of limits: defaults, errors, and that samepage.h says the same. And fair turns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "abi/limits.h"
#include "device/turns.h"
#include "folders.h"

/* As people write it: 4 GiB, 1,048,576, 10^15. */
static void write_default(char *out, size_t capacity, const sp_limit *limit) {
    const char *name = limit->name;
    uint64_t v = limit->value;
    if (strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_bytes") == 0) {
        snprintf(out, capacity, "%llu %s", (unsigned long long)(v >= 1u << 30 ? v >> 30 : v >> 20), v >= 1u << 30 ? "GiB" : "MiB");
    } else if (v == 1000000000000000ull) {
        snprintf(out, capacity, "10^15");
    } else if (v >= 1000000) {
        snprintf(out, capacity, "%llu,%03llu,%03llu", (unsigned long long)(v / 1000000), (unsigned long long)(v / 1000 % 1000),
                 (unsigned long long)(v % 1000));
    } else if (v >= 1000) {
        snprintf(out, capacity, "%llu,%03llu", (unsigned long long)(v / 1000), (unsigned long long)(v % 1000));
    } else {
        snprintf(out, capacity, "%llu", (unsigned long long)v);
    }
}

static void test_documented(void **state) {
    (void)state;
    char path[4096];
    static char header[1 << 17];
    snprintf(path, sizeof path, "%s/include/samepage.h", folder_of("SOURCE_DIR"));
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    header[fread(header, 1, sizeof header - 1, file)] = 0;
    fclose(file);
    for (int i = 0; i < SP_N_LIMITS; i++) {
        const sp_limit *limit = sp_limit_get((sp_limit_id)i);
        char field[64], says[200], value[40];
        snprintf(field, sizeof field, "uint64_t %s; ", limit->name);
        write_default(value, sizeof value, limit);
        snprintf(says, sizeof says, "/* %s; default %s", limit->what, value);
        const char *at = strstr(header, field);
        if (!at) {
            fail_msg("samepage.h has no %s", field);
        }
        at += strlen(field);
        at += strspn(at, " ");
        if (strncmp(at, says, strlen(says)) != 0 || !strchr(";* ", at[strlen(says)])) {
            fail_msg("samepage.h says of %s not: %s", limit->name, says);
        }
    }
}

static void test_defaults(void **state) {
    (void)state;
    sp_limits limits = {.regions = 3};
    sp_limits_fill(&limits);
    assert_int_equal(limits.regions, 3);
    for (int i = 0; i < SP_N_LIMITS; i++) {
        assert_true(*sp_limit_field(&limits, (sp_limit_id)i) != 0);
    }
    sp_error err;
    assert_int_equal(sp_limit_reached(&limits, SP_LIMIT_regions, 4, &err), SP_ERR_LIMIT);
    assert_string_equal(err.message, "regions open at once: 4; the limit is 3 (--limit-regions)");
}

/* ---- turns ---- */

typedef struct taker {
    sp_turns *turns;
    sp_turn turn;
    pthread_t thread;
    int number, *order, *n;
} taker;

static void *take_turn(void *user) {
    taker *t = user;
    sp_turns_enter(t->turns, &t->turn);
    t->order[(*t->n)++] = t->number;
    sp_turns_leave(t->turns, &t->turn, 10);
    return NULL;
}

static size_t count_waiting(sp_turns *turns) {
    size_t n = 0;
    pthread_mutex_lock(&turns->lock);
    for (const sp_turn *t = turns->waiting; t; t = t->next) {
        n++;
    }
    pthread_mutex_unlock(&turns->lock);
    return n;
}

/* Who had more device time waits for those that had less; of equals, the first to come is the first to go. */
static void test_turns(void **state) {
    (void)state;
    sp_turns turns;
    sp_turns_init(&turns);
    sp_turn holder = {0};
    sp_turns_enter(&turns, &holder);
    taker takers[4] = {0};
    const uint64_t used[4] = {1000, 50, 0, 50};
    int order[4], n = 0;
    for (int i = 0; i < 4; i++) {
        takers[i] = (taker){.turns = &turns, .turn = {.used = used[i]}, .number = i, .order = order, .n = &n};
        assert_int_equal(pthread_create(&takers[i].thread, NULL, take_turn, &takers[i]), 0);
        while (count_waiting(&turns) != (size_t)i + 1) { /* the order of arrival is what is tested */
            usleep(100);
        }
    }
    sp_turns_leave(&turns, &holder, 5);
    for (int i = 0; i < 4; i++) {
        pthread_join(takers[i].thread, NULL);
    }
    const int fair[4] = {2, 1, 3, 0};
    assert_memory_equal(order, fair, sizeof fair);
    /* Having been away earns nothing: the newcomer starts level with the last one granted. */
    sp_turn newcomer = {0};
    sp_turns_enter(&turns, &newcomer);
    assert_int_equal(newcomer.used, 1000);
    sp_turns_leave(&turns, &newcomer, 1);
    sp_turns_destroy(&turns);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_documented), cmocka_unit_test(test_defaults), cmocka_unit_test(test_turns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
