/* ggml-vulkan, started when it is first asked for. */
#include "device/device_impl.h"

#ifdef SP_WITH_VULKAN
#include <ggml-vulkan.h>
#include <stdlib.h>
#include <vulkan/vulkan.h>

/*
 * ggml-vulkan passes over devices of type CPU, such as Mesa's lavapipe, unless GGML_VK_VISIBLE_DEVICES names them. Where there is nothing else, name
 * the first.
 */
static bool only_cpu_devices(void) {
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    VkInstance instance;
    if (vkCreateInstance(&info, NULL, &instance) != VK_SUCCESS) {
        return false;
    }
    VkPhysicalDevice devices[16];
    uint32_t count = 16, cpus = 0;
    VkResult result = vkEnumeratePhysicalDevices(instance, &count, devices);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < count; i++) {
        VkPhysicalDeviceProperties properties;
        vkGetPhysicalDeviceProperties(devices[i], &properties);
        cpus += properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    }
    vkDestroyInstance(instance, NULL);
    return count > 0 && cpus == count;
}

static ggml_backend_reg_t registered;

static void start(void) {
    if (only_cpu_devices()) {
        setenv("GGML_VK_VISIBLE_DEVICES", "0", 0);
    }
    registered = ggml_backend_vk_reg();
}

ggml_backend_reg_t sp_vulkan_reg(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    return registered;
}

/* ---- what ggml-vulkan computes wrongly, beyond its bounds or with an assertion, and claims to support ---- */

/* Shaders read four elements at once. */
static bool in_fours(const struct ggml_tensor *t) {
    const size_t four = 4 * ggml_type_size(t->type);
    return ggml_is_quantized(t->type) || (t->nb[1] % four == 0 && t->nb[2] % four == 0 && t->nb[3] % four == 0);
}

static const char *lacks_attention(const struct ggml_tensor *t) {
    const struct ggml_tensor *mask = t->src[3];
    for (int i = 0; i < 3; i++) {
        if (!in_fours(t->src[i])) {
            return "rows of q, k and v must lie multiples of four elements apart";
        }
    }
    return mask && mask->ne[0] != t->src[1]->ne[1] ? "the mask must be as wide as there are keys" : NULL;
}

static const char *lacks_delta_net(const struct ggml_tensor *t) {
    const struct ggml_tensor *q = t->src[0], *k = t->src[1];
    return ggml_are_same_shape(q, k) && ggml_are_same_stride(q, k) ? NULL : "q and k must have the same shape and strides";
}

static const char *lacks_copy(const struct ggml_tensor *t, bool aligned) {
    if (t->type == GGML_TYPE_I64 || t->src[0]->type == GGML_TYPE_I64) {
        return "it copies no i64";
    }
    return ggml_is_quantized(t->src[0]->type) && !aligned ? "a quantised view must start where the device can bind it" : NULL;
}

/* Buffers are bound at multiples of the device's alignment; some shaders are told how far behind that a view begins. */
static bool takes_any_offset(const struct ggml_tensor *t) {
    switch (t->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_UNARY:
    case GGML_OP_GLU:
    case GGML_OP_SQR:
    case GGML_OP_SQRT:
    case GGML_OP_CLAMP:
    case GGML_OP_SCALE:
    case GGML_OP_CPY:
    case GGML_OP_CONT:
    case GGML_OP_DUP:
    case GGML_OP_REPEAT:
    case GGML_OP_SUM_ROWS:
    case GGML_OP_ADD:
    case GGML_OP_SUB:
    case GGML_OP_MUL:
    case GGML_OP_DIV:
    case GGML_OP_RMS_NORM:
    case GGML_OP_GET_ROWS:
    case GGML_OP_SET_ROWS:
    case GGML_OP_CONCAT:
    case GGML_OP_ROPE:
        return true;
    default:
        return false;
    }
}

static bool is_aligned(const struct ggml_tensor *t, size_t alignment) {
    bool aligned = t->view_offs % alignment == 0;
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        aligned &= !t->src[i] || t->src[i]->view_offs % alignment == 0;
    }
    return aligned;
}

const char *sp_vulkan_lacks(const struct ggml_tensor *node, size_t alignment) {
    const bool aligned = is_aligned(node, alignment);
    if (!aligned && !takes_any_offset(node)) {
        return "views must start where the device can bind them";
    }
    switch (node->op) {
    case GGML_OP_FLASH_ATTN_EXT:
        return lacks_attention(node);
    case GGML_OP_GATED_DELTA_NET:
        return lacks_delta_net(node);
    case GGML_OP_DSV4_HC_PRE:
        return ggml_is_contiguous(node->src[0]) && ggml_is_contiguous(node->src[1]) ? NULL : "its sources must be contiguous";
    case GGML_OP_RWKV_WKV6: /* the shaders' workgroups are heads of that size */
    case GGML_OP_RWKV_WKV7:
        return node->src[0]->ne[0] == 64 ? NULL : "the head size must be 64";
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
        return node->src[1]->type == GGML_TYPE_BF16 ? "b must be f32 or f16" : NULL;
    case GGML_OP_CPY:
    case GGML_OP_CONT:
    case GGML_OP_DUP:
        return lacks_copy(node, aligned);
    default:
        return NULL;
    }
}
#endif
