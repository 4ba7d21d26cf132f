/*
 * Every allocation and every system call of the project's own code fails once, at each position of six runs: opening a host and loading a module;
 * opening a model and tracing it; generating, on a device that shares pages and on one with memory of its own; freezing, thawing, forking, exporting;
 * and what files of sessions do with each other. Each time the run must end with an error that says what
 * is wrong, or come to the same result without it (a cache that can't be written); then, in the same process, the same run must succeed and give the
 * same bytes, and the session's file must have every commit that was acknowledged.
 *
 * The runs are done by child processes, which share the positions, so that a crash costs one position. In the environment: FAULTS_EVERY=N tries each
 * Nth position alone (`make faults` tries all); FAULTS_JOBS=N says how many processes (default: one for each core).
 */
#include "faults/faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "folders.h"
#include "samepage.h"
#include "samepage/llm.h"
#include "snapshot/log.h"

/* What a run came to. */
typedef struct outcome {
    sp_status status;
    sp_error err;
    uint8_t bytes[4096]; /* what it generated */
    size_t size;
    uint64_t acknowledged; /* commits */
} outcome;

typedef struct bytes {
    void *data;
    size_t size;
} bytes;

/* What outlives the runs. */
static struct {
    char folder[64];
    bytes llm, counter, pocket;
    sp_host *host;
    sp_device *device, *discrete;
    sp_model *model;
    sp_module *module;
} with;

static bytes read_file(const char *variable, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder_of(variable), name);
    bytes b = {0};
    FILE *file = fopen(path, "rb");
    if (file) {
        b.data = malloc(8 << 20);
        b.size = fread(b.data, 1, 8 << 20, file);
        fclose(file);
    }
    return b;
}

/* ---- the runs; each releases all that it made, whatever happens ---- */

static void hear(void *user, const void *data, size_t size) {
    outcome *o = user;
    const uint32_t *kind = data;
    if (*kind == SP_LLM_TOKEN && o->size + sizeof(int32_t) <= sizeof o->bytes) {
        memcpy(o->bytes + o->size, &((const sp_llm_token *)data)->token, sizeof(int32_t));
        o->size += sizeof(int32_t);
    } else if (*kind == SP_LLM_ERROR) {
        o->status = SP_ERR_GUEST;
        snprintf(o->err.message, sizeof o->err.message, "%.*s", (int)(size - sizeof(sp_llm_text)), (const char *)data + sizeof(sp_llm_text));
    }
}

#define STEP(o, call)                                                                                                                                \
    do {                                                                                                                                             \
        if ((o)->status == SP_OK) {                                                                                                                  \
            (o)->status = (call);                                                                                                                    \
        }                                                                                                                                            \
    } while (0)

static void ask(outcome *o, sp_actor *actor, const void *data, size_t size) {
    sp_step_result result;
    STEP(o, sp_actor_send(actor, data, size, &o->err));
    sp_status said = o->status;
    if (said == SP_OK) {
        said = sp_actor_run(actor, &result, &o->err);
    }
    o->status = o->status == SP_OK ? said : o->status; /* what the guest complained of comes first */
}

static void configure(outcome *o, sp_actor *actor) {
    sp_llm_config config = {.kind = SP_LLM_CONFIG, .n_ctx = 64, .max_tokens = 3, .type_k = 1, .type_v = 1, .top_p = 1, .repeat_penalty = 1};
    ask(o, actor, &config, sizeof config);
}

static void generate(outcome *o, sp_actor *actor, const char *text) {
    uint8_t message[sizeof(sp_llm_text) + 32];
    sp_llm_text head = {.kind = SP_LLM_COMPLETE, .length = (uint32_t)strlen(text)};
    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, text, head.length);
    ask(o, actor, message, sizeof head + head.length);
}

static sp_actor_options options_of(outcome *o, sp_model **model) {
    return (sp_actor_options){.device = with.device, .models = model, .n_models = 1, .seed = 7, .on_message = hear, .on_message_user = o};
}

static void run_host(outcome *o) {
    char cache[100], file[300];
    snprintf(cache, sizeof cache, "%s/fresh", with.folder);
    snprintf(file, sizeof file, "rm -rf %s", cache);
    if (system(file) != 0) {
        o->status = SP_ERR_IO;
    }
    setenv("XDG_CACHE_HOME", cache, 1);
    sp_host_options options = {.cache_dir = cache};
    for (int i = 0; i < 3; i++) { /* compiled; then from the cache; then in the folder that is taken where none is named */
        sp_host *host = NULL;
        sp_module *module = NULL;
        sp_actor *actor = NULL;
        sp_step_result result;
        STEP(o, sp_host_open(i < 2 ? &options : NULL, &host, &o->err));
        STEP(o, sp_module_load(host, with.counter.data, with.counter.size, &module, &o->err));
        sp_actor_options spawn = {.device = with.device, .seed = 7, .inherit_stdout = true};
        STEP(o, sp_actor_spawn(host, module, &spawn, &actor, &o->err));
        STEP(o, sp_actor_send(actor, "x", 1, &o->err));
        STEP(o, sp_actor_run(actor, &result, &o->err));
        sp_actor_close(actor);
        sp_module_close(module);
        sp_host_close(host);
    }
}

static void run_model(outcome *o) {
    sp_model *model = NULL;
    sp_actor *actor = NULL;
    STEP(o, sp_model_open_bytes(with.host, with.pocket.data, with.pocket.size, NULL, &model, &o->err));
    sp_actor_options options = options_of(o, &model);
    STEP(o, sp_actor_spawn(with.host, with.module, &options, &actor, &o->err));
    if (o->status == SP_OK) {
        configure(o, actor);
    }
    sp_actor_close(actor);
    sp_model_close(model);
}

static void generate_on(outcome *o, sp_device *device) {
    sp_actor *actor = NULL;
    sp_actor_options options = options_of(o, &with.model);
    options.device = device;
    STEP(o, sp_actor_spawn(with.host, with.module, &options, &actor, &o->err));
    if (o->status == SP_OK) {
        configure(o, actor);
        generate(o, actor, "Once upon a time");
    }
    sp_actor_close(actor);
}

static void run_generate(outcome *o) {
    generate_on(o, with.device);
}

static void run_discrete(outcome *o) {
    generate_on(o, with.discrete);
}

static void freeze(outcome *o, sp_actor *actor, sp_session *session) {
    sp_freeze_options named = {.name = "turn", .note = "note", .note_bytes = 4};
    STEP(o, sp_actor_freeze(actor, session, &named, NULL, &o->err));
    o->acknowledged += o->status == SP_OK;
}

static void paths(char path[6][100]) {
    static const char *const names[] = {"a.session", "b.session", "c.session", "a.export", "d.session", "."};
    for (int i = 0; i < 6; i++) {
        snprintf(path[i], 100, "%s/store/%s", with.folder, names[i]);
    }
}

static void run_sessions(outcome *o) {
    char path[6][100], command[300];
    paths(path);
    snprintf(command, sizeof command, "rm -rf %s/store && mkdir -m 700 %s/store", with.folder, with.folder);
    if (system(command) != 0) {
        o->status = SP_ERR_IO;
    }
    sp_actor *actor = NULL, *child = NULL, *thawed = NULL;
    sp_session *session = NULL;
    sp_actor_options options = options_of(o, &with.model);
    STEP(o, sp_actor_spawn(with.host, with.module, &options, &actor, &o->err));
    if (o->status == SP_OK) {
        configure(o, actor);
        generate(o, actor, "One");
    }
    STEP(o, sp_session_create(path[0], with.module, &with.model, 1, &session, &o->err));
    freeze(o, actor, session);
    if (o->status == SP_OK) {
        generate(o, actor, " two");
    }
    freeze(o, actor, session);
    sp_session_close(session); /* what can't be read when it is opened again must not be taken for the end, and written over */
    session = NULL;
    STEP(o, sp_session_open(path[0], false, &session, &o->err));
    freeze(o, actor, session);
    STEP(o, sp_actor_fork(actor, &options, &child, &o->err));
    STEP(o, sp_actor_thaw(with.host, with.module, &options, session, 1, &thawed, &o->err));
    if (o->status == SP_OK) {
        generate(o, child, " three");
        generate(o, thawed, " two");
    }
    STEP(o, sp_session_fork(session, 1, path[1], &o->err));
    const sp_export_options small = {.compression = 1};
    STEP(o, sp_session_export(session, path[3], &small, &o->err));
    STEP(o, sp_session_import(path[3], path[4], NULL, NULL, NULL, &o->err));
    STEP(o, sp_session_verify(session, &o->err));
    STEP(o, sp_session_compact(session, &o->err));
    STEP(o, sp_session_remove(path[4], &o->err));
    sp_actor_close(thawed);
    sp_actor_close(child);
    sp_actor_close(actor);
    sp_session_close(session);
}

static void commit(outcome *o, sp_session *session, uint64_t parent, uint8_t byte, const char *name) {
    static uint8_t memory[100 * 4096];
    for (uint32_t i = 0, x = 1; i < sizeof memory; i++, x = x * 1664525 + 1013904223) { /* what does not compress */
        memory[i] = (uint8_t)(x >> 24);
    }
    memory[5] = byte;
    const sp_log_commit_input input = {.parent = parent,
                                       .base = memory,
                                       .size = sizeof memory,
                                       .side = memory,
                                       .side_size = 4096,
                                       .meta = &byte,
                                       .meta_size = 1,
                                       .name = name,
                                       .note = "n",
                                       .note_size = 1};
    STEP(o, sp_log_commit(session, &input, NULL, &o->err));
}

/* It is locked: so it must be refused. */
static void open_locked(outcome *o, const char *path) {
    sp_session *second = NULL;
    if (o->status == SP_OK) {
        const sp_status status = sp_session_open(path, false, &second, &o->err);
        o->status = status == SP_ERR_BUSY ? SP_OK : status ? status : SP_ERR_STATE;
    }
    sp_session_close(second);
}

static void progress_(void *user, const char *what, double part) {
    (void)user, (void)what, (void)part;
}

static void run_store(outcome *o) {
    static const sp_log_identity identity = {.n_models = 1};
    static const sp_export_options secret = {.compression = 1, .passphrase = "open sesame"}, plain = {.number = 1};
    char path[6][100], command[300], elsewhere[120];
    paths(path);
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", with.folder);
    snprintf(command, sizeof command, "rm -rf %s/store %s && mkdir -m 700 %s/store", with.folder, elsewhere, with.folder);
    if (system(command) != 0) {
        o->status = SP_ERR_IO;
    }
    char left[130]; /* by a process that never was, since no system has as many: the first to come clears it away */
    snprintf(left, sizeof left, "%s/store/a.session.new-4194305", with.folder);
    FILE *file = fopen(left, "w");
    if (file) {
        fclose(file);
    }
    sp_session *session = NULL, *made = NULL;
    sp_session_info info;
    sp_memory *memory = NULL;
    STEP(o, sp_log_create(path[0], &identity, &session, &o->err));
    for (uint8_t i = 0; i < 3; i++) {
        commit(o, session, i, i, i ? "" : "first");
        o->acknowledged += o->status == SP_OK;
    }
    STEP(o, sp_session_set_name(session, 2, "second", &o->err));
    STEP(o, sp_session_set_head(session, 2, &o->err));
    open_locked(o, path[0]);
    STEP(o, sp_session_fork(session, 0, path[1], &o->err));   /* shares pages */
    STEP(o, sp_session_fork(session, 1, elsewhere, &o->err)); /* copies them */
    sp_session_close(session);
    session = NULL;
    STEP(o, sp_session_open(path[0], true, &session, &o->err));
    STEP(o, sp_session_open(path[1], false, &made, &o->err));
    commit(o, made, 1, 9, "forked");
    if (o->status == SP_OK) {
        sp_session_set_progress(made, progress_, NULL);
        sp_session_get_info(made, &info);
    }
    STEP(o, sp_session_verify(made, &o->err));
    STEP(o, sp_memory_create(100 * 4096, 200 * 4096, 65536, &memory, &o->err));
    STEP(o, sp_log_map(made, 2, memory, 100 * 4096, &o->err));
    STEP(o, sp_session_compact(made, &o->err));
    STEP(o, sp_session_export(made, path[3], &secret, &o->err));
    STEP(o, sp_session_import(path[3], path[4], "open sesame", progress_, NULL, &o->err));
    STEP(o, sp_session_remove(path[4], &o->err));
    STEP(o, sp_session_export(session, path[2], &plain, &o->err));
    STEP(o, sp_session_import(path[2], path[4], NULL, NULL, NULL, &o->err));
    sp_memory_destroy(memory);
    sp_session_close(made);
    sp_session_close(session);
}

/* After a fault: every commit that was acknowledged is there and whole, or, after a compaction, the head and what it was named. */
static bool sessions_whole(const outcome *o, char *why, size_t capacity) {
    char path[6][100];
    paths(path);
    sp_session *session = NULL;
    sp_error err = {0};
    if (o->acknowledged == 0) {
        return true;
    }
    sp_status status = sp_session_open(path[0], false, &session, &err);
    uint64_t count = status == SP_OK ? sp_session_count(session) : 0;
    status = status == SP_OK ? sp_session_verify(session, &err) : status;
    sp_session_close(session);
    /* "turn" passes from commit to commit; a compaction keeps the last. */
    bool enough = count >= o->acknowledged || count == 1;
    snprintf(why, capacity, "%llu of %llu commits: %s", (unsigned long long)count, (unsigned long long)o->acknowledged, err.message);
    return status == SP_OK && enough;
}

static const struct run {
    const char *name;
    void (*go)(outcome *o);
    bool sessions;
} runs[] = {{"host and module", run_host, false},       {"model", run_model, false},
            {"generate", run_generate, false},          {"on discrete", run_discrete, false},
            {"freeze, thaw, fork", run_sessions, true}, {"sessions' files", run_store, true}};
enum { N_RUNS = sizeof runs / sizeof runs[0], N_KINDS = 3 };
static const char *const kinds[N_KINDS] = {"once", "from then on", "in part"};

/* ---- a child: tries its share of the positions and notes how it went ---- */

typedef struct progress {
    pid_t child;
    uint64_t first, step; /* it tries positions first, first + step, ... of each run and kind */
    int run, kind;
    uint64_t position; /* the one under way */
    uint64_t calls[N_RUNS], tried[N_RUNS][N_KINDS], errors[N_RUNS][N_KINDS], wrong;
    bool finished;
} progress;

static bool open_all(void) {
    sp_error err = {0};
    char cache[100];
    snprintf(cache, sizeof cache, "%s/cache", with.folder);
    sp_host_options options = {.cache_dir = cache};
    with.llm = read_file("BUILD_DIR", "guest/llm.wasm");
    with.counter = read_file("BUILD_DIR", "guest/counter.wasm");
    with.pocket = read_file("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    sp_status status = sp_host_open(&options, &with.host, &err);
    status = status ? status : sp_device_open("cpu", 1, &with.device, &err);
    status = status ? status : sp_device_open("discrete", 1, &with.discrete, &err);
    status = status ? status : sp_model_open_bytes(with.host, with.pocket.data, with.pocket.size, NULL, &with.model, &err);
    status = status ? status : sp_module_load(with.host, with.llm.data, with.llm.size, &with.module, &err);
    if (status != SP_OK) {
        fprintf(stderr, "%s\n", err.message);
    }
    return status == SP_OK;
}

static void close_all(void) {
    sp_module_close(with.module);
    sp_model_close(with.model);
    sp_device_close(with.discrete);
    sp_device_close(with.device);
    sp_host_close(with.host);
    free(with.llm.data);
    free(with.counter.data);
    free(with.pocket.data);
}

static bool equal(const outcome *a, const outcome *b) {
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

static bool check(const struct run *run, const outcome *clean, const outcome *o, char *why, size_t capacity) {
    if (o->status == SP_OK && !equal(o, clean)) {
        snprintf(why, capacity, "no error, and another result");
        return false;
    }
    if (o->status != SP_OK && !o->err.message[0]) {
        snprintf(why, capacity, "an error without a word");
        return false;
    }
    if (run->sessions && !sessions_whole(o, why, capacity)) {
        return false;
    }
    outcome again = {0};
    run->go(&again);
    if (again.status != SP_OK || !equal(&again, clean)) {
        snprintf(why, capacity, "the next run, without a fault, fails or differs: %s", again.err.message);
        return false;
    }
    return true;
}

static void try_position(const struct run *run, const outcome *clean, progress *p) {
    static outcome o;
    o = (outcome){0};
    faults_arm(p->position, (fault_kind)p->kind);
    run->go(&o);
    faults_disarm();
    char why[700] = "", failed[32];
    snprintf(failed, sizeof failed, "%s", faults_failed() ? faults_failed() : "nothing");
    if (!check(run, clean, &o, why, sizeof why)) {
        fprintf(stderr, "NOT clean: %s, call %llu (%s) fails %s: %s [%s]\n", run->name, (unsigned long long)p->position, failed, kinds[p->kind], why,
                o.err.message);
        p->wrong++;
    }
    p->tried[p->run][p->kind]++;
    p->errors[p->run][p->kind] += o.status != SP_OK;
}

static int work(progress *p) {
    if (!open_all()) {
        return 1;
    }
    for (; p->run < N_RUNS; p->run++, p->kind = 0) {
        const struct run *run = &runs[p->run];
        static outcome clean;
        clean = (outcome){0};
        run->go(&clean); /* once to fill caches */
        for (; p->kind < N_KINDS; p->kind++, p->position = 0) {
            clean = (outcome){0};
            faults_arm(0, FAULT_FAIL);
            run->go(&clean);
            p->calls[p->run] = faults_disarm();
            if (clean.status != SP_OK) {
                fprintf(stderr, "%s, without a fault: %s\n", run->name, clean.err.message);
                return 1;
            }
            for (p->position = p->position ? p->position : p->first; p->position <= p->calls[p->run]; p->position += p->step) {
                try_position(run, &clean, p);
            }
        }
    }
    close_all();
    p->finished = true;
    return 0;
}

/* ---- the parent ---- */

static void start(progress *p) {
    fflush(NULL);
    const pid_t child = fork(); /* *p is shared with it */
    if (child == 0) {
        char folder[sizeof with.folder];
        snprintf(folder, sizeof folder, "%s", with.folder);
        snprintf(with.folder, sizeof with.folder, "%.40s/%llu", folder, (unsigned long long)p->first);
        mkdir(with.folder, 0700);
        exit(work(p)); /* by way of what is done at an end: LeakSanitizer looks for what was left behind, profiles are written */
    }
    p->child = child;
}

/* Until every child has finished; one that crashes goes on behind the position where it did. How many crashes and bad ends there were. */
static uint64_t run_all(progress *all, unsigned jobs) {
    uint64_t crashes = 0;
    int status = 0;
    for (unsigned i = 0; i < jobs; i++) {
        start(&all[i]);
    }
    for (pid_t pid; (pid = wait(&status)) > 0;) {
        progress *p = all;
        while (p->child != pid) {
            p++;
        }
        if (!WIFSIGNALED(status)) {
            if (WEXITSTATUS(status) != 0) {
                fprintf(stderr, "NOT clean: a process of the test ended with %d: see above\n", WEXITSTATUS(status));
                crashes++;
            }
            continue;
        }
        fprintf(stderr, "CRASH: %s, call %llu, %s: signal %d\n", runs[p->run].name, (unsigned long long)p->position, kinds[p->kind],
                WTERMSIG(status));
        p->position += p->step;
        if (++crashes < 50) {
            start(p);
        }
    }
    return crashes;
}

static unsigned number_from(const char *variable, long otherwise) {
    const char *text = getenv(variable);
    const unsigned long wanted = text ? strtoul(text, NULL, 10) : (unsigned long)otherwise;
    return wanted < 1 ? 1 : wanted > 256 ? 256 : (unsigned)wanted;
}

/* Prints what all came to. True if all is clean. */
static bool report(const progress *all, unsigned jobs, uint64_t crashes) {
    uint64_t tried = 0, wrong = 0;
    bool finished = true;
    for (int r = 0; r < N_RUNS; r++) {
        for (int k = 0; k < N_KINDS; k++) {
            uint64_t positions = 0, errors = 0;
            for (unsigned i = 0; i < jobs; i++) {
                positions += all[i].tried[r][k];
                errors += all[i].errors[r][k];
            }
            printf("%-20s calls fail %-12s: %5llu of %5llu positions, %5llu errors, the others came to the same result without it\n", runs[r].name,
                   kinds[k], (unsigned long long)positions, (unsigned long long)all[0].calls[r], (unsigned long long)errors);
            tried += positions;
        }
    }
    for (unsigned i = 0; i < jobs; i++) {
        wrong += all[i].wrong;
        finished &= all[i].finished;
    }
    printf("%llu positions tried, %llu crashes, %llu not clean%s\n", (unsigned long long)tried, (unsigned long long)crashes,
           (unsigned long long)wrong, finished ? "" : "; NOT finished");
    return finished && !crashes && !wrong;
}

int main(void) {
    const unsigned every = number_from("FAULTS_EVERY", 37), jobs = number_from("FAULTS_JOBS", sysconf(_SC_NPROCESSORS_ONLN));
    progress *all = mmap(NULL, jobs * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(with.folder, sizeof with.folder, "/tmp/samepage-faults-XXXXXX");
    if (all == MAP_FAILED || !mkdtemp(with.folder)) {
        return 1;
    }
    for (unsigned i = 0; i < jobs; i++) {
        all[i] = (progress){.first = 1 + (uint64_t)i * every, .step = (uint64_t)jobs * every};
    }
    const uint64_t crashes = run_all(all, jobs);
    const bool clean = report(all, jobs, crashes);
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", with.folder);
    return system(command) != 0 || !clean;
}
