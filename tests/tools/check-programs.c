/*
 * Generates programs, runs those that are accepted on devices, and compares every result with the evaluator; refused ones must be refused with the
 * reason of the rule that was broken.
 *   check-programs [--count N] [--seed S] [--device NAME]... [--threads N] [--op NAME] [--broken N] [--json] [--save FOLDER] [--batch N]
 * N programs are run and compared on each device (default: 1,000 on cpu and discrete), and as many with a broken rule are checked. Exit code 1, with
 * the seed that shows it again, if anything is wrong. --seed S --count 1 repeats one.
 * --batch N has each N programs run in a process of its own.
 */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "oracle/run.h"

enum { MAX_DEVICES = 4, MAX_OPS = 256 };

typedef struct totals {
    uint64_t next_seed, compared, operations, unsupported, wild, bad_ids, empty, hidden;
    uint64_t elements, undefined, with_undefined;
    uint64_t by_op[MAX_OPS];
    double worst_by_op[MAX_OPS];
} totals;

typedef struct settings {
    uint64_t count, broken, seed, batch;
    const char *devices[MAX_DEVICES];
    int n_devices, threads;
    uint16_t only_op;
    bool json, keep_going;
    const char *save;
} settings;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print_program(const generated *p) {
    sp_error err;
    sp_program_print(p->program, stderr, &err);
    for (uint32_t i = 0; i < p->spec->n_symbols; i++) {
        fprintf(stderr, "  symbol %u = %llu\n", i, (unsigned long long)p->symbols[i]);
    }
}

static void count_ops(totals *sum, const generated *p, const eval_result *result) {
    for (uint32_t i = 0; i < p->spec->n_tensors; i++) {
        const uint16_t op = p->spec->tensors[i].op;
        if (op && op < MAX_OPS) {
            sum->by_op[op]++;
            sum->operations++;
        }
    }
    sum->hidden += p->n_hidden;
    sum->elements += result->elements;
    sum->undefined += result->undefined;
    sum->with_undefined += result->undefined > 0;
    sum->worst_by_op[result->worst_op] = fmax(sum->worst_by_op[result->worst_op], result->worst);
}

/* The bytes, and those behind them that the target of the fuzzer takes for values of symbols. */
static void save_program(const generated *p, const char *folder, uint64_t seed) {
    char path[4096];
    static const uint8_t values[32];
    snprintf(path, sizeof path, "%s/program-%llu", folder, (unsigned long long)seed);
    FILE *file = fopen(path, "wb");
    const sp_program_header *header = sp_program_get_header(p->program);
    if (!file || fwrite(header, header->size, 1, file) != 1 || fwrite(values, sizeof values, 1, file) != 1 || fclose(file) != 0) {
        fprintf(stderr, "check-programs: can't write %s\n", path);
        exit(1);
    }
}

/* One program with seed `seed` on one device. False, said on standard error, if it is not right. */
static bool check_one(runner *r, const settings *s, const char *device, gen_options options, uint64_t seed, totals *sum) {
    choices c = {.state = seed};
    generated p;
    options.chains = seed % 2;
    if (!generate(&c, &options, &p)) {
        sum->empty++;
        return true;
    }
    const run_options run = {.seed = seed, .wild = chance(&c, 8)};
    eval_result result;
    sp_error err = {0};
    const run_outcome outcome = runner_run(r, &p, &run, &result, &err);
    bool right = outcome == RUN_EQUAL || outcome == RUN_UNSUPPORTED;
    if (outcome == RUN_EQUAL) {
        sum->compared++;
        sum->wild += run.wild;
        count_ops(sum, &p, &result);
        if (s->save) {
            save_program(&p, s->save, seed);
        }
        if (p.spec->n_indices && chance(&c, 4)) {
            sum->bad_ids++;
            right = runner_refuses_bad_ids(r, &p, seed, &err);
            if (!right) {
                fprintf(stderr, "%s: seed %llu: a row id out of range was not refused\n", device, (unsigned long long)seed);
            }
        }
    }
    sum->unsupported += outcome == RUN_UNSUPPORTED;
    if (!right) {
        fprintf(stderr, "%s: seed %llu: %s: tensor %u, %s: %s\n", device, (unsigned long long)seed, outcome == RUN_FAILED ? "did not run" : "wrong",
                result.tensor, result.op ? sp_op_name(result.op) : "", outcome == RUN_FAILED ? err.message : result.reason);
        print_program(&p);
    }
    generated_free(&p);
    return right;
}

static bool check_broken(const gen_options *options, uint64_t seed, uint64_t *count) {
    choices c = {.state = ~seed};
    generated p;
    if (!generate_broken(&c, options, &p)) {
        return true;
    }
    sp_error err = {0};
    const bool accepted = gen_check(&p, &err), right = !accepted && strstr(err.message, p.words);
    (*count)++;
    if (!right) {
        fprintf(stderr, "seed %llu: %s of %s broken: %s \"%s\"; should say \"%s\"\n", (unsigned long long)seed, p.broken, sp_op_name(p.last_op),
                accepted ? "accepted" : "refused with", accepted ? "" : err.message, p.words);
        if (accepted) {
            print_program(&p);
        }
    }
    generated_free(&p);
    return right;
}

static void report(const settings *s, const char *device, const totals *sum, double took) {
    uint16_t covered = 0, all = 0, worst = 0;
    for (uint16_t op = 1; sp_rule_get(op); op++) {
        all++;
        covered += sum->by_op[op] > 0;
        worst = sum->worst_by_op[op] > sum->worst_by_op[worst] ? op : worst;
    }
    if (s->json) {
        printf("{\"device\": \"%s\", \"programs\": %llu, \"operations\": %llu, \"unsupported\": %llu, \"wild\": %llu, \"hidden\": %llu, "
               "\"bad_ids_refused\": %llu, "
               "\"elements\": %llu, \"undefined_elements\": %llu, \"programs_with_undefined_elements\": %llu, \"kinds_of_operation\": %u, "
               "\"worst_share_of_tolerance\": %.3f, \"seconds\": %.1f}\n",
               device, (unsigned long long)sum->compared, (unsigned long long)sum->operations, (unsigned long long)sum->unsupported,
               (unsigned long long)sum->wild, (unsigned long long)sum->hidden, (unsigned long long)sum->bad_ids, (unsigned long long)sum->elements,
               (unsigned long long)sum->undefined, (unsigned long long)sum->with_undefined, covered, sum->worst_by_op[worst], took);
        return;
    }
    printf("%s: %llu programs of %llu operations equal to the evaluator (%llu with wild data; %llu operations whose result only the next one sees), "
           "%llu not supported, %llu bad row ids refused; %u of %u "
           "kinds of operation; largest error %.0f%% of its tolerance (%s); %llu of %llu elements, in %llu programs, have no answer that is defined; "
           "%.1f "
           "s\n",
           device, (unsigned long long)sum->compared, (unsigned long long)sum->operations, (unsigned long long)sum->wild,
           (unsigned long long)sum->hidden, (unsigned long long)sum->unsupported, (unsigned long long)sum->bad_ids, covered, all,
           100 * sum->worst_by_op[worst], worst ? sp_op_name(worst) : "none", (unsigned long long)sum->undefined, (unsigned long long)sum->elements,
           (unsigned long long)sum->with_undefined, took);
}

/* Up to `count` programs more on one device, from seed sum->next_seed on. */
static bool run_some(const settings *s, const char *device, uint64_t count, totals *sum) {
    sp_error err = {0};
    runner *r = runner_open(device, s->threads, &err);
    if (!r) {
        fprintf(stderr, "check-programs: %s\n", err.message);
        exit(1);
    }
    gen_options options = {.ops = 6, .alignment = runner_alignment(r), .only_op = s->only_op};
    options.weights = weight_pool(&options.n_weights);
    bool right = true;
    const uint64_t until = sum->compared + count, last = sum->next_seed + 4 * count + 100;
    while ((right || s->keep_going) && sum->compared < until && sum->next_seed < last) {
        right &= check_one(r, s, device, options, sum->next_seed++, sum);
    }
    runner_close(r);
    return right;
}

/* The same in a process of its own, which may be ended by a fault of a driver's. */
static bool run_apart(const settings *s, const char *device, uint64_t count, totals *sum) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        exit(run_some(s, device, count, sum) ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "%s: seed %llu, or one before it in its process: ended by signal %d\n", device, (unsigned long long)sum->next_seed - 1,
                WTERMSIG(status));
    }
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool run_device(const settings *s, const char *device) {
    totals *sum = mmap(NULL, sizeof *sum, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sum == MAP_FAILED) {
        return false;
    }
    sum->next_seed = s->seed;
    const double start = seconds();
    bool right = true;
    for (uint64_t last = s->seed + 8 * s->count + 100; (right || s->keep_going) && sum->compared < s->count && sum->next_seed < last;) {
        const uint64_t left = s->count - sum->compared;
        right &= s->batch ? run_apart(s, device, left < s->batch ? left : s->batch, sum) : run_some(s, device, left, sum);
    }
    report(s, device, sum, seconds() - start);
    munmap(sum, sizeof *sum);
    return right;
}

static uint16_t op_by_name(const char *name) {
    for (uint16_t op = 1; sp_rule_get(op); op++) {
        if (strcmp(sp_op_name(op), name) == 0) {
            return op;
        }
    }
    fprintf(stderr, "check-programs: there is no operation %s\n", name);
    exit(2);
}

static settings read_settings(int argc, char **argv) {
    static const struct option names[] = {{"count", 1, NULL, 'n'},  {"seed", 1, NULL, 's'},    {"device", 1, NULL, 'd'}, {"op", 1, NULL, 'o'},
                                          {"broken", 1, NULL, 'b'}, {"threads", 1, NULL, 't'}, {"json", 0, NULL, 'j'},   {"keep-going", 0, NULL, 'k'},
                                          {"save", 1, NULL, 'S'},   {"batch", 1, NULL, 'B'},   {NULL, 0, NULL, 0}};
    settings s = {.count = 1000, .seed = 1, .broken = UINT64_MAX, .threads = 1};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (option) {
        case 'n':
            s.count = strtoull(optarg, NULL, 10);
            break;
        case 's':
            s.seed = strtoull(optarg, NULL, 10);
            break;
        case 'b':
            s.broken = strtoull(optarg, NULL, 10);
            break;
        case 'o':
            s.only_op = op_by_name(optarg);
            break;
        case 't':
            s.threads = atoi(optarg);
            break;
        case 'S':
            s.save = optarg;
            break;
        case 'B':
            s.batch = strtoull(optarg, NULL, 10);
            break;
        case 'j':
            s.json = true;
            break;
        case 'k':
            s.keep_going = true;
            break;
        case 'd':
            if (s.n_devices < MAX_DEVICES) {
                s.devices[s.n_devices++] = optarg;
            }
            break;
        default:
            exit(2);
        }
    }
    if (s.n_devices == 0) {
        s.devices[s.n_devices++] = "cpu";
        s.devices[s.n_devices++] = "discrete";
    }
    s.broken = s.broken == UINT64_MAX ? s.count : s.broken;
    return s;
}

int main(int argc, char **argv) {
    const settings s = read_settings(argc, argv);
    bool right = true;
    for (int i = 0; i < s.n_devices && (right || s.keep_going); i++) {
        right &= run_device(&s, s.devices[i]);
    }
    gen_options options = {.ops = 2, .alignment = 32, .only_op = s.only_op};
    options.weights = weight_pool(&options.n_weights);
    uint64_t refused = 0;
    for (uint64_t i = 0; (right || s.keep_going) && i < s.broken; i++) {
        right &= check_broken(&options, s.seed + i, &refused);
    }
    printf(s.json ? "{\"broken_programs_refused\": %llu}\n" : "%llu programs with a broken rule refused with its reason\n",
           (unsigned long long)refused);
    return right ? 0 : 1;
}
