/* libllama tells what a context takes by a C++ function whose header it does not install: declared here as llama-ext.h has it. */
#include <cstddef>
#include <llama.h>
#include <map>

#include "model/model_impl.h"

struct llama_memory_breakdown_data {
    size_t model, context, compute;
};
std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data> llama_get_memory_breakdown(const struct llama_context *context);

uint64_t sp_shim_context_bytes(const struct llama_context *context) {
    uint64_t bytes = 0;
    for (const auto &[type, part] : llama_get_memory_breakdown(context)) {
        bytes += part.context + part.compute;
    }
    return bytes;
}
