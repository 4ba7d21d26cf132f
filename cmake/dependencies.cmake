# The libraries underneath. Those that are pinned and built from source (third_party/build-deps.sh) lie in one prefix; the others are the system's.
# The script knows by CMAKE_PREFIX_PATH of a Wasmtime that the user has.
if(CMAKE_PREFIX_PATH)
  list(JOIN CMAKE_PREFIX_PATH ":" folders)
  set(ENV{CMAKE_PREFIX_PATH} "${folders}:$ENV{CMAKE_PREFIX_PATH}")
endif()
execute_process(COMMAND ${PROJECT_SOURCE_DIR}/third_party/build-deps.sh --print-prefix
                OUTPUT_VARIABLE SAMEPAGE_DEPS OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT EXISTS ${SAMEPAGE_DEPS}/complete)
  message(FATAL_ERROR "The pinned dependencies are not built yet: run third_party/build-deps.sh (about ten minutes on two cores).")
endif()
find_library(wasmtime_library wasmtime PATHS ${SAMEPAGE_DEPS}/lib NO_DEFAULT_PATH NO_CACHE REQUIRED)

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(jansson REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(zstd REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(sodium REQUIRED IMPORTED_TARGET libsodium)
pkg_check_modules(edit REQUIRED IMPORTED_TARGET libedit)

add_library(deps_wasmtime INTERFACE)
target_include_directories(deps_wasmtime SYSTEM INTERFACE ${SAMEPAGE_DEPS}/include)
target_link_libraries(deps_wasmtime INTERFACE ${wasmtime_library} Threads::Threads m ${CMAKE_DL_LIBS})

add_library(deps_ggml INTERFACE)
target_include_directories(deps_ggml SYSTEM INTERFACE ${SAMEPAGE_DEPS}/include)
set(ggml_libs ${SAMEPAGE_DEPS}/lib/libggml.a ${SAMEPAGE_DEPS}/lib/libggml-cpu.a)
if(SAMEPAGE_VULKAN AND EXISTS ${SAMEPAGE_DEPS}/lib/libggml-vulkan.a)
  find_package(Vulkan REQUIRED)
  set(SP_WITH_VULKAN ON)
  list(APPEND ggml_libs ${SAMEPAGE_DEPS}/lib/libggml-vulkan.a Vulkan::Vulkan)
  target_compile_definitions(deps_ggml INTERFACE SP_WITH_VULKAN)
endif()
if(EXISTS ${SAMEPAGE_DEPS}/lib/libggml-metal.a)
  list(APPEND ggml_libs ${SAMEPAGE_DEPS}/lib/libggml-metal.a "-framework Foundation" "-framework Metal" "-framework MetalKit")
  target_compile_definitions(deps_ggml INTERFACE SP_WITH_METAL)
endif()
list(APPEND ggml_libs ${SAMEPAGE_DEPS}/lib/libggml-base.a)
target_link_libraries(deps_ggml INTERFACE ${ggml_libs} Threads::Threads m ${CMAKE_DL_LIBS} stdc++)

# libllama: the vocabulary, the chat template and the shape of a model's graph; and, in benchmarks and tests, the peer and the oracle.
add_library(deps_llama INTERFACE)
target_include_directories(deps_llama SYSTEM INTERFACE ${SAMEPAGE_DEPS}/include ${SAMEPAGE_DEPS}/include/llama-common)
target_link_libraries(deps_llama INTERFACE
  ${SAMEPAGE_DEPS}/lib/libllama-common.a ${SAMEPAGE_DEPS}/lib/libllama-common-base.a ${SAMEPAGE_DEPS}/lib/libllama.a
  ${SAMEPAGE_DEPS}/lib/libcpp-httplib.a deps_ggml)
