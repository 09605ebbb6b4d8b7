# Finds TensorRT's C++ headers. A plugin library links nothing of TensorRT.
#
#   TensorRT_ROOT                    where to look first: variable or environment variable; an
#                                    unpacked release, or a prefix such as /usr
#   TensorRTHeaders_FOUND, TensorRTHeaders_VERSION, target TensorRT::headers

find_path(TensorRTHeaders_INCLUDE_DIR NvInferRuntime.h
  HINTS "${TensorRT_ROOT}" ENV TensorRT_ROOT
  # As in a release, as in Debian packages of NVIDIA.
  PATH_SUFFIXES include include/${CMAKE_LIBRARY_ARCHITECTURE})
mark_as_advanced(TensorRTHeaders_INCLUDE_DIR)

if(TensorRTHeaders_INCLUDE_DIR)
  file(STRINGS "${TensorRTHeaders_INCLUDE_DIR}/NvInferVersion.h" _defines
    REGEX "^#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(_ENTERPRISE)? [0-9]+")
  set(TensorRTHeaders_VERSION "")
  foreach(_part MAJOR MINOR PATCH)
    string(REGEX MATCH "_${_part}(_ENTERPRISE)? ([0-9]+)" _ "${_defines}")
    list(APPEND TensorRTHeaders_VERSION "${CMAKE_MATCH_2}")
  endforeach()
  list(JOIN TensorRTHeaders_VERSION "." TensorRTHeaders_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRTHeaders
  REQUIRED_VARS TensorRTHeaders_INCLUDE_DIR
  VERSION_VAR TensorRTHeaders_VERSION)

if(TensorRTHeaders_FOUND AND NOT TARGET TensorRT::headers)
  add_library(TensorRT::headers INTERFACE IMPORTED)
  # Imported targets are system includes: their warnings are not ours.
  target_include_directories(TensorRT::headers INTERFACE "${TensorRTHeaders_INCLUDE_DIR}")
endif()
