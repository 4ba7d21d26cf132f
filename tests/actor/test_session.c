/* Sessions of a small guest: what is refused and how it is said, what shares pages, what damaged files and hostile bytes do. */
#include "actor_test.h"

#include <fcntl.h>

#include "abi/rewrite.h"

typedef struct world {
    sp_host *host;
    sp_device *device;
    sp_module *counter, *echo;
    char said[256];
} world;

static void hear(void *user, const void *bytes, size_t size) {
    world *w = user;
    snprintf(w->said, sizeof w->said, "%.*s", (int)size, (const char *)bytes);
}

static sp_module *load(sp_host *host, const char *name) {
    char *path = in_folder("BUILD_DIR", name);
    static uint8_t bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    free(path);
    sp_module *module;
    sp_error err = {0};
    ok(sp_module_load(host, bytes, size, &module, &err), &err);
    return module;
}

static world open_world(void) {
    world w = {0};
    sp_error err = {0};
    ok(sp_host_open(NULL, &w.host, &err), &err);
    ok(sp_device_open("cpu", 1, &w.device, &err), &err);
    w.counter = load(w.host, "guest/counter.wasm");
    w.echo = load(w.host, "guest/echo.wasm");
    return w;
}

static void close_world(world *w) {
    sp_module_close(w->counter);
    sp_module_close(w->echo);
    sp_device_close(w->device);
    sp_host_close(w->host);
    empty_folder();
}

static const char *say(world *w, sp_actor *actor, const char *text) {
    sp_error err = {0};
    sp_step_result result;
    ok(sp_actor_send(actor, text, strlen(text), &err), &err);
    ok(sp_actor_run(actor, &result, &err), &err);
    return w->said;
}

static sp_actor_options options(world *w) {
    return (sp_actor_options){.device = w->device, .on_message = hear, .on_message_user = w};
}

static sp_actor *spawn(world *w) {
    sp_error err = {0};
    sp_actor_options o = options(w);
    sp_actor *actor;
    ok(sp_actor_spawn(w->host, w->counter, &o, &actor, &err), &err);
    return actor;
}

static sp_status try_thaw(world *w, sp_module *module, sp_session *kept, uint64_t number, sp_actor **out, sp_error *err) {
    sp_actor_options o = options(w);
    return sp_actor_thaw(w->host, module, &o, kept, number, out, err);
}

/* A kept whose commits 1 to n hold 1 to n. */
static sp_session *count_to(world *w, const char *name, int n) {
    sp_error err = {0};
    sp_session *kept;
    ok(sp_session_create(in_store(name), w->counter, NULL, 0, &kept, &err), &err);
    sp_actor *actor = spawn(w);
    for (int i = 1; i <= n; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        assert_string_equal(say(w, actor, "add 1"), text);
        ok(sp_actor_freeze(actor, kept, &(sp_freeze_options){.note = text, .note_bytes = strlen(text)}, NULL, &err), &err);
    }
    sp_actor_close(actor);
    return kept;
}

static void expect(world *w, sp_session *kept, uint64_t number, const char *count) {
    sp_actor *actor;
    sp_error err = {0};
    ok(try_thaw(w, w->counter, kept, number, &actor, &err), &err);
    assert_string_equal(say(w, actor, "get"), count);
    sp_actor_close(actor);
}

static void test_refusals(void **state) {
    (void)state;
    world w = open_world();
    sp_session *kept = count_to(&w, "a.session", 3), *second;
    sp_error err = {0};
    sp_actor *actor;
    expect(&w, kept, 0, "3");
    expect(&w, kept, 2, "2");
    assert_int_equal(try_thaw(&w, w.echo, kept, 0, &actor, &err), SP_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, sp_module_hash(w.counter)));
    assert_non_null(strstr(err.message, sp_module_hash(w.echo)));
    assert_int_equal(try_thaw(&w, w.counter, kept, 4, &actor, &err), SP_ERR_NOT_FOUND);
    assert_int_equal(sp_session_open(in_store("a.session"), false, &second, &err), SP_ERR_BUSY);
    assert_non_null(strstr(err.message, "pid"));
    ok(sp_session_open(in_store("a.session"), true, &second, &err), &err); /* reading needs no lock */
    expect(&w, second, 1, "1");
    assert_int_equal(sp_session_set_head(second, 1, &err), SP_ERR_UNSUPPORTED);
    sp_session_close(second);
    char long_name[80] = {0};
    memset(long_name, 'x', 64);
    assert_int_equal(sp_session_set_name(kept, 1, long_name, &err), SP_ERR_ARGUMENT);
    sp_session_close(kept);
    int fd = open(in_store("a.session"), O_RDWR); /* a newer version, its checksum right */
    static uint8_t header[4096];
    assert_int_equal(pread(fd, header, sizeof header, 0), sizeof header);
    header[8] = 2;
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(header, 4080));
    memcpy(header + 4080, canonical.digest, 16);
    assert_int_equal(pwrite(fd, header, sizeof header, 0), sizeof header);
    close(fd);
    assert_int_equal(sp_session_open(in_store("a.session"), false, &second, &err), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "version 2"));
    close_world(&w);
}

/* What another actor maps may be cut off or written by somebody else: that actor dies, with a reason, and the process lives. */
static void test_file_changes_under_an_actor(void **state) {
    (void)state;
    world w = open_world();
    sp_session *kept = count_to(&w, "a.session", 2);
    sp_error err = {0};
    sp_actor *actor, *other = spawn(&w);
    sp_step_result result;
    ok(try_thaw(&w, w.counter, kept, 0, &actor, &err), &err);
    assert_int_equal(truncate(in_store("a.session"), 4096), 0);
    assert_int_equal(sp_actor_send(actor, "get", 3, &err), SP_OK);
    if (sp_os_page_size() == SP_LOG_PAGE) { /* larger ones are read, not mapped, where runs are as short as here */
        assert_int_equal(sp_actor_run(actor, &result, &err), SP_ERR_IO);
        assert_non_null(strstr(err.message, "truncated"));
        assert_int_equal(sp_actor_step(actor, &result, &err), SP_ERR_STATE);
        assert_int_equal(sp_actor_freeze(actor, kept, NULL, NULL, &err), SP_ERR_STATE);
    }
    assert_string_equal(say(&w, other, "add 5"), "5");
    assert_int_equal(sp_actor_freeze(other, kept, NULL, NULL, &err), SP_ERR_IO);
    assert_non_null(strstr(err.message, "truncated"));
    sp_actor_close(actor);
    sp_actor_close(other);
    sp_session_close(kept);
    kept = count_to(&w, "b.session", 2);
    usleep(20000); /* file systems count time in ticks */
    int fd = open(in_store("b.session"), O_RDWR);
    uint8_t byte = 1;
    assert_int_equal(pwrite(fd, &byte, 1, 5000), 1);
    close(fd);
    assert_int_equal(try_thaw(&w, w.counter, kept, 0, &actor, &err), SP_ERR_IO);
    other = spawn(&w);
    assert_int_equal(sp_actor_freeze(other, kept, NULL, NULL, &err), SP_ERR_IO);
    assert_non_null(strstr(err.message, "changed"));
    sp_actor_close(other);
    sp_session_close(kept);
    close_world(&w);
}

static int files_named(const char *start) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        n += strncmp(e->d_name, start, strlen(start)) == 0;
    }
    closedir(dir);
    return n;
}

static void test_shared_pages(void **state) {
    (void)state;
    world w = open_world();
    sp_session *a = count_to(&w, "a.session", 3), *b, *c;
    sp_error err = {0};
    sp_session_info info;
    ok(sp_session_fork(a, 2, in_store("b.session"), &err), &err);
    assert_int_equal(sp_session_fork(a, 2, in_store("b.session"), &err), SP_ERR_STATE);
    ok(sp_session_open(in_store("b.session"), false, &b, &err), &err);
    sp_session_get_info(b, &info);
    assert_true(info.own_bytes <= 12288 && info.shared_bytes >= 4096); /* header, record, perhaps a block of the file system's */
    expect(&w, b, 0, "2");
    sp_actor *actor;
    ok(try_thaw(&w, w.counter, b, 0, &actor, &err), &err);
    assert_string_equal(say(&w, actor, "add 40"), "42");
    ok(sp_actor_freeze(actor, b, NULL, NULL, &err), &err);
    ok(sp_session_fork(b, 0, in_store("c.session"), &err), &err); /* uses pages of both */
    sp_session_close(a);
    ok(sp_session_remove(in_store("a.session"), &err), &err);
    ok(sp_session_open(in_store("c.session"), false, &c, &err), &err);
    expect(&w, c, 0, "42");
    expect(&w, b, 1, "2");
    ok(sp_session_verify(c, &err), &err);
    assert_int_equal(files_named(".base-"), 2);
    sp_session_close(b);
    ok(sp_session_remove(in_store("b.session"), &err), &err);
    expect(&w, c, 0, "42");
    ok(sp_session_compact(c, &err), &err); /* takes over what nobody else uses */
    expect(&w, c, 0, "42");
    assert_int_equal(files_named(".base-"), 0);
    sp_session_get_info(c, &info);
    assert_int_equal(info.shared_bytes, 0);
    ok(sp_actor_freeze(actor, c, NULL, NULL, &err), &err);
    sp_actor_close(actor);
    sp_session_close(c);
    assert_int_equal(files_named(""), 3); /* the folder's own two and c */
    close_world(&w);
}

static void test_exports(void **state) {
    (void)state;
    world w = open_world();
    sp_session *a = count_to(&w, "a.session", 3), *b;
    sp_error err = {0};
    ok(sp_session_fork(a, 0, in_store("fork.session"), &err), &err);
    sp_session_close(a);
    ok(sp_session_open(in_store("fork.session"), true, &a, &err), &err);
    const sp_export_options kinds[] = {{0}, {.compression = 3}, {.passphrase = "open sesame"}, {.compression = 1, .passphrase = "open sesame"}};
    for (int i = 0; i < 4; i++) {
        ok(sp_session_export(a, in_store("out"), &kinds[i], &err), &err);
        assert_int_equal(sp_session_export(a, in_store("out"), &kinds[i], &err), SP_ERR_STATE);
        if (kinds[i].passphrase) {
            assert_int_equal(sp_session_import(in_store("out"), in_store("in"), NULL, NULL, NULL, &err), SP_ERR_ARGUMENT);
            assert_int_equal(sp_session_import(in_store("out"), in_store("in"), "guess", NULL, NULL, &err), SP_ERR_ARGUMENT);
        }
        ok(sp_session_import(in_store("out"), in_store("in"), kinds[i].passphrase, NULL, NULL, &err), &err);
        ok(sp_session_open(in_store("in"), false, &b, &err), &err);
        expect(&w, b, 0, "3");
        sp_session_close(b);
        ok(sp_session_remove(in_store("in"), &err), &err);
        struct stat st;
        stat(in_store("out"), &st);
        for (off_t cut = 1; cut < st.st_size && i != 0; cut += st.st_size / 5) { /* one cut of a plain file ends at a record, and is whole */
            assert_int_equal(truncate(in_store("out"), st.st_size - cut), 0);
            assert_int_not_equal(sp_session_import(in_store("out"), in_store("in"), kinds[i].passphrase, NULL, NULL, &err), SP_OK);
        }
        unlink(in_store("out"));
    }
    assert_int_equal(files_named("in"), 0);
    sp_session_close(a);
    close_world(&w);
}

/* State blobs with bytes changed, behind right checksums: an actor, or a reason, never a crash. */
static void test_hostile_state(void **state) {
    (void)state;
    world w = open_world();
    sp_session *kept = count_to(&w, "a.session", 1);
    sp_log_blobs blobs;
    sp_error err = {0};
    sp_actor *actor = spawn(&w), *thawed;
    sp_actor_send(actor, "unread", 6, NULL);
    ok(sp_state_save(actor, &blobs, &err), &err);
    int refused = 0, accepted = 0, n = times("HOSTILE", 300);
    uint8_t *good = malloc(blobs.meta_size);
    memcpy(good, blobs.meta, blobs.meta_size);
    srand(7);
    for (int i = 0; i < n; i++) {
        memcpy(blobs.meta, good, blobs.meta_size);
        uint64_t at = (uint64_t)rand() % blobs.meta_size, size = rand() % 4 ? blobs.meta_size : at;
        blobs.meta[at] = (uint8_t)(rand() % 3 ? rand() : 0xff);
        sp_log_blobs cut = {.meta = blobs.meta, .meta_size = size, .side = blobs.side, .side_size = blobs.side_size};
        sp_actor_options o = options(&w);
        ok(sp_actor_create(w.host, w.counter, &o, false, &thawed, &err), &err);
        sp_status status = sp_state_load(thawed, &cut, &err);
        refused += status != SP_OK;
        accepted += status == SP_OK;
        sp_actor_close(thawed);
    }
    assert_true(refused > n / 4 && accepted > 0);
    free(good);
    sp_state_free(&blobs);
    sp_actor_close(actor);
    sp_session_close(kept);
    close_world(&w);
}

/* ---- modules ---- */

static sp_module *from_text(sp_host *host, const char *text) {
    wasm_byte_vec_t wasm;
    assert_null(wasmtime_wat2wasm(text, strlen(text), &wasm));
    sp_module *module;
    sp_error err = {0};
    ok(sp_module_load(host, wasm.data, wasm.size, &module, &err), &err);
    wasm_byte_vec_delete(&wasm);
    return module;
}

/* A command has no next step: what it submitted would never be complete. */
static void test_submit_in_a_command(void **state) {
    (void)state;
    world w = open_world();
    sp_error err = {0};
    sp_module *module = from_text(w.host, "(module (import \"samepage\" \"program_submit\" (func $submit (param i32 i32 i32) (result i32)))"
                                          "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32))) (memory (export \"memory\") 1)"
                                          "(func (export \"_start\") (call $exit (i32.sub (i32.const 0)"
                                          "(call $submit (i32.const 0) (i32.const 0) (i32.const 0))))))");
    sp_actor_options options = {.device = w.device};
    sp_actor *actor;
    int code = 0;
    ok(sp_actor_spawn(w.host, module, &options, &actor, &err), &err);
    ok(sp_actor_run_command(actor, &code, &err), &err);
    assert_int_equal(code, -SP_ERR_STATE);
    sp_actor_close(actor);
    sp_module_close(module);
    close_world(&w);
}

#define HEAD "(module (memory (export \"memory\") 1) (func (export \"sp_step\") (result i32) "

static void test_modules(void **state) {
    (void)state;
    world w = open_world();
    sp_error err = {0};
    static const struct {
        const char *text, *reason; /* NULL: it can be frozen */
    } cases[] = {
        {HEAD "i32.const 0))", NULL},
        {HEAD "i32.const 0) (table 1 funcref))", NULL},
        {HEAD "i32.const 0 i32.const 0 ref.null func table.set 0) (table 1 funcref))", "function 0 changes a table"},
        {HEAD "i32.const 0) (table 1 funcref) (func i32.const 0 i32.const 0 i32.const 0 table.copy))", "function 1 changes a table"},
        {HEAD "data.drop 0 i32.const 0) (data \"x\"))", "function 0 drops a segment"},
        {HEAD "i32.const 0 i32.const 0 i32.const 0 i32.const 1 memory.init 0) (data \"x\"))", NULL},
        {HEAD "i32.const 0) (global (mut funcref) (ref.null func)))", "mutable global 0 holds a reference"},
        {HEAD "i32.const 0) (func $s) (start $s))", "start function"},
        {"(module (memory (export \"memory\") 1) (func (export \"_start\")))", "a command"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_module *module = from_text(w.host, cases[i].text);
        sp_status status = sp_module_check_freeze(module, &err);
        if (cases[i].reason) {
            assert_int_equal(status, SP_ERR_UNSUPPORTED);
            assert_non_null(strstr(err.message, cases[i].reason));
        } else {
            ok(status, &err);
        }
        sp_module_close(module);
    }
    close_world(&w);
}

/* Globals of every type that nothing exports, next to constant ones, come back with the actor. */
static void test_hidden_globals(void **state) {
    (void)state;
    world w = open_world();
    sp_error err = {0};
    sp_module *module = from_text(
        w.host, "(module (import \"samepage\" \"send\" (func $send (param i32 i32) (result i32))) (memory (export \"memory\") 1)"
                "(global i32 (i32.const 7)) (global $a (mut i32) (i32.const 0)) (global $b (mut i64) (i64.const 0)) (global i64 (i64.const 1))"
                "(global $c (mut f32) (f32.const 0)) (global $d (mut f64) (f64.const 0)) (global $e (mut v128) (v128.const i64x2 0 0))"
                "(func (export \"sp_step\") (result i32)"
                "  (global.set $a (i32.add (global.get $a) (i32.const 1))) (global.set $b (i64.add (global.get $b) (i64.const -1)))"
                "  (global.set $c (f32.add (global.get $c) (f32.const 0.5))) (global.set $d (f64.add (global.get $d) (f64.const 0.25)))"
                "  (global.set $e (i64x2.add (global.get $e) (v128.const i64x2 3 -3)))"
                "  (i32.store (i32.const 0) (global.get $a)) (i64.store (i32.const 8) (global.get $b)) (f32.store (i32.const 16) (global.get $c))"
                "  (f64.store (i32.const 24) (global.get $d)) (v128.store (i32.const 32) (global.get $e))"
                "  (drop (call $send (i32.const 0) (i32.const 48))) i32.const 0))");
    sp_actor_options o = options(&w);
    sp_actor *actor, *thawed;
    sp_session *kept;
    sp_step_result result;
    ok(sp_actor_spawn(w.host, module, &o, &actor, &err), &err);
    for (int i = 0; i < 5; i++) {
        ok(sp_actor_step(actor, &result, &err), &err);
    }
    ok(sp_session_create(in_store("g.session"), module, NULL, 0, &kept, &err), &err);
    ok(sp_actor_freeze(actor, kept, NULL, NULL, &err), &err);
    ok(try_thaw(&w, module, kept, 0, &thawed, &err), &err);
    ok(sp_actor_step(actor, &result, &err), &err);
    ok(sp_actor_step(thawed, &result, &err), &err);
    uint64_t size;
    assert_memory_equal(sp_actor_memory(actor, &size), sp_actor_memory(thawed, &size), 64);
    assert_int_equal(*(int32_t *)sp_actor_memory(thawed, &size), 6);
    sp_actor_close(actor);
    sp_actor_close(thawed);
    sp_session_close(kept);
    sp_module_close(module);
    close_world(&w);
}

/* The guest's clocks: its own, WASI's monotonic one and the time of day; what WASI said for a fourth, and for a pointer outside of the memory. */
typedef struct clocks {
    uint64_t own, monotonic, day;
    int32_t fourth, outside;
} clocks;

static clocks read_clocks(sp_actor *actor) {
    sp_error err = {0};
    sp_step_result result;
    uint64_t size;
    ok(sp_actor_step(actor, &result, &err), &err);
    return *(clocks *)sp_actor_memory(actor, &size);
}

/* Time that is monotonic for a guest never goes back: not over a thaw, not over a fork; and the time that it was frozen for is left out. */
static void test_clocks(void **state) {
    (void)state;
    world w = open_world();
    sp_error err = {0};
    sp_module *module = from_text(
        w.host, "(module (import \"samepage\" \"clock\" (func $own (result i64)))"
                "(import \"wasi_snapshot_preview1\" \"clock_time_get\" (func $wasi (param i32 i64 i32) (result i32))) (memory (export \"memory\") 1)"
                "(func (export \"sp_step\") (result i32) (i64.store (i32.const 0) (call $own))"
                "  (drop (call $wasi (i32.const 1) (i64.const 1) (i32.const 8))) (drop (call $wasi (i32.const 0) (i64.const 1) (i32.const 16)))"
                "  (i32.store (i32.const 24) (call $wasi (i32.const 2) (i64.const 1) (i32.const 0)))"
                "  (i32.store (i32.const 28) (call $wasi (i32.const 1) (i64.const 1) (i32.const 65529))) i32.const 0))");
    sp_actor_options o = options(&w);
    sp_actor *actor, *thawed, *fork;
    sp_session *kept;
    ok(sp_actor_spawn(w.host, module, &o, &actor, &err), &err);
    usleep(30000);
    clocks before = read_clocks(actor);
    assert_true(before.own >= 30000000 && before.monotonic >= before.own && before.monotonic - before.own < 1000000000);
    assert_true(before.day / 1000000000 >= 1700000000 && before.day / 1000000000 <= (uint64_t)time(NULL) + 1); /* time() is as old as the last tick */
    assert_true(before.fourth == 28 && before.outside == 21);
    ok(sp_session_create(in_store("t.session"), module, NULL, 0, &kept, &err), &err);
    ok(sp_actor_freeze(actor, kept, NULL, NULL, &err), &err);
    sp_actor_close(actor);
    uint64_t frozen = sp_now_ns();
    usleep(300000);
    ok(try_thaw(&w, module, kept, 0, &thawed, &err), &err);
    clocks after = read_clocks(thawed);
    assert_true(after.own > before.own && after.monotonic > before.monotonic && after.day > before.day);
    assert_true(after.monotonic - before.monotonic < sp_now_ns() - frozen);
    ok(sp_actor_fork(thawed, NULL, &fork, &err), &err);
    assert_true(read_clocks(fork).monotonic > after.monotonic);
    sp_actor_close(fork);
    sp_actor_close(thawed);
    sp_session_close(kept);
    sp_module_close(module);
    close_world(&w);
}

/* Any bytes get an answer from the rewriter; what it writes, Wasmtime validates (above, every module is compiled from it). */
static void test_rewriter_is_total(void **state) {
    (void)state;
    char *path = in_folder("BUILD_DIR", "guest/counter.wasm");
    static uint8_t good[1 << 18];
    FILE *file = fopen(path, "rb");
    size_t size = fread(good, 1, sizeof good, file);
    fclose(file);
    free(path);
    srand(5);
    for (int i = 0; i < 3000; i++) {
        size_t n = i % 3 ? size : (size_t)rand() % size;
        uint8_t *bad = malloc(n + 1); /* of its exact size: sanitizers see what is read beyond */
        memcpy(bad, good, n);
        for (int k = 0; k < 1 + i % 4 && n; k++) {
            bad[(size_t)rand() % (i % 2 ? n : n < 600 ? n : 600)] = (uint8_t)rand();
        }
        sp_rewritten out;
        assert_int_equal(sp_wasm_rewrite(bad, n, &out, NULL), SP_OK);
        assert_true(out.freezable || out.reason[0]);
        free(out.bytes);
        free(bad);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_file_changes_under_an_actor),
        cmocka_unit_test(test_shared_pages),
        cmocka_unit_test(test_exports),
        cmocka_unit_test(test_hostile_state),
        cmocka_unit_test(test_modules),
        cmocka_unit_test(test_submit_in_a_command),
        cmocka_unit_test(test_hidden_globals),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_rewriter_is_total),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
