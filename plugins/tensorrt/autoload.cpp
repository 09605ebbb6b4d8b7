// libmamba_tensorrt_autoload.so: registers our plugins when it is merely loaded, for programs that
// know plugin libraries only by dlopen or LD_PRELOAD.
#include <string>
#include <string_view>

#include "creators.h"
#include "log.h"
#include "plugin_base.h"
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

// The registry's own search logs an error for what is not there.
bool is_registered(const nvinfer1::IPluginRegistry& registry, const IPluginCreatorV3One& ours) {
  std::int32_t count = 0;
  IPluginCreatorInterface* const* const all = registry.getAllCreators(&count);
  for (std::int32_t i = 0; i < count; ++i) {
    if (std::string_view(all[i]->getInterfaceInfo().kind) != ours.getInterfaceInfo().kind) continue;
    const auto& known = static_cast<const IPluginCreatorV3One&>(*all[i]);
    if (std::string_view(known.getPluginName()) == ours.getPluginName() &&
        std::string_view(known.getPluginVersion()) == ours.getPluginVersion() &&
        std::string_view(known.getPluginNamespace()) == kNamespace) {
      return true;
    }
  }
  return false;
}

bool register_all() noexcept {
  return guarded(false, [] {
    const Runtime runtime = Runtime::loaded();
    if (const std::string problem = runtime.problem(); !problem.empty()) {
      log_error("libmamba_tensorrt_autoload.so registers nothing: " + problem);
      return false;
    }
    static ProcessLogger logger(runtime.function<nvinfer1::ILogger*()>("getLogger"));
    set_logger_finder(&logger);
    auto* const get = runtime.function<nvinfer1::IPluginRegistry*()>("getPluginRegistry");
    nvinfer1::IPluginRegistry* const registry = get == nullptr ? nullptr : get();
    if (registry == nullptr) {
      log_error("libmamba_tensorrt_autoload.so registers nothing: TensorRT has no registry");
      return false;
    }
    for (IPluginCreatorInterface* const creator : creators()) {
      const auto& ours = static_cast<const IPluginCreatorV3One&>(*creator);
      if (is_registered(*registry, ours)) continue;
      if (!registry->registerCreator(*creator, kNamespace)) {
        log_error(std::string("TensorRT does not take the plugin ") + ours.getPluginName());
      }
    }
    return true;
  });
}

[[maybe_unused]] const bool registered = register_all();

}  // namespace
}  // namespace mamba_export::trt
