/* `samepage devices`: what can compute here. */
#include <jansson.h>
#include <stdio.h>

#include "cli/cmd.h"
#include "cli/options.h"

int sp_cmd_devices(int argc, char **argv) {
    bool json = false;
    const sp_option table[] = {{0, "json", SP_OPT_FLAG, &json, 0, 0, NULL, "as JSON"}, {0}};
    int at = sp_options_parse(table, "devices", "[--json]",
                              "Lists the devices, whether they work on the guest's own pages, and what a region must be aligned to.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (at < argc) {
        return sp_usage_error("devices", "%s: devices takes no operands", argv[at]);
    }
    sp_device_info infos[32];
    size_t count = 0;
    sp_error err;
    if (sp_device_list(infos, 32, &count, &err) != SP_OK) {
        return sp_failed(&err);
    }
    json_t *list = json_array();
    if (!json) {
        printf("%-14s %-9s %10s %12s  %s\n", "device", "memory", "alignment", "size", "description");
    }
    for (size_t i = 0; i < count && i < 32; i++) {
        const sp_device_info *d = &infos[i];
        if (json) {
            json_array_append_new(list, json_pack("{s:s, s:b, s:I, s:I, s:s}", "name", d->name, "unified", d->unified, "import_alignment",
                                                  (json_int_t)d->import_alignment, "memory_total", (json_int_t)d->memory_total, "description",
                                                  d->description));
        } else {
            printf("%-14s %-9s %10llu %8.1f GiB  %s\n", d->name, d->unified ? "unified" : "separate", (unsigned long long)d->import_alignment,
                   (double)d->memory_total / (1u << 30), d->description);
        }
    }
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return SP_EXIT_OK;
}
