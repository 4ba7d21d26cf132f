/* llama.cpp's `common` renders chat templates (Jinja); it has a C++ interface alone. No exception leaves this file. */
#include "model/model_impl.h"

#include <chat.h>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

struct sp_chat_templates {
    common_chat_templates_ptr templates;
};

sp_chat_templates *sp_shim_chat_open(const struct llama_model *model, char *why, size_t capacity) {
    try {
        return new sp_chat_templates{common_chat_templates_init(model, "")};
    } catch (const std::exception &error) {
        std::snprintf(why, capacity, "%s", error.what());
    } catch (...) {
        std::snprintf(why, capacity, "an unknown exception");
    }
    return nullptr;
}

void sp_shim_chat_close(sp_chat_templates *templates) {
    delete templates;
}

char *sp_shim_chat_apply(const sp_chat_templates *templates, const char *const *roles, const char *const *contents, size_t count,
                         bool add_generation_prompt, char *why, size_t capacity) {
    try {
        common_chat_templates_inputs inputs;
        inputs.add_generation_prompt = add_generation_prompt;
        inputs.use_jinja = true;
        for (size_t i = 0; i < count; i++) {
            common_chat_msg message;
            message.role = roles[i];
            message.content = contents[i];
            inputs.messages.push_back(message);
        }
        const std::string prompt = common_chat_templates_apply(templates->templates.get(), inputs).prompt;
        char *text = strdup(prompt.c_str());
        if (!text) {
            std::snprintf(why, capacity, "out of memory");
        }
        return text;
    } catch (const std::exception &error) {
        std::snprintf(why, capacity, "%s", error.what());
    } catch (...) {
        std::snprintf(why, capacity, "an unknown exception");
    }
    return nullptr;
}
