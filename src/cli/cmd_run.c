/*
 * `samepage run`: a command runs to its end; an actor gets each line of standard input as a message, and each of its messages is a line of standard
 * output.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/cmd.h"
#include "cli/limit_options.h"
#include "cli/llm_client.h"
#include "cli/open_device.h"

typedef struct run_options {
    const char *device, *model;
    int32_t threads;
    sp_option_list dirs;
    sp_limit_settings limits;
} run_options;

static void on_message(void *user, const void *bytes, size_t size) {
    (void)user;
    fwrite(bytes, 1, size, stdout);
    putchar('\n');
    fflush(stdout);
}

static int drive(sp_actor *actor, sp_error *err) {
    sp_step_result result;
    sp_status status = sp_actor_run(actor, &result, err);
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n = 0;
    while (status == SP_OK && result != SP_STEP_DONE && (n = getline(&line, &capacity, stdin)) > 0) {
        status = sp_actor_send(actor, line, (size_t)n - (line[n - 1] == '\n'), err);
        if (status == SP_OK) {
            status = sp_actor_run(actor, &result, err);
        }
    }
    free(line);
    return status == SP_OK ? SP_EXIT_OK : sp_failed(err);
}

/* HOST or HOST::GUEST. The caller frees host_path; guest_path is a part of it. */
static sp_preopen preopen_of(const char *text) {
    char *host = strdup(text), *colons = host ? strstr(host, "::") : NULL;
    if (colons) {
        *colons = 0;
    }
    return (sp_preopen){.host_path = host, .guest_path = colons ? colons + 2 : host};
}

static int run(const run_options *o, int n_args, char **args) {
    sp_host *host = NULL;
    sp_device *device = NULL;
    sp_model *model = NULL;
    sp_module *module = NULL;
    sp_actor *actor = NULL;
    sp_error err;
    size_t size = 0;
    const sp_host_options host_options = {.wasm_stack_bytes = o->limits.wasm_stack_bytes};
    char *bytes = sp_read_file(args[0], &size, &err);
    sp_status status = bytes ? sp_host_open(&host_options, &host, &err) : err.status;
    if (status == SP_OK) {
        sp_error why;
        status = sp_module_load(host, bytes, size, &module, &why);
        if (status != SP_OK) {
            sp_fail(&err, status, "%s: %s", args[0], why.message);
        }
    }
    if (status == SP_OK) {
        status = sp_cli_open_device(o->device, o->threads, &device, &err);
    }
    if (status == SP_OK && o->model) {
        status = sp_model_open(host, o->model, NULL, &model, &err);
    }
    sp_preopen preopens[64];
    for (size_t i = 0; i < o->dirs.n; i++) {
        preopens[i] = preopen_of(o->dirs.items[i]);
    }
    if (status == SP_OK) {
        sp_actor_options options = {.device = device,
                                    .models = &model,
                                    .n_models = model ? 1 : 0,
                                    .limits = o->limits.limits,
                                    .on_message = on_message,
                                    .inherit_stdin = sp_module_get_kind(module) == SP_MODULE_COMMAND,
                                    .inherit_stdout = true,
                                    .inherit_stderr = true,
                                    .args = (const char *const *)args,
                                    .n_args = (size_t)n_args,
                                    .preopens = preopens,
                                    .n_preopens = o->dirs.n};
        status = sp_actor_spawn(host, module, &options, &actor, &err);
    }
    int exit_code = SP_EXIT_FAILED;
    if (status != SP_OK) {
        exit_code = sp_failed(&err);
    } else if (sp_module_get_kind(module) == SP_MODULE_COMMAND) {
        exit_code = sp_actor_run_command(actor, &exit_code, &err) == SP_OK ? exit_code : sp_failed(&err);
    } else {
        exit_code = drive(actor, &err);
    }
    sp_actor_close(actor);
    sp_module_close(module);
    sp_model_close(model);
    sp_device_close(device);
    sp_host_close(host);
    for (size_t i = 0; i < o->dirs.n; i++) {
        free((char *)preopens[i].host_path);
    }
    free(bytes);
    return exit_code;
}

int sp_cmd_run(int argc, char **argv) {
    run_options o = {.device = "cpu"};
    sp_option table[5 + SP_LIMIT_OPTION_ROWS] = {
        {0, "device", SP_OPT_TEXT, &o.device, 0, 0, "NAME", "cpu, vulkan:N, discrete (default: cpu)"},
        {'m', "model", SP_OPT_TEXT, &o.model, 0, 0, "FILE", "a GGUF file that the guest may use, as model 0"},
        {'t', "threads", SP_OPT_INT, &o.threads, 0, 512, "N", "CPU threads (default: all cores)"},
        {0, "dir", SP_OPT_LIST, &o.dirs, 0, 0, "HOST[::GUEST]", "a folder that a command may use; may be repeated"},
    };
    sp_limit_option_rows(&o.limits, table + 4);
    int at = sp_options_parse_first(table, "run", "[OPTION...] GUEST.wasm [ARGUMENT...]",
                                    "Runs a guest: a command to its end; an actor with a message from each line of standard input.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    return at == argc ? sp_usage_error("run", "which guest? name a .wasm file") : run(&o, argc - at, argv + at);
}
