# Kernels: C compiled by clang to PTX, once for each generation of cards. Run as a script for the last step: clang knows device functions alone, so
# the kernel's function is made an entry.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ ${IN} text)
  string(REGEX REPLACE "\\.visible \\.func sp_cuda_resident[ \n]*\\([^)]*\\)[ \n]*;" "" text "${text}") # declared before it is defined
  string(REGEX REPLACE "\\.visible \\.func sp_cuda_resident\\(([^)]*)\\)" ".visible .entry sp_cuda_resident(\\1)\n.maxntid 288, 1, 1\n.minnctapersm 1" text
                       "${text}")
  if(IN MATCHES "_90")
    string(REPLACE ".version 7.8" ".version 8.0" text "${text}") # clang 16 knows 7.8 at most; cp.async.bulk.prefetch came with 8.0
  endif()
  if(IN MATCHES "_90a")
    string(REPLACE ".version 8.0" ".version 8.3" text "${text}") # fence.proxy.tensormap
    string(REPLACE ".target sm_90" ".target sm_90a" text "${text}") # nor does it know what Hopper alone has
  endif()
  # A phase runs its code once: what is unrolled comes from far away, at a thousand cycles a line. Loops that shall be unrolled say so.
  string(REPLACE ".address_size 64" ".address_size 64\n.pragma \"nounroll\";" text "${text}")
  string(FIND "${text}" ".visible .entry sp_cuda_resident" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "${IN} has no sp_cuda_resident")
  endif()
  file(WRITE ${OUT} "${text}")
  return()
endif()

# sp_ptx(OUT): builds the kernels for each generation and an assembler file that embeds them.
function(sp_ptx OUT)
  set(folder ${PROJECT_BINARY_DIR}/ptx)
  file(MAKE_DIRECTORY ${folder})
  set(embedded "")
  set(texts "")
  foreach(generation 80 90 90a)
    set(text ${folder}/resident_${generation}.ptx)
    set(own "")
    if(generation STREQUAL "90a")
      set(own -DK_WGMMA)
    endif()
    string(REPLACE "a" "" number ${generation})
    add_custom_command(
      OUTPUT ${text}
      COMMAND ${SAMEPAGE_WASM_CC} --target=nvptx64-nvidia-cuda -march=sm_${number} -DK_SM=${number} ${own} -Xclang -target-feature -Xclang +ptx78 -std=gnu17
              -O2 -fno-unroll-loops -ffreestanding -nostdlib -Wall -Wextra -Werror -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include
              -I${PROJECT_SOURCE_DIR}/guest/include -MD -MF ${text}.d -MT ${text} -S -o ${text}.raw
              ${PROJECT_SOURCE_DIR}/src/device/cuda/resident.c
      COMMAND ${CMAKE_COMMAND} -DIN=${text}.raw -DOUT=${text} -P ${PROJECT_SOURCE_DIR}/cmake/ptx.cmake
      DEPENDS ${PROJECT_SOURCE_DIR}/src/device/cuda/resident.c ${PROJECT_SOURCE_DIR}/cmake/ptx.cmake
      DEPFILE ${text}.d
      COMMENT "Kernels for compute capability ${generation}"
      VERBATIM)
    list(APPEND texts ${text})
    if(APPLE)
      string(APPEND embedded ".const\n.globl _sp_cuda_ptx_${generation}\n_sp_cuda_ptx_${generation}:\n.incbin \"${text}\"\n.byte 0\n")
    else()
      string(APPEND embedded ".section .rodata\n.globl sp_cuda_ptx_${generation}\n.hidden sp_cuda_ptx_${generation}\nsp_cuda_ptx_${generation}:\n.incbin \"${text}\"\n.byte 0\n")
    endif()
  endforeach()
  if(NOT APPLE)
    string(APPEND embedded ".section .note.GNU-stack,\"\",%progbits\n")
  endif()
  file(CONFIGURE OUTPUT ${folder}/ptx.S CONTENT "${embedded}" @ONLY)
  set_source_files_properties(${folder}/ptx.S PROPERTIES OBJECT_DEPENDS "${texts}")
  set(${OUT} ${folder}/ptx.S PARENT_SCOPE)
endfunction()
