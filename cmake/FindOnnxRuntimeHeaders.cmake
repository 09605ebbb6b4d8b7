# Finds ONNX Runtime's C and C++ headers. A library of custom ops links nothing of the runtime, and
# one built with older headers runs in newer runtimes.
#
#   ONNXRUNTIME_ROOT                 where to look first: variable or environment variable; an
#                                    unpacked release, or a prefix such as /usr
#   OnnxRuntimeHeaders_FOUND, OnnxRuntimeHeaders_VERSION (the API's), target OnnxRuntime::headers

find_path(OnnxRuntimeHeaders_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT
  # As in a release, as in Debian's libonnxruntime-dev, as in an installed source tree.
  PATH_SUFFIXES include include/onnxruntime usr/include/onnxruntime
                include/onnxruntime/core/session onnxruntime)
mark_as_advanced(OnnxRuntimeHeaders_INCLUDE_DIR)

if(OnnxRuntimeHeaders_INCLUDE_DIR)
  file(STRINGS "${OnnxRuntimeHeaders_INCLUDE_DIR}/onnxruntime_c_api.h" _version
    REGEX "^#define ORT_API_VERSION [0-9]+" LIMIT_COUNT 1)
  string(REGEX REPLACE "[^0-9]" "" _version "${_version}")
  set(OnnxRuntimeHeaders_VERSION "1.${_version}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS OnnxRuntimeHeaders_INCLUDE_DIR
  VERSION_VAR OnnxRuntimeHeaders_VERSION)

if(OnnxRuntimeHeaders_FOUND AND NOT TARGET OnnxRuntime::headers)
  add_library(OnnxRuntime::headers INTERFACE IMPORTED)
  # Imported targets are system includes: their warnings are not ours.
  target_include_directories(OnnxRuntime::headers INTERFACE "${OnnxRuntimeHeaders_INCLUDE_DIR}")
endif()
