/* See host.h. */
#include "host.h"

#include <string.h>

#include "fuzz.h"

__asm__(".section .rodata\n.global pocket_gguf\npocket_gguf: .incbin \"" POCKET_GGUF "\"\n.global pocket_gguf_end\npocket_gguf_end:\n.previous\n");
extern const uint8_t pocket_gguf[], pocket_gguf_end[];

const fuzz_host *fuzz_host_get(void) {
    static fuzz_host all;
    if (!all.host) {
        const sp_host_options options = {.cache_dir = ""};
        CHECK(sp_host_open(&options, &all.host, NULL) == SP_OK);
        CHECK(sp_device_open("cpu", 1, &all.cpu, NULL) == SP_OK);
        CHECK(sp_device_open("discrete", 1, &all.discrete, NULL) == SP_OK);
        CHECK(sp_model_open_bytes(all.host, pocket_gguf, (size_t)(pocket_gguf_end - pocket_gguf), NULL, &all.pocket, NULL) == SP_OK);
    }
    return &all;
}

static void hear(void *user, const void *bytes, size_t size) {
    (void)user;
    uint8_t sum = 0; /* ASan and the guard pages see a message that is not there */
    for (size_t i = 0; i < size; i++) {
        sum ^= ((const uint8_t *)bytes)[i];
    }
    *(volatile uint8_t *)&(uint8_t){0} = sum;
}

static void check_error(const sp_error *err) {
    CHECK(err->status < 0 && err->message[0] && memchr(err->message, 0, sizeof err->message));
    for (const char *c = err->message; *c; c++) {
        CHECK((unsigned char)*c >= 0x20 && *c != 0x7f);
    }
}

sp_actor *fuzz_spawn(sp_module *module, bool discrete, sp_error *err) {
    const fuzz_host *all = fuzz_host_get();
    sp_actor_options options = {.device = discrete ? all->discrete : all->cpu,
                                .models = &all->pocket,
                                .n_models = 1,
                                .seed = 1,
                                .on_message = hear,
                                .limits = {.memory_bytes = 16 << 20,
                                           .table_elements = 1000,
                                           .step_ms = 1000,
                                           .regions = 4,
                                           .programs = 6,
                                           .shared_bytes = 1 << 20,
                                           .program_bytes = 1 << 16,
                                           .prepared_bytes = 1 << 20,
                                           .temporary_bytes = 1 << 20,
                                           .run_flops = 1000000,
                                           .text_bytes = 4096,
                                           .message_bytes = 1 << 20,
                                           .sent_messages = 100,
                                           .messages = 4}};
    sp_actor *actor = NULL;
    *err = (sp_error){0};
    if (sp_actor_spawn(all->host, module, &options, &actor, err) != SP_OK) {
        CHECK(!actor);
        check_error(err);
    }
    return actor;
}

void fuzz_step(sp_actor *actor) {
    sp_step_result result = SP_STEP_AGAIN;
    sp_status status = SP_OK;
    sp_error err = {0};
    for (int i = 0; i < 4 && status == SP_OK && result == SP_STEP_AGAIN; i++) {
        status = sp_actor_step(actor, &result, &err);
    }
    if (status != SP_OK) {
        check_error(&err);
        CHECK(sp_actor_step(actor, &result, &err) == SP_ERR_STATE);
    }
}
