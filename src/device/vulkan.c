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
#endif
