// What libmamba_tensorrt.so exports, for IPluginRegistry::loadLibrary.
#include "creators.h"
#include "log.h"
#include "runtime.h"

#define MAMBA_EXPORT_VISIBLE extern "C" __attribute__((visibility("default")))

MAMBA_EXPORT_VISIBLE nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) noexcept {
  using namespace mamba_export::trt;
  count = 0;
  return guarded(static_cast<nvinfer1::IPluginCreatorInterface* const*>(nullptr), [&] {
    const auto& all = creators();
    count = static_cast<std::int32_t>(all.size());
    return all.data();
  });
}

// The finder of another major version is left alone, and errors go to standard error.
MAMBA_EXPORT_VISIBLE void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  using namespace mamba_export::trt;
  const void* const caller = __builtin_return_address(0);
  guarded(false, [&] {
    if (Runtime::calling(caller).problem().empty()) set_logger_finder(finder);
    return true;
  });
}
