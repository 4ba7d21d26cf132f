/* `samepage cache`: what is kept on this machine to start faster, and clearing it. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/abi.h"
#include "base/error.h"
#include "cli/cmd.h"
#include "cli/options.h"

static const struct {
    const char *name, *folder, *ending, *about;
} kinds[] = {{"modules", "modules", "", "compiled WebAssembly"},
             {"programs", "programs", ".trace", "models' graphs"},
             {"weights", "programs", ".weights", "models' weights in the device's layout"},
             {"unfinished", "programs", ".tmp", "of processes that were ended"}};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

typedef struct usage {
    uint64_t files, bytes;
} usage;

static bool ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Counts the files of a kind, and removes them. */
static sp_status go_through(const char *folder, const char *ending, bool clear, usage *out, sp_error *err) {
    DIR *dir = opendir(folder);
    sp_status status = dir ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *it = dir ? readdir(dir) : NULL; it; it = readdir(dir)) {
        char path[4400];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, it->d_name);
        if (ends_with(it->d_name, ending) && lstat(path, &info) == 0 && S_ISREG(info.st_mode)) {
            out->files++;
            out->bytes += (uint64_t)info.st_size;
            if (clear && unlink(path) != 0 && status == SP_OK) {
                status = sp_fail(err, SP_ERR_IO, "%s: %s", path, strerror(errno));
            }
        }
    }
    if (dir) {
        closedir(dir);
    }
    return status;
}

static sp_status show(const sp_host *host, bool clear, bool json, sp_error *err) {
    json_t *root = json_object();
    sp_status status = SP_OK;
    for (int i = 0; status == SP_OK && i < N_KINDS; i++) {
        char *folder = sp_host_cache_folder(host, kinds[i].folder);
        usage used = {0};
        status = folder ? go_through(folder, kinds[i].ending, clear, &used, err)
                        : sp_fail(err, SP_ERR_IO, "there is no cache folder that is this user's alone");
        if (status == SP_OK && json) {
            json_object_set_new(root, kinds[i].name,
                                json_pack("{s:s, s:I, s:I}", "folder", folder, "files", (json_int_t)used.files, "bytes", (json_int_t)used.bytes));
        } else if (status == SP_OK) {
            printf("%-11s %6llu files %10.1f MiB  %s, in %s\n", kinds[i].name, (unsigned long long)used.files, (double)used.bytes / (1 << 20),
                   kinds[i].about, folder);
        }
        free(folder);
    }
    if (status == SP_OK && json) {
        json_object_set_new(root, "cleared", json_boolean(clear));
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (status == SP_OK && clear) {
        puts("cleared");
    }
    json_decref(root);
    return status;
}

int sp_cmd_cache(int argc, char **argv) {
    bool clear = false, json = false;
    const sp_option table[] = {{0, "clear", SP_OPT_FLAG, &clear, 0, 0, NULL, "remove it all; the next start makes it anew"},
                               {0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON"},
                               {0}};
    int at = sp_options_parse(table, "cache", "[OPTION...]",
                              "Shows what is kept on this machine to start faster: compiled modules, traced graphs, converted weights.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("cache", "%s: cache takes no operands", argv[at]);
    }
    sp_host *host;
    sp_error err;
    sp_status status = sp_host_open(NULL, &host, &err);
    if (status == SP_OK) {
        status = show(host, clear, json, &err);
        sp_host_close(host);
    }
    return status == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
