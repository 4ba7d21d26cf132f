/*
 * A program that embeds samepage: it talks to the echo guest. Built against the installed tree alone.
 *
 *     embed FOLDER      with echo.wasm in the folder
 */
#include <samepage.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char question[] = "is anybody there?";

/* The actor's answer: echo sends back what it got. */
static void on_message(void *user, const void *bytes, size_t size) {
    int *answers = user;
    if (size == strlen(question) && memcmp(bytes, question, size) == 0)
        (*answers)++;
}

static unsigned char *read_file(const char *folder, const char *name, size_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        exit((perror(path), 1));
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size);
    if (!bytes || fread(bytes, 1, *size, file) != *size)
        exit((perror(path), 1));
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    sp_error err = {0};
    sp_host *host = NULL;
    sp_device *device = NULL;
    sp_module *module = NULL;
    sp_actor *actor = NULL;
    sp_step_result result;
    size_t size;
    int answers = 0;

    unsigned char *wasm = read_file(argc > 1 ? argv[1] : ".", "echo.wasm", &size);
    sp_actor_options options = {.on_message = on_message, .on_message_user = &answers};
    bool ok = sp_host_open(NULL, &host, &err) == SP_OK && sp_device_open("cpu", 1, &device, &err) == SP_OK &&
              sp_module_load(host, wasm, size, &module, &err) == SP_OK && (options.device = device) != NULL &&
              sp_actor_spawn(host, module, &options, &actor, &err) == SP_OK && sp_actor_send(actor, question, strlen(question), &err) == SP_OK &&
              sp_actor_run(actor, &result, &err) == SP_OK;

    printf("samepage %s (%s): %s\n", sp_version(), sp_build_info(), !ok ? err.message : answers == 1 ? "echo answered" : "no answer");
    sp_actor_close(actor);
    sp_module_close(module);
    sp_device_close(device);
    sp_host_close(host);
    free(wasm);
    return ok && answers == 1 ? 0 : 1;
}
