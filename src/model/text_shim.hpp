/* What the shims over llama.cpp's C++ share. C++ alone. */
#ifndef SP_MODEL_TEXT_SHIM_H
#define SP_MODEL_TEXT_SHIM_H

#include "device/guard.h"
#include "model/model_impl.h"

#include <chat.h>
#include <cstdint>
#include <llama-work.h>
#include <string>

/* Steps of llama.cpp's that one call may take: some hundred milliseconds for a grammar, a second for a conversation. */
constexpr int64_t sp_shim_grammar_work = 50000000, sp_shim_chat_work = 200000000;

/* Calls f: false, with the reason, if it threw, asserted, took too much work or nested too deeply. */
template <typename F> bool sp_shim_guarded(int64_t work, F f, char *why, size_t capacity) {
    llama_work::left = work;
    const bool ok = sp_shim_guard([](void *user) { (*static_cast<F *>(user))(); }, &f, why, capacity);
    llama_work::left = INT64_MAX;
    return ok;
}

/* What the template makes of a request (a JSON text); kept until another one comes. Throws. */
const common_chat_params &sp_shim_chat_params(sp_chat_templates *templates, const std::string &request);

#endif
