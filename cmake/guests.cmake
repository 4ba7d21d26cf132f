# Guests: C compiled to WebAssembly by clang and wasi-libc.
find_program(SAMEPAGE_WASM_CC NAMES clang-16 clang-17 clang-18 clang-19 clang REQUIRED)

# sp_guest(NAME SOURCES file... [LINK option...]): builds guest/NAME.wasm in the build folder.
function(sp_guest NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  set(out ${PROJECT_BINARY_DIR}/guest/${NAME}.wasm)
  list(TRANSFORM ARG_SOURCES PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  add_custom_command(
    OUTPUT ${out}
    COMMAND ${SAMEPAGE_WASM_CC} --target=wasm32-wasi -std=gnu17 -O2 -g0 -msimd128 -mbulk-memory -mexec-model=reactor -Wall -Wextra -Werror
            -I${PROJECT_SOURCE_DIR}/guest/include -Wl,--export-memory -Wl,-z,stack-size=262144 ${ARG_LINK} -MD -MF ${out}.d -MT ${out} -o ${out} ${ARG_SOURCES}
    DEPENDS ${ARG_SOURCES}
    COMMENT "Guest ${NAME}.wasm"
    VERBATIM)
  add_custom_target(guest_${NAME} ALL DEPENDS ${out})
endfunction()
