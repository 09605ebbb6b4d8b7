#include "runtime.h"

#include <NvInferVersion.h>
#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace mamba_export::trt {
namespace {

constexpr const char* kVersion = "getInferLibMajorVersion";

// A library that is loaded already; it stays, because its user does.
void* open_loaded(const char* path) { return dlopen(path, RTLD_LAZY | RTLD_NOLOAD); }

}  // namespace

Runtime Runtime::calling(const void* code) {
  Dl_info place;
  if (dladdr(code, &place) != 0) {
    const Runtime caller(open_loaded(place.dli_fname));
    if (caller.find(kVersion) != nullptr) return caller;
  }
  return loaded();
}

Runtime Runtime::loaded() {
  void* const program = open_loaded(nullptr);
  if (dlsym(program, "getPluginRegistry") != nullptr) return Runtime(program);
  // The loader's lock is held while it lists libraries: opening one there may wait for ever.
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* loaded, std::size_t, void* found) noexcept {
        const char* const slash = std::strrchr(loaded->dlpi_name, '/');
        const char* const name = slash == nullptr ? loaded->dlpi_name : slash + 1;
        if (std::strncmp(name, "libnvinfer.so", 13) != 0) return 0;
        *static_cast<std::string*>(found) = loaded->dlpi_name;
        return 1;
      },
      &path);
  return Runtime(path.empty() ? nullptr : open_loaded(path.c_str()));
}

Runtime Runtime::opened() {
  const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  return Runtime(dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL));
}

bool Runtime::found() const { return find(kVersion) != nullptr; }

std::string Runtime::problem() const {
  auto* const version = function<std::int32_t()>(kVersion);
  if (version == nullptr) {
    return "TensorRT is not loaded, and libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR) +
           " not found: load it first, or give its folder in LD_LIBRARY_PATH";
  }
  if (version() == NV_TENSORRT_MAJOR) return "";
  return "built for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ", found version " +
         std::to_string(version()) + ": build it with the headers of that (TensorRT_ROOT)";
}

void* Runtime::find(const char* name) const {
  return library_ == nullptr ? nullptr : dlsym(library_, name);
}

}  // namespace mamba_export::trt
