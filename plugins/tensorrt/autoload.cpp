// libmamba_tensorrt_autoload.so: registers the plugins of libmamba_tensorrt.so when it is merely
// loaded, for programs that know plugin libraries only by dlopen or LD_PRELOAD. Where TensorRT is
// not loaded yet, it opens the one on the loader's path. A copy elsewhere, such as pip's, has
// another registry: it must be opened before.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>
#include <string_view>

#include "log.h"
#include "runtime.h"

namespace mamba_export::trt {
namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;

class ProcessLogger final : public nvinfer1::ILoggerFinder {
 public:
  explicit ProcessLogger(nvinfer1::ILogger* (*get)()) : get_(get) {}
  nvinfer1::ILogger* findLogger() override { return get_ == nullptr ? nullptr : get_(); }

 private:
  nvinfer1::ILogger* (*get_)();
};

// The plugin library; it lies beside this one. Its symbols are not for all: other libraries of
// plugins have the same.
void* open_plugins(const void* code_here) {
  Dl_info here;
  if (dladdr(code_here, &here) == 0) throw std::runtime_error("its own path is unknown");
  std::string path = here.dli_fname;
  path.resize(path.rfind('/') + 1);
  path += "libmamba_tensorrt.so";
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  return library;
}

template <class Function>
Function* function(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) throw std::runtime_error(dlerror());
  return reinterpret_cast<Function*>(found);
}

// The registry's own search logs an error for what is not there.
bool is_registered(const nvinfer1::IPluginRegistry& registry, const IPluginCreatorV3One& ours) {
  std::int32_t count = 0;
  IPluginCreatorInterface* const* const all = registry.getAllCreators(&count);
  for (std::int32_t i = 0; i < count; ++i) {
    if (std::string_view(all[i]->getInterfaceInfo().kind) != ours.getInterfaceInfo().kind) continue;
    const auto& known = static_cast<const IPluginCreatorV3One&>(*all[i]);
    if (std::string_view(known.getPluginName()) == ours.getPluginName() &&
        std::string_view(known.getPluginVersion()) == ours.getPluginVersion() &&
        std::string_view(known.getPluginNamespace()) == ours.getPluginNamespace()) {
      return true;
    }
  }
  return false;
}

void register_all() {
  Runtime runtime = Runtime::loaded();
  // Polygraphy opens plugins before it imports TensorRT; what is in LD_PRELOAD comes first of all.
  if (!runtime.found()) runtime = Runtime::opened();
  if (const std::string problem = runtime.problem(); !problem.empty()) {
    throw std::runtime_error(problem);
  }
  auto* const get = runtime.function<nvinfer1::IPluginRegistry*()>("getPluginRegistry");
  nvinfer1::IPluginRegistry* const registry = get == nullptr ? nullptr : get();
  if (registry == nullptr) throw std::runtime_error("TensorRT has no registry");

  void* const plugins = open_plugins(reinterpret_cast<const void*>(&register_all));
  static ProcessLogger logger(runtime.function<nvinfer1::ILogger*()>("getLogger"));
  function<void(nvinfer1::ILoggerFinder*)>(plugins, "setLoggerFinder")(&logger);
  std::int32_t count = 0;
  IPluginCreatorInterface* const* const all =
      function<IPluginCreatorInterface* const*(std::int32_t&)>(plugins, "getCreators")(count);
  for (std::int32_t i = 0; i < count; ++i) {
    const auto& ours = static_cast<const IPluginCreatorV3One&>(*all[i]);
    if (is_registered(*registry, ours)) continue;
    if (!registry->registerCreator(*all[i], ours.getPluginNamespace())) {
      log_error(std::string("TensorRT does not take the plugin ") + ours.getPluginName());
    }
  }
}

[[maybe_unused]] const bool registered = guarded(false, [] {
  try {
    register_all();
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string("libmamba_tensorrt_autoload.so registers nothing: ") +
                             error.what());
  }
  return true;
});

}  // namespace
}  // namespace mamba_export::trt
