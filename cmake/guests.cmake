# Guests: C compiled to WebAssembly by clang and wasi-libc.
find_program(SAMEPAGE_WASM_CC NAMES clang-16 clang-17 clang-18 clang-19 clang REQUIRED)
set(SP_GUEST_COMPILE --target=wasm32-wasi -std=gnu17 -O2 -msimd128 -mbulk-memory -Wall -Wextra -Werror -I${PROJECT_SOURCE_DIR}/guest/include)
set(SP_GUEST_LINK --target=wasm32-wasi -Wl,--export-memory -Wl,-z,stack-size=262144)

# sp_guest(NAME source...): builds guest/NAME.wasm in the build folder; the target is guest_NAME. With a main it is a command, else an actor.
function(sp_guest NAME)
  set(out ${PROJECT_BINARY_DIR}/guest/${NAME}.wasm)
  set(objects "")
  set(model reactor)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN})
  foreach(source IN LISTS ARGN)
    cmake_path(ABSOLUTE_PATH source)
    cmake_path(GET source STEM stem)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${NAME}/${stem}.o)
    list(APPEND objects ${object})
    file(STRINGS ${source} main REGEX "^int main\\(")
    if(main)
      set(model command)
    endif()
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${NAME})
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${SAMEPAGE_WASM_CC} ${SP_GUEST_COMPILE} -MD -MF ${object}.d -MT ${object} -c -o ${object} ${source}
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "Guest ${NAME}: ${stem}.c"
      VERBATIM)
  endforeach()
  add_custom_command(
    OUTPUT ${out}
    COMMAND ${SAMEPAGE_WASM_CC} ${SP_GUEST_LINK} -mexec-model=${model} -o ${out} ${objects}
    DEPENDS ${objects}
    COMMENT "Guest ${NAME}.wasm"
    VERBATIM)
  add_custom_target(guest_${NAME} ALL DEPENDS ${out})
endfunction()
