# Flags shared by every target, and the two functions that the folders use: td_layer and td_add_test.

add_library(td_flags INTERFACE)
target_include_directories(td_flags INTERFACE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(td_flags INTERFACE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE _FILE_OFFSET_BITS=64
                           TD_VERSION="${PROJECT_VERSION}")
# No contraction: whether a*b+c becomes one fused operation must not depend on how a compiler unrolled a tile, or two
# tiles of one kernel would give different rows. Kernels fuse by intrinsic.
target_compile_options(td_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wvla -Wstrict-prototypes
                       -Wmissing-prototypes -Wundef -Wpointer-arith -Wwrite-strings -ffp-contract=off
                       -fvisibility=hidden -fno-math-errno -fstack-protector-strong)
target_link_libraries(td_flags INTERFACE Threads::Threads m PkgConfig::JANSSON)
if(TD_WERROR)
  target_compile_options(td_flags INTERFACE -Werror)
endif()
if(TD_SANITIZE STREQUAL "address")
  target_compile_options(td_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
                         -fno-omit-frame-pointer)
  target_link_options(td_flags INTERFACE -fsanitize=address,undefined)
elseif(TD_SANITIZE STREQUAL "thread")
  target_compile_options(td_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(td_flags INTERFACE -fsanitize=thread)
endif()
# The allocation guard of the decode path (src/base/alloc_guard.h) is there in every build but the shipped one.
if(NOT CMAKE_BUILD_TYPE STREQUAL "Release")
  target_compile_definitions(td_flags INTERFACE TD_ALLOC_GUARD=1)
endif()

# td_layer(NAME files...): one object library td_NAME; an empty list is allowed. `STD gnu17` for base and kernels.
function(td_layer name)
  cmake_parse_arguments(L "" "STD" "" ${ARGN})
  if(NOT L_UNPARSED_ARGUMENTS)
    return()
  endif()
  add_library(td_${name} OBJECT ${L_UNPARSED_ARGUMENTS})
  target_link_libraries(td_${name} PRIVATE td_flags)
  set_target_properties(td_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON C_STANDARD_REQUIRED ON)
  if(L_STD STREQUAL "gnu17")
    set_target_properties(td_${name} PROPERTIES C_STANDARD 17 C_EXTENSIONS ON)
  else()
    set_target_properties(td_${name} PROPERTIES C_STANDARD 11 C_EXTENSIONS OFF)
  endif()
  set_property(GLOBAL APPEND PROPERTY TD_LAYERS td_${name})
endfunction()

# td_program(NAME files...): an executable with the flags, the internal library and nothing installed.
function(td_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE tandem_internal td_flags)
  set_target_properties(${name} PROPERTIES C_STANDARD 11 C_EXTENSIONS OFF C_STANDARD_REQUIRED ON)
endfunction()

# td_add_test(NAME files... [LABELS ...] [TIMEOUT seconds] [ARGS ...]): a cmocka program and its ctest entry. Tests run
# in the source folder, so that they find tests/…/data and models/demo; they write only below $TMPDIR.
# Label `threads` puts a test into the ThreadSanitizer run.
function(td_add_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "LABELS;ARGS" ${ARGN})
  td_program(${name} ${T_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE PkgConfig::CMOCKA)
  add_test(NAME ${name} COMMAND ${name} ${T_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  math(EXPR T_TIMEOUT "${T_TIMEOUT} * ${TD_TEST_PATIENCE}")
  get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${folder};${T_LABELS}")
  set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT "TD_BINARY=$<TARGET_FILE:tandem_cli>" TD_TEST_SHARE=${TD_TEST_SHARE})
endfunction()
