/*
 * Debian 12's Vulkan headers (1.3.239) lack what VK_EXT_layer_settings later added and ggml-vulkan uses. Included by force before ggml-vulkan.cpp.
 * ggml's header comes first: it sets the dynamic dispatcher, and vulkan.hpp without it breaks the library at load.
 */
#pragma once
#include "ggml-vulkan/ggml-vulkan-types.h"

#if VK_HEADER_VERSION < 272
#include <type_traits>
#include <vector>

#define VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT ((VkStructureType)1000496000)

namespace vk {

enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char *pLayerName;
    const char *pSettingName;
    LayerSettingTypeEXT type;
    uint32_t valueCount;
    const void *pValues;
};

struct LayerSettingsCreateInfoEXT {
    VkStructureType sType = VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT;
    const void *pNext = nullptr;
    uint32_t settingCount;
    const LayerSettingEXT *pSettings;
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &settings)
        : settingCount((uint32_t)settings.size()), pSettings(settings.data()) {}
};

} // namespace vk
#endif
