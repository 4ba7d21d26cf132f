/*
 * llama.cpp's own chat templates: a dialogue each, with and without tools, rendered by samepage from JSON and by llama.cpp from its own structures:
 * the texts are equal, and so are the refusals. Answers that a template's model would give come back as messages.
 */
#include <chat.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fstream>
#include <gguf.h>
#include <log.h>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

extern "C" {
#include "folders.h"
#include "model/model.h"
#include "test_data.h"
}

static const char parameters[] =
    R"({"type":"object","properties":{"place":{"type":"string","description":"A town"},"days":{"type":"integer"}},"required":["place"]})";

static std::string request(bool tools) {
    std::string out = R"({"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"What is the weather in Ghent?"},)";
    if (tools) {
        out += R"({"role":"assistant","content":"","tool_calls":[{"type":"function","id":"call00001","function":{"name":"weather",)"
               R"("arguments":"{\"place\":\"Ghent\",\"days\":2}"}}]},)"
               R"({"role":"tool","tool_call_id":"call00001","name":"weather","content":"Rain."},)";
    }
    out += R"({"role":"assistant","content":"It rains."},{"role":"user","content":"Is \"it\" \u00fcber?"}])";
    if (tools) {
        out += std::string(R"(,"tools":[{"type":"function","function":{"name":"weather","description":"Tells the weather","parameters":)") +
               parameters + "}}]";
    }
    return out + "}";
}

static common_chat_msg message(const char *role, const char *content) {
    common_chat_msg m;
    m.role = role;
    m.content = content;
    return m;
}

static common_chat_templates_inputs structures(bool tools, bool parallel) {
    common_chat_templates_inputs in;
    in.messages = {message("system", "Be brief."), message("user", "What is the weather in Ghent?")};
    if (tools) {
        common_chat_msg call = message("assistant", "");
        call.tool_calls = {{"weather", "{\"place\":\"Ghent\",\"days\":2}", "call00001"}};
        common_chat_msg result = message("tool", "Rain.");
        result.tool_call_id = "call00001";
        result.tool_name = "weather";
        in.messages.push_back(call);
        in.messages.push_back(result);
        in.tools = {{"weather", "Tells the weather", parameters}};
    }
    in.messages.push_back(message("assistant", "It rains."));
    in.messages.push_back(message("user", "Is \"it\" \xc3\xbc"
                                          "ber?"));
    in.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    in.parallel_tool_calls = parallel;
    return in;
}

struct result {
    bool ok;
    std::string text;
};

static result by_llama(const struct llama_model *vocabulary, const std::string &source, bool tools) {
    try {
        const common_chat_templates_ptr t = common_chat_templates_init(vocabulary, source);
        const bool parallel = tools && common_chat_templates_get_caps(t.get())["supports_parallel_tool_calls"];
        return {true, common_chat_templates_apply(t.get(), structures(tools, parallel)).prompt};
    } catch (const std::exception &e) {
        return {false, e.what()};
    }
}

/* A model that is nothing but pocket's vocabulary and this template. */
static sp_model *model_with(const std::string &source, const std::string &pocket, const std::string &path) {
    gguf_init_params params = {true, nullptr};
    gguf_context *gguf = gguf_init_from_file(pocket.c_str(), params);
    gguf_context *bare = gguf_init_empty();
    gguf_set_val_str(gguf, "tokenizer.chat_template", source.c_str());
    gguf_set_kv(bare, gguf);
    gguf_free(gguf);
    gguf_write_to_file(bare, path.c_str(), false);
    gguf_free(bare);
    sp_model *model = nullptr;
    sp_error err = {};
    if (sp_model_open_cached(nullptr, path.c_str(), nullptr, &model, &err) != SP_OK) {
        std::printf("%s: %s\n", path.c_str(), err.message);
        std::exit(1);
    }
    return model;
}

static result by_samepage(const sp_model *model, bool tools) {
    const std::string json = request(tools);
    char *text = nullptr;
    size_t size = 0;
    sp_error err = {};
    const sp_status status = sp_model_chat_format(model, json.data(), json.size(), SP_CHAT_ADD_GENERATION_PROMPT, &text, &size, &err);
    result r = {status == SP_OK, status == SP_OK ? std::string(text, size) : err.message};
    std::free(text);
    return r;
}

static int n_parsed;

/* The beginning of an answer in plain words. */
static void parse_back(const sp_model *model) {
    const std::string answer = "The weather is fine.";
    char *text = nullptr;
    size_t size = 0;
    sp_error err = {};
    const std::string plain = request(false);
    if (sp_model_chat_parse(model, plain.data(), plain.size(), answer.data(), answer.size(), true, &text, &size, &err) == SP_OK) {
        n_parsed++;
    }
    std::free(text);
}

static std::string read(const std::string &path) {
    std::ifstream in(path);
    std::stringstream out;
    out << in.rdbuf();
    return out.str();
}

static int failures;

static bool compare(const std::string &name, bool tools, const result &wanted, const result &got) {
    if (wanted.ok != got.ok || (wanted.ok && wanted.text != got.text)) {
        std::printf("%s %s tools:\n--- llama.cpp\n%s\n--- samepage\n%s\n", name.c_str(), tools ? "with" : "without", wanted.text.c_str(),
                    got.text.c_str());
        failures++;
    }
    if (!wanted.ok) {
        std::printf("%s %s tools: both refuse: %.200s\n", name.c_str(), tools ? "with" : "without", got.text.c_str());
    }
    return wanted.ok;
}

static void expect_parsed(const sp_model *model, const std::string &json, const std::string &answer, bool partial, const char *wanted) {
    char *text = nullptr;
    size_t size = 0;
    sp_error err = {};
    const sp_status status = sp_model_chat_parse(model, json.data(), json.size(), answer.data(), answer.size(), partial, &text, &size, &err);
    if (status != SP_OK || std::strcmp(text, wanted) != 0) {
        std::printf("parsed: %s\nwanted: %s\n", status == SP_OK ? text : err.message, wanted);
        failures++;
    }
    std::free(text);
}

/* Reasoning and a tool call of a Qwen 3, whole and cut; calls of two other formats. */
static void test_answers(const std::string &templates, const std::string &pocket, const std::string &scratch) {
    const std::string json = request(true);
    sp_model *qwen = model_with(read(templates + "/Qwen-Qwen3-0.6B.jinja"), pocket, scratch);
    const std::string call = "<think>\nRain?\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Ghent\"}}\n</tool_call>";
    expect_parsed(qwen, json, call, false,
                  R"({"role":"assistant","content":"","reasoning_content":"Rain?\n","tool_calls":[{"type":"function","function":)"
                  R"({"name":"weather","arguments":"{\"place\": \"Ghent\"}"}}]})");
    expect_parsed(qwen, json, call.substr(0, 12), true, R"({"role":"assistant","content":"","reasoning_content":"Rain"})");
    expect_parsed(qwen, json, "<think>\n\n</think>\n\nNo.", false, R"({"role":"assistant","content":"No."})");
    sp_model_close(qwen);
    sp_model *llama = model_with(read(templates + "/meta-llama-Llama-3.1-8B-Instruct.jinja"), pocket, scratch);
    expect_parsed(
        llama, json, R"({"name": "weather", "parameters": {"place": "Ghent"}})", false,
        R"({"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"weather","arguments":"{\"place\": \"Ghent\"}"}}]})");
    sp_model_close(llama);
}

int main() {
    const char *data = test_data_folder(), *build = folder_of("BUILD_DIR"), *sources = folder_of("SOURCE_DIR");
    if (!data) {
        std::puts("no test data");
        return 1;
    }
    const std::string templates = std::string(data) + "/models/templates", pocket = std::string(sources) + "/models/pocket/pocket-q8_0.gguf";
    const std::string scratch = std::string(build) + "/scratch-" + std::to_string(getpid()) + "-template.gguf";
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *vocabulary = llama_model_load_from_file(pocket.c_str(), params);
    common_log_set_verbosity_thold(LOG_LEVEL_OUTPUT);
    DIR *dir = opendir(templates.c_str());
    int files = 0, rendered[2] = {0, 0};
    for (struct dirent *e = dir ? readdir(dir) : nullptr; e; e = readdir(dir)) {
        const std::string name = e->d_name;
        if (name.size() < 6 || name.substr(name.size() - 6) != ".jinja") {
            continue;
        }
        files++;
        const std::string source = read(templates + "/" + name);
        sp_model *model = model_with(source, pocket, scratch);
        for (int tools = 0; tools < 2; tools++) {
            rendered[tools] += compare(name, tools, by_llama(vocabulary, source, tools), by_samepage(model, tools));
        }
        parse_back(model);
        sp_model_close(model);
    }
    closedir(dir);
    test_answers(templates, pocket, scratch);
    unlink(scratch.c_str());
    llama_model_free(vocabulary);
    std::printf("templates: %d files, %d rendered without tools and %d with, %d answers parsed, %d differ\n", files, rendered[0], rendered[1],
                n_parsed, failures);
    return failures || files < 60;
}
