#include "creators.h"

#include "log.h"
#include "plugin.h"

namespace mamba_export::trt {
namespace {

// Makes a plugin from an ONNX node's attributes, or from the fields in an engine: the same, and
// which kernels it was built with.
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  using Make = PluginBase* (*)(std::string layer, const nvinfer1::PluginFieldCollection& fields);

  Creator(const Contract& contract, Make make)
      : contract_(contract), make_(make), fields_(declared_fields(contract)) {}

  const char* getPluginName() const noexcept override { return contract_.op; }
  const char* getPluginVersion() const noexcept override { return contract_.version; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return guarded(static_cast<PluginBase*>(nullptr), [&] {
      const nvinfer1::PluginFieldCollection none{0, nullptr};
      const auto& given = fields == nullptr ? none : *fields;
      const std::string layer = name == nullptr ? "" : name;
      if (phase == nvinfer1::TensorRTPhase::kRUNTIME) require_same_kernels(contract_, layer, given);
      return make_(layer, given);
    });
  }

 private:
  Contract contract_;
  Make make_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{static_cast<std::int32_t>(fields_.size()),
                                              fields_.data()};
};

}  // namespace

const std::vector<nvinfer1::IPluginCreatorInterface*>& creators() {
  static const std::vector<nvinfer1::IPluginCreatorInterface*> all = {
#define MAMBA_EXPORT_CREATOR(Op, kernel) new Creator(kContract<nodes::Op>, Plugin<nodes::Op>::make),
      MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_CREATOR)
#undef MAMBA_EXPORT_CREATOR
  };
  return all;
}

}  // namespace mamba_export::trt
