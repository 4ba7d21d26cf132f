/* llama.cpp's `common` renders chat templates (Jinja) and parses answers; it has a C++ interface alone. No exception leaves this file. */
#include "model/text_shim.hpp"

#include <cstdlib>
#include <cstring>
#include <log.h>
#include <new>
#include <stdexcept>

struct sp_chat_templates {
    common_chat_templates_ptr templates;
    std::string request; /* the one that params were made for; a guest asks for size, prompt, stops, grammar and parser in turn */
    bool known = false;
    common_chat_params params;
    common_reasoning_format reasoning = COMMON_REASONING_FORMAT_AUTO;
};

sp_chat_templates *sp_shim_chat_open(const struct llama_model *model, char *why, size_t capacity) {
    sp_chat_templates *out = nullptr;
    const bool ok = sp_shim_guarded(
        sp_shim_chat_work,
        [&] {
            common_log_set_verbosity_thold(LOG_LEVEL_OUTPUT);
            common_chat_templates_ptr templates = common_chat_templates_init(model, "");
            out = new sp_chat_templates{};
            out->templates = std::move(templates);
        },
        why, capacity);
    return ok ? out : nullptr;
}

void sp_shim_chat_close(sp_chat_templates *templates) {
    delete templates;
}

static std::string text_of(const common_json &request, const char *key, const char *otherwise) {
    return request.contains(key) && !request.at(key).is_null() ? std::string(request.at(key)) : otherwise;
}

static bool flag_of(const common_json &request, const char *key, bool otherwise) {
    return request.contains(key) && !request.at(key).is_null() ? request.at(key).get<bool>() : otherwise;
}

/* OpenAI's names: {"type": "json_schema", "json_schema": {"schema": ...}}, {"type": "json_object"}; or the schema by itself. */
static std::string schema_of(const common_json &request) {
    if (request.contains("json_schema")) {
        return request.at("json_schema").dump();
    }
    if (!request.contains("response_format")) {
        return "";
    }
    const common_json &format = request.at("response_format");
    const std::string type = text_of(format, "type", "text");
    if (type == "json_object") {
        return format.contains("schema") ? format.at("schema").dump() : "{\"type\":\"object\"}";
    }
    if (type == "json_schema") {
        return format.at("json_schema").at("schema").dump();
    }
    if (type != "text") {
        throw std::invalid_argument("response_format: the type is \"text\", \"json_object\" or \"json_schema\", not \"" + type + "\"");
    }
    return "";
}

static void take_thinking(const common_json &request, common_chat_templates_inputs &inputs) {
    inputs.enable_thinking = flag_of(request, "enable_thinking", true);
    if (request.contains("chat_template_kwargs")) {
        for (const auto &item : request.at("chat_template_kwargs").items()) {
            inputs.chat_template_kwargs[item.key()] = item.value().dump();
        }
        inputs.enable_thinking = flag_of(request.at("chat_template_kwargs"), "enable_thinking", inputs.enable_thinking);
    }
    const std::string effort = text_of(request, "reasoning_effort", "");
    if (effort == "none") {
        inputs.enable_thinking = false;
    } else if (!effort.empty()) {
        inputs.chat_template_kwargs["reasoning_effort"] = common_json::make(effort).dump();
    }
}

/* A whole request, or its messages alone. */
static common_chat_templates_inputs take_request(sp_chat_templates *t, const std::string &text) {
    const common_json request = common_json::parse(text);
    common_chat_templates_inputs inputs;
    t->reasoning = COMMON_REASONING_FORMAT_AUTO;
    inputs.use_jinja = true;
    if (request.is_array()) {
        inputs.messages = common_chat_msgs_parse_oaicompat(request);
    } else {
        if (!request.is_object() || !request.contains("messages")) {
            throw std::invalid_argument("the conversation is neither an array of messages nor an object with \"messages\"");
        }
        inputs.messages = common_chat_msgs_parse_oaicompat(request.at("messages"));
        if (request.contains("tools")) {
            inputs.tools = common_chat_tools_parse_oaicompat(request.at("tools"));
        }
        inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(text_of(request, "tool_choice", "auto"));
        inputs.parallel_tool_calls =
            flag_of(request, "parallel_tool_calls", common_chat_templates_get_caps(t->templates.get())["supports_parallel_tool_calls"]);
        inputs.json_schema = schema_of(request);
        inputs.add_generation_prompt = flag_of(request, "add_generation_prompt", true);
        t->reasoning = common_reasoning_format_from_name(text_of(request, "reasoning_format", "auto"));
        take_thinking(request, inputs);
    }
    inputs.reasoning_format = t->reasoning;
    return inputs;
}

const common_chat_params &sp_shim_chat_params(sp_chat_templates *t, const std::string &request) {
    if (!t->known || t->request != request) {
        t->known = false;
        t->params = common_chat_templates_apply(t->templates.get(), take_request(t, request));
        t->request = request;
        t->known = true;
    }
    return t->params;
}

static char *copy_of(const std::string &text, size_t *length) {
    char *copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (!copy) {
        throw std::bad_alloc();
    }
    std::memcpy(copy, text.c_str(), text.size() + 1);
    *length = text.size();
    return copy;
}

/* The generation prompt is at the prompt's end; without it, the messages stand alone. */
static std::string without_generation_prompt(sp_chat_templates *t, const std::string &request) {
    common_chat_templates_inputs inputs = take_request(t, request);
    t->known = false;
    inputs.add_generation_prompt = false;
    return common_chat_templates_apply(t->templates.get(), inputs).prompt;
}

char *sp_shim_chat_apply(sp_chat_templates *templates, const char *json, size_t length, uint32_t flags, size_t *size, char *why, size_t capacity) {
    char *out = nullptr;
    const bool ok = sp_shim_guarded(
        sp_shim_chat_work,
        [&] {
            const std::string request(json, length);
            if (flags & SP_CHAT_STOPS) {
                std::string stops;
                for (const std::string &stop : sp_shim_chat_params(templates, request).additional_stops) {
                    stops.append(stop.c_str(), std::strlen(stop.c_str()) + 1);
                }
                out = copy_of(stops, size);
            } else if (flags & SP_CHAT_ADD_GENERATION_PROMPT) {
                out = copy_of(sp_shim_chat_params(templates, request).prompt, size);
            } else {
                out = copy_of(without_generation_prompt(templates, request), size);
            }
        },
        why, capacity);
    return ok ? out : nullptr;
}

char *sp_shim_chat_parse(sp_chat_templates *templates, const char *json, size_t length, const char *text, size_t text_length, bool partial,
                         size_t *size, char *why, size_t capacity) {
    char *out = nullptr;
    const bool ok = sp_shim_guarded(
        sp_shim_chat_work,
        [&] {
            const common_chat_params &params = sp_shim_chat_params(templates, std::string(json, length));
            common_chat_parser_params syntax(params);
            syntax.reasoning_format = templates->reasoning;
            if (!params.parser.empty()) {
                syntax.parser.load(params.parser);
            }
            out = copy_of(common_chat_parse(std::string(text, text_length), partial, syntax).to_json_oaicompat().dump_safe(), size);
        },
        why, capacity);
    return ok ? out : nullptr;
}
