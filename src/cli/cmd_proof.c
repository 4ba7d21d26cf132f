/*
 * `samepage proof`: on the machine at hand, that guest and device have one set of pages. A guest touches 16 MiB; sharing them with the device should
 * add nothing to resident memory, an explicit copy 16 MiB. Then the device multiplies two matrices there, and the guest counts wrong elements.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "cli/cmd.h"
#include "cli/embedded.h"
#include "cli/open_device.h"
#include "cli/options.h"
#include "memory/os.h"

typedef struct proof {
    sp_actor *actor;
    char said[64];
    uint32_t start, length;
    uint64_t shared_rss, copied_rss;
    uint64_t guest_address, device_address, guest_frame, device_frame;
    int elements, wrong;
} proof;

static void on_message(void *user, const void *bytes, size_t size) {
    proof *p = user;
    snprintf(p->said, sizeof p->said, "%.*s", (int)size, (const char *)bytes);
}

static sp_status ask(proof *p, const char *what, sp_error *err) {
    sp_step_result result;
    sp_status status = sp_actor_send(p->actor, what, strlen(what), err);
    return status == SP_OK ? sp_actor_run(p->actor, &result, err) : status;
}

static uint64_t grown(uint64_t before) {
    uint64_t now = sp_os_resident_bytes();
    return now > before ? now - before : 0;
}

static sp_status measure(proof *p, sp_error *err) {
    sp_status status = ask(p, "touch", err);
    if (status != SP_OK || sscanf(p->said, "%" SCNu32 " %" SCNu32, &p->start, &p->length) != 2) {
        return status;
    }
    sp_os_resident_bytes(); /* what measuring itself needs is resident from here on */
    uint64_t before = sp_os_resident_bytes();
    status = ask(p, "share", err);
    p->shared_rss = grown(before);
    if (status != SP_OK) {
        return status;
    }
    const sp_region *region = &p->actor->regions[0];
    uint8_t *guest = sp_memory_base(p->actor->memory) + region->start;
    p->guest_address = (uint64_t)(uintptr_t)guest;
    p->device_address = sp_device_memory_address(region->memory);
    p->guest_frame = sp_os_physical_frame(guest);
    p->device_frame = sp_os_physical_frame((const void *)(uintptr_t)p->device_address);
    before = sp_os_resident_bytes();
    void *copy = malloc(p->length);
    if (!copy) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for the copy");
    }
    memcpy(copy, guest, p->length);
    __asm__ volatile("" : : "r"(copy) : "memory"); /* the copy is made, although nobody reads it */
    p->copied_rss = grown(before);
    free(copy);
    status = ask(p, "product", err);
    return status == SP_OK && sscanf(p->said, "%d %d", &p->elements, &p->wrong) != 2 ? SP_ERR_GUEST : status;
}

static bool same_pages(const proof *p) {
    return p->guest_address == p->device_address && p->guest_frame == p->device_frame;
}

static void print_text(const proof *p, const sp_device_info *d) {
    printf("device              %s (%s), %s memory\n", d->name, d->description, d->unified ? "unified" : "separate");
    printf("sharing 16 MiB      adds %8.2f MiB of resident memory\n", (double)p->shared_rss / (1 << 20));
    printf("copying 16 MiB      adds %8.2f MiB\n", (double)p->copied_rss / (1 << 20));
    printf("guest's address     0x%" PRIx64 "\n", p->guest_address);
    printf("device's address    0x%" PRIx64 "\n", p->device_address);
    if (p->guest_frame) {
        printf("physical frame      0x%" PRIx64 " and 0x%" PRIx64 ", %s\n", p->guest_frame, p->device_frame,
               same_pages(p) ? "the same" : "not the same");
    } else {
        printf("physical frame      not shown: it takes root on Linux\n");
    }
    printf("128x128 product     %d elements, %d wrong\n", p->elements, p->wrong);
}

static void print_json(const proof *p, const sp_device_info *d) {
    json_t *root =
        json_pack("{s:s, s:b, s:I, s:I, s:i, s:i, s:o, s:I, s:I, s:o}", "device", d->name, "unified", d->unified, "shared_rss_bytes",
                  (json_int_t)p->shared_rss, "copied_rss_bytes", (json_int_t)p->copied_rss, "elements", p->elements, "wrong", p->wrong, "same_frame",
                  p->guest_frame ? json_boolean(same_pages(p)) : json_null(), "guest_address", (json_int_t)p->guest_address, "device_address",
                  (json_int_t)p->device_address, "frame", p->guest_frame ? json_integer((json_int_t)p->guest_frame) : json_null());
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static int prove(const char *device_name, bool json) {
    sp_host *host = NULL;
    sp_device *device = NULL;
    sp_module *module = NULL;
    proof p = {0};
    sp_error err;
    sp_status status = sp_host_open(NULL, &host, &err);
    if (status == SP_OK) {
        status = sp_cli_open_device(device_name, 0, &device, &err);
    }
    if (status == SP_OK) {
        status = sp_module_load(host, sp_embedded_proof, sp_embedded_proof_size, &module, &err);
    }
    if (status == SP_OK) {
        sp_actor_options options = {.device = device, .on_message = on_message, .on_message_user = &p, .inherit_stderr = true};
        status = sp_actor_spawn(host, module, &options, &p.actor, &err);
    }
    if (status == SP_OK) {
        status = measure(&p, &err);
    }
    if (status == SP_OK) {
        sp_device_info info;
        sp_device_describe(device, &info);
        json ? print_json(&p, &info) : print_text(&p, &info);
    }
    int exit_code = status == SP_OK ? (p.wrong == 0 && p.elements > 0 ? SP_EXIT_OK : SP_EXIT_FAILED) : sp_failed(&err);
    sp_actor_close(p.actor);
    sp_module_close(module);
    sp_device_close(device);
    sp_host_close(host);
    return exit_code;
}

int sp_cmd_proof(int argc, char **argv) {
    bool json = false;
    const char *device = "cpu";
    const sp_option table[] = {{0, "device", SP_OPT_TEXT, &device, 0, 0, "NAME", "cpu, vulkan:N, discrete (default: cpu)"},
                               {0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON"},
                               {0}};
    int at = sp_options_parse(table, "proof", "[--device NAME] [--json]", "Shows that guest and device have one set of pages.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    return at < argc ? sp_usage_error("proof", "%s: proof takes no operands", argv[at]) : prove(device, json);
}
