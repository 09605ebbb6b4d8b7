// A program that exports what libnvinfer does, as far as libmamba_tensorrt_autoload.so needs it,
// and loads that library: prints what has been registered. One plugin is there before.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>
#include <vector>

namespace {

// The plugin that is there before; nobody makes one.
class Known final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection*,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return nullptr;
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return nullptr; }
  const char* getPluginName() const noexcept override { return "AddRMSNorm"; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return "mamba_export"; }
};

class Registry final : public nvinfer1::IPluginRegistry {
 public:
  using Creator = nvinfer1::IPluginCreatorInterface;

  bool registerCreator(Creator& creator, const char* space) noexcept override {
    creators_.push_back(&creator);
    const auto& named = static_cast<const nvinfer1::IPluginCreatorV3One&>(creator);
    std::printf("%s %s in %s\n", named.getPluginName(), named.getPluginVersion(), space);
    return true;
  }
  Creator* const* getAllCreators(std::int32_t* count) const noexcept override {
    *count = static_cast<std::int32_t>(creators_.size());
    return creators_.data();
  }

  // What the library does not call.
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  Creator* getCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
  bool deregisterCreator(const Creator&) noexcept override { return false; }
  nvinfer1::IPluginResource* acquirePluginResource(const char*,
                                                   nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  std::int32_t releasePluginResource(const char*) noexcept override { return 0; }
  // Only newer versions have it to override.
  Creator* const* getAllCreatorsRecursive(std::int32_t* count) noexcept {
    return getAllCreators(count);
  }
#if NV_TENSORRT_MAJOR < 11
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // that is why nothing calls them
  bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(std::int32_t*) const noexcept override {
    return nullptr;
  }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*,
                                             const char*) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
#pragma GCC diagnostic pop
#endif

 private:
  Known known_;
  std::vector<Creator*> creators_{&known_};
};

class Printer final : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override { std::printf("log: %s\n", message); }
};

}  // namespace

#define MAMBA_EXPORT_VISIBLE extern "C" __attribute__((visibility("default")))

MAMBA_EXPORT_VISIBLE nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}
MAMBA_EXPORT_VISIBLE nvinfer1::ILogger* getLogger() noexcept {
  static Printer printer;
  return &printer;
}
MAMBA_EXPORT_VISIBLE std::int32_t getInferLibMajorVersion() noexcept { return NV_TENSORRT_MAJOR; }

int main(int count, char** words) {
  for (int i = 1; i < count; ++i) {
    if (dlopen(words[i], RTLD_NOW) == nullptr) {
      std::printf("%s\n", dlerror());
      return 1;
    }
  }
  std::int32_t known = 0;
  nvinfer1::IPluginCreatorInterface* const* const all = getPluginRegistry()->getAllCreators(&known);
  auto& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(*all[known - 1]);
  const nvinfer1::PluginFieldCollection none{0, nullptr};
  return creator.createPlugin("the_layer", &none, nvinfer1::TensorRTPhase::kBUILD) == nullptr ? 0
                                                                                              : 1;
}
