/* Hosts and what they keep: the folder for caches and who else may write to it, compiled modules that were damaged there, modules that are refused,
 * weights that actors share. */
#include "abi_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

#define COUNTER "(module (memory (export \"memory\") 1) (func (export \"sp_step\") (result i32) i32.const 0))"

static void remove_tree(const char *path) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", path);
    assert_int_equal(system(command), 0);
}

static sp_host *open_host(const sp_host_options *options) {
    sp_host *host;
    if (sp_host_open(options, &host, &said)) {
        fail_msg("%s", said.message);
    }
    return host;
}

/* Where a host with these variables keeps things; NULL: nowhere. */
static void expect_folder(const char *xdg, const char *home, const char *folder_) {
    char *before_xdg = getenv("XDG_CACHE_HOME") ? strdup(getenv("XDG_CACHE_HOME")) : NULL,
         *before_home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    xdg ? setenv("XDG_CACHE_HOME", xdg, 1) : unsetenv("XDG_CACHE_HOME");
    home ? setenv("HOME", home, 1) : unsetenv("HOME");
    sp_host *host = open_host(NULL);
    char *path = sp_host_cache_folder(host, "modules");
    if (folder_ ? !path || strcmp(path, folder_) != 0 : path != NULL) {
        fail_msg("%s; should be %s", path ? path : "none", folder_ ? folder_ : "none");
    }
    free(path);
    sp_host_close(host);
    before_xdg ? setenv("XDG_CACHE_HOME", before_xdg, 1) : unsetenv("XDG_CACHE_HOME");
    before_home ? setenv("HOME", before_home, 1) : unsetenv("HOME");
    free(before_xdg);
    free(before_home);
}

static void test_default_folder(void **state) {
    (void)state;
    char inside[100], dot[100];
    snprintf(inside, sizeof inside, "%s/samepage/modules", folder);
    snprintf(dot, sizeof dot, "%s/.cache/samepage/modules", folder);
    expect_folder(folder, NULL, inside);
    expect_folder(NULL, folder, dot);
    expect_folder("relative", folder, dot);
    expect_folder(NULL, "relative", NULL);
    expect_folder("", "", NULL);
    expect_folder(NULL, NULL, NULL);
    expect_folder("/dev/null", NULL, NULL); /* which is no folder */
}

/* Compiled code is run: nobody else may write to where it lies. */
static void test_trust(void **state) {
    (void)state;
    char outer[100], inner[120], real[120];
    snprintf(outer, sizeof outer, "%s/trust", folder);
    snprintf(inner, sizeof inner, "%s/modules", outer);
    snprintf(real, sizeof real, "%s/real", outer);
    sp_host *host = open_host(&(sp_host_options){.cache_dir = outer, .wasm_stack_bytes = 1 << 18});
    char *path = sp_host_cache_folder(host, "modules");
    assert_string_equal(path, inner);
    free(path);
    const struct {
        const char *path;
        mode_t mode;
    } open_to_others[] = {{outer, 0770}, {outer, 0702}, {inner, 0770}, {inner, 0702}};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(chmod(open_to_others[i].path, open_to_others[i].mode), 0);
        assert_null(sp_host_cache_folder(host, "modules"));
        assert_int_equal(chmod(open_to_others[i].path, 0700), 0);
    }
    if (geteuid() == 0) { /* somebody else's */
        assert_int_equal(chown(inner, 1, 1), 0);
        assert_null(sp_host_cache_folder(host, "modules"));
    }
    assert_true(rename(inner, real) == 0 && symlink(real, inner) == 0);
    assert_null(sp_host_cache_folder(host, "modules"));
    assert_true(unlink(inner) == 0 && close(open(inner, O_CREAT | O_WRONLY, 0600)) == 0);
    assert_null(sp_host_cache_folder(host, "modules"));
    sp_host_close(host);
}

/* The one file in the folder of compiled modules. */
static void cached(const char *modules, char *path, size_t size) {
    DIR *dir = opendir(modules);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] != '.') {
            snprintf(path, size, "%s/%s", modules, e->d_name);
            n++;
        }
    }
    closedir(dir);
    assert_int_equal(n, 1);
}

static void load_again(sp_host *host) {
    sp_module *module;
    if (load_text(host, COUNTER, &module)) {
        fail_msg("%s", said.message);
    }
    sp_module_close(module);
}

/* Whatever is in the place of a compiled module: the module is compiled again, and what is there replaced, or left alone. */
static void test_cached_modules(void **state) {
    (void)state;
    char outer[100], modules[120], path[400], kept[500];
    snprintf(outer, sizeof outer, "%s/cached", folder);
    snprintf(modules, sizeof modules, "%s/modules", outer);
    sp_host *host = open_host(&(sp_host_options){.cache_dir = outer});
    load_again(host);
    cached(modules, path, sizeof path);
    struct stat whole, now;
    assert_int_equal(stat(path, &whole), 0);
    load_again(host);
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(pread(fd, &byte, 1, 100) == 1);
    byte ^= 1;
    assert_true(pwrite(fd, &byte, 1, 100) == 1); /* its digest is wrong */
    close(fd);
    load_again(host);
    assert_true(stat(path, &now) == 0 && now.st_ino != whole.st_ino);
    assert_int_equal(truncate(path, 20), 0); /* not even a digest */
    load_again(host);
    assert_true(stat(path, &now) == 0 && now.st_size == whole.st_size);
    assert_int_equal(chmod(path, 0620), 0);
    load_again(host);
    assert_true(stat(path, &now) == 0 && (now.st_mode & 0777) == 0600);
    /* What Wasmtime does not take, with a right digest. */
    uint8_t content[132];
    memset(content, 7, sizeof content);
    crypto_generichash(content, 32, content + 32, 100, NULL, 0);
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, content, sizeof content), sizeof content);
    close(fd);
    load_again(host);
    assert_true(stat(path, &now) == 0 && now.st_size == whole.st_size);
    snprintf(kept, sizeof kept, "%s-kept", outer);
    assert_true(rename(path, kept) == 0 && symlink(kept, path) == 0);
    load_again(host);
    assert_true(lstat(path, &now) == 0 && S_ISREG(now.st_mode));
    assert_true(unlink(path) == 0 && mkdir(path, 0700) == 0); /* can't be replaced: it works without */
    load_again(host);
    cached(modules, path, sizeof path);
    sp_host_close(host);
}

static void test_refused_modules(void **state) {
    (void)state;
    sp_module *module;
    char text[1200], name[400];
    const uint8_t head[8] = {0, 'a', 's', 'm', 1, 0, 0, 0};
    SAYS(sp_module_load(with.host, head, 7, &module, &said), SP_ERR_FORMAT, "not a WebAssembly module");
    SAYS(sp_module_load(with.host, "Dear Ada", 8, &module, &said), SP_ERR_FORMAT, "not a WebAssembly module");
    SAYS(sp_module_load(with.host, head, 1ull << 31, &module, &said), SP_ERR_LIMIT, "at most 2 GiB"); /* of which 8 bytes are read */
    SAYS(load_text(with.host, "(module (memory (export \"memory\") 1))", &module), SP_ERR_UNSUPPORTED, "neither sp_step");
    SAYS(load_text(with.host, "(module (memory (export \"memory\") 1) (func (export \"_start\") (result i32) i32.const 0))", &module),
         SP_ERR_UNSUPPORTED, "that returns nothing");
    SAYS(load_text(with.host, "(module (memory (export \"memory\") 1) (func (export \"sp_step\")))", &module), SP_ERR_UNSUPPORTED,
         "that returns an i32");
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    snprintf(text, sizeof text, "(module (import \"nowhere\" \"%s\" (func)) (memory (export \"memory\") 1) (func (export \"_start\")))", name);
    SAYS(load_text(with.host, text, &module), SP_ERR_UNSUPPORTED, "imports something that this host does not have");
    assert_true(strlen(said.message) < 400);
}

/* Names are taken once: whoever defines them again hears of it. */
static void test_imports_twice(void **state) {
    (void)state;
    SAYS(sp_imports_define(with.host->linker, &said), SP_ERR_STATE, "an import can't be defined");
}

static void test_shared_weights(void **state) {
    (void)state;
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    sp_model *second;
    assert_int_equal(sp_model_open(with.host, path, NULL, &second, &said), SP_OK);
    free(path);
    sp_shared_weights *one, *two, *three, *again;
    SAYS(sp_host_acquire_weights(with.host, with.cpu, with.pocket, &one, &said), SP_OK, "");
    SAYS(sp_host_acquire_weights(with.host, with.discrete, with.pocket, &two, &said), SP_OK, "");
    SAYS(sp_host_acquire_weights(with.host, with.cpu, second, &three, &said), SP_OK, "");
    SAYS(sp_host_acquire_weights(with.host, with.cpu, with.pocket, &again, &said), SP_OK, "");
    assert_true(one == again && one != two && one != three && two != three);
    sp_host_release_weights(with.host, one);
    sp_host_release_weights(with.host, again); /* the last in the list */
    sp_host_release_weights(with.host, three);
    sp_host_release_weights(with.host, two);
    sp_host_release_weights(with.host, NULL);
    assert_null(with.host->weights);
    sp_model_close(second);
    sp_host_close(NULL);
    assert_non_null(strstr(sp_build_info(), "wasmtime"));
    assert_ptr_equal(sp_build_info(), sp_build_info());
}

static int start(void **state) {
    snprintf(folder, sizeof folder, "/tmp/samepage-hosts-XXXXXX");
    return mkdtemp(folder) ? open_all(state) : -1;
}

static int end(void **state) {
    remove_tree(folder);
    return close_all(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_folder),  cmocka_unit_test(test_trust),         cmocka_unit_test(test_cached_modules),
        cmocka_unit_test(test_refused_modules), cmocka_unit_test(test_imports_twice), cmocka_unit_test(test_shared_weights),
    };
    return cmocka_run_group_tests(tests, start, end);
}
