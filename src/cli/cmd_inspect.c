/* `samepage inspect`: what is in a module, a program or a GGUF file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "cli/cmd.h"
#include "cli/options.h"
#include "cli/store.h"

typedef struct inspect_options {
    bool dot, program, tensors;
} inspect_options;

/* Any weight is as good as another when a program is looked at without its model. */
static bool any_weight(void *context, uint32_t model, const char *name, sp_weight_info *out) {
    (void)context, (void)model, (void)name;
    *out = (sp_weight_info){.type = SP_TYPE_F32, .ne = {1, 1, 1, 1}};
    return true;
}

static sp_status print_program(const void *bytes, uint64_t size, const sp_weight_source *weights, bool dot, sp_error *err) {
    sp_program *program;
    sp_status status = sp_program_load(bytes, size, weights, &program, err);
    if (status != SP_OK) {
        return status;
    }
    status = dot ? sp_program_print_dot(program, stdout, err) : sp_program_print(program, stdout, err);
    sp_program_free(program);
    return status;
}

/* Names in files are anybody's: what would act on a terminal is taken out. */
static void print_import(const wasm_name_t *from, const wasm_name_t *name) {
    char module[200], function[200];
    sp_one_line(module, sizeof module, from->data, from->size);
    sp_one_line(function, sizeof function, name->data, name->size);
    printf("import    %s.%s\n", module, function);
}

static void print_export(const wasm_exporttype_t *export) {
    static const char *const kinds[] = {"function", "global", "table", "memory"};
    const wasm_name_t *name = wasm_exporttype_name(export);
    const wasm_externkind_t kind = wasm_externtype_kind(wasm_exporttype_type(export));
    char text[200];
    sp_one_line(text, sizeof text, name->data, name->size);
    printf("export    %-8s %s\n", kind < 4 ? kinds[kind] : "other", text);
}

static sp_status inspect_module(const void *bytes, size_t size, sp_error *err) {
    sp_host *host;
    sp_module *module = NULL;
    sp_status status = sp_host_open(NULL, &host, err);
    if (status != SP_OK) {
        return status;
    }
    status = sp_module_load(host, bytes, size, &module, err);
    if (status == SP_OK) {
        printf("module    %s, %zu bytes, hash ", module->kind == SP_MODULE_ACTOR ? "actor" : "command", size);
        for (size_t i = 0; i < sizeof module->hash; i++) {
            printf("%02x", module->hash[i]);
        }
        putchar('\n');
        wasm_importtype_vec_t imports;
        wasmtime_module_imports(module->module, &imports);
        for (size_t i = 0; i < imports.size; i++) {
            print_import(wasm_importtype_module(imports.data[i]), wasm_importtype_name(imports.data[i]));
        }
        wasm_importtype_vec_delete(&imports);
        wasm_exporttype_vec_t exports;
        wasmtime_module_exports(module->module, &exports);
        for (size_t i = 0; i < exports.size; i++) {
            print_export(exports.data[i]);
        }
        wasm_exporttype_vec_delete(&exports);
    }
    sp_module_close(module);
    sp_host_close(host);
    return status;
}

static void print_model(const sp_model *model, bool tensors) {
    sp_model_info info;
    sp_model_get_info(model, &info);
    const char *template;
    char name[sizeof info.name], architecture[sizeof info.architecture], tensor[100];
    sp_one_line(name, sizeof name, info.name, strlen(info.name));
    sp_one_line(architecture, sizeof architecture, info.architecture, strlen(info.architecture));
    bool has_template = sp_model_meta(model, "tokenizer.chat_template", &template, NULL) == SP_OK;
    printf("model         %s\narchitecture  %s\nparameters    %.2f million, %.1f MiB\nlayers        %u, %u wide\ncontext       %u tokens\n", name,
           architecture, (double)info.n_params / 1e6, (double)info.weight_bytes / (1 << 20), info.n_layer, info.n_embd, info.n_ctx_train);
    printf("vocabulary    %u tokens\nchat template %s\nfingerprint   %s\n", info.n_vocab, has_template ? "yes" : "no", sp_model_fingerprint(model));
    const sp_weight_table *table = sp_model_weight_table(model);
    printf("tensors       %u\n", table->n);
    for (uint32_t i = 0; tensors && i < table->n; i++) {
        const struct sp_weight_entry *e = &table->entries[i];
        const sp_type_traits *type = sp_type_get(e->type);
        sp_one_line(tensor, sizeof tensor, e->name, strlen(e->name));
        printf("  %-32s %-6s [%lld, %lld, %lld, %lld]\n", tensor, type ? type->name : "other", (long long)e->ne[0], (long long)e->ne[1],
               (long long)e->ne[2], (long long)e->ne[3]);
    }
}

static sp_status inspect_model(const char *path, const inspect_options *o, sp_error *err) {
    sp_host *host;
    sp_model *model = NULL;
    sp_status status = sp_host_open(NULL, &host, err);
    if (status != SP_OK) {
        return status;
    }
    status = sp_model_open(host, path, NULL, &model, err);
    if (status == SP_OK && !o->program && !o->dot) {
        print_model(model, o->tensors);
    } else if (status == SP_OK) {
        const void *bytes;
        uint64_t size;
        status = sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, err);
        sp_weight_source weights = {.find = sp_model_find_weight, .context = model};
        status = status == SP_OK ? print_program(bytes, size, &weights, o->dot, err) : status;
    }
    sp_model_close(model);
    sp_host_close(host);
    return status;
}

/* By what the file begins with. */
static sp_status inspect(const char *path, const inspect_options *o, sp_error *err) {
    FILE *file = fopen(path, "rb");
    char magic[4] = "";
    size_t n = file ? fread(magic, 1, 4, file) : 0;
    if (file) {
        fclose(file);
    }
    if (!file || (n == 4 && memcmp(magic, "GGUF", 4) == 0)) {
        return inspect_model(path, o, err); /* says what is wrong with a file that is not there, too */
    }
    size_t size;
    char *bytes = sp_read_file(path, &size, err);
    if (!bytes) {
        return err->status;
    }
    sp_weight_source weights = {.find = any_weight};
    sp_status status = n == 4 && memcmp(magic, "SPRG", 4) == 0 ? print_program(bytes, size, &weights, o->dot, err)
                       : n == 4 && memcmp(magic, "\0asm", 4) == 0
                           ? inspect_module(bytes, size, err)
                           : sp_fail(err, SP_ERR_FORMAT, "%s: neither a WebAssembly module, a program nor a GGUF file", path);
    free(bytes);
    return status;
}

int sp_cmd_inspect(int argc, char **argv) {
    inspect_options o = {0};
    const sp_option table[] = {{0, "program", SP_OPT_FLAG, &o.program, 0, 0, NULL, "of a GGUF file: the model's graph as a program"},
                               {0, "tensors", SP_OPT_FLAG, &o.tensors, 0, 0, NULL, "of a GGUF file: every tensor"},
                               {0, "dot", SP_OPT_FLAG, &o.dot, 0, 0, NULL, "a program as a Graphviz graph"},
                               {0}};
    int at = sp_options_parse(table, "inspect", "[OPTION...] FILE", "Shows what is in a WebAssembly module, a program or a GGUF file.", argc, argv);
    if (at < 0) {
        return -1 - at;
    }
    if (argc - at != 1) {
        return sp_usage_error("inspect", "name one file");
    }
    sp_error err;
    return inspect(argv[at], &o, &err) == SP_OK ? SP_EXIT_OK : sp_failed(&err);
}
