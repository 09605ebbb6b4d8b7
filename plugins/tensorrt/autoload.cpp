// libmamba_tensorrt_autoload.so: registers our plugins when it is merely loaded, for programs that
// know plugin libraries only by dlopen or LD_PRELOAD.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "creators.h"
#include "log.h"
#include "plugin_base.h"

namespace mamba_export::trt {
namespace {

// TensorRT may have been loaded so that its symbols are not for all; then it is found by its name.
void* find_in_tensorrt(const char* symbol) {
  if (void* const found = dlsym(RTLD_DEFAULT, symbol)) return found;
  const char* path = nullptr;
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void* path_at) {
        const char* const slash = std::strrchr(library->dlpi_name, '/');
        const char* const name = slash == nullptr ? library->dlpi_name : slash + 1;
        if (std::strncmp(name, "libnvinfer.so", 13) != 0) return 0;
        *static_cast<const char**>(path_at) = library->dlpi_name;
        return 1;
      },
      &path);
  if (path == nullptr) return nullptr;
  void* const library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  return library == nullptr ? nullptr : dlsym(library, symbol);
}

template <class Function>
Function* function(const char* name) {
  return reinterpret_cast<Function*>(find_in_tensorrt(name));
}

// A process has one logger for its plugins.
class ProcessLogger final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override {
    auto* const get = function<nvinfer1::ILogger*()>("getLogger");
    return get == nullptr ? nullptr : get();
  }
};

bool register_all() noexcept {
  return guarded(false, [] {
    auto* const get = function<nvinfer1::IPluginRegistry*()>("getPluginRegistry");
    nvinfer1::IPluginRegistry* const registry = get == nullptr ? nullptr : get();
    if (registry == nullptr) {
      log_error(
          "no plugin was registered: load TensorRT (libnvinfer.so) before "
          "libmamba_tensorrt_autoload.so");
      return false;
    }
    static ProcessLogger logger;
    set_logger_finder(&logger);
    for (nvinfer1::IPluginCreatorInterface* const creator : creators()) {
      const auto& named = static_cast<const nvinfer1::IPluginCreatorV3One&>(*creator);
      const bool known = registry->getCreator(named.getPluginName(), named.getPluginVersion(),
                                              kNamespace) != nullptr;
      if (!known && !registry->registerCreator(*creator, kNamespace)) {
        log_error(std::string("TensorRT refused the plugin ") + named.getPluginName());
      }
    }
    return true;
  });
}

[[maybe_unused]] const bool registered = register_all();

}  // namespace
}  // namespace mamba_export::trt
