// What the plugins of all ops share: everything that TensorRT asks of IPluginV3, read from the op's
// contract. A plugin keeps nothing but its attributes, so contexts need not be kept apart.
#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "contract.h"
#include "plugin_fields.h"
#include "sizes.h"

namespace mamba_export::trt {

constexpr const char* kNamespace = "mamba_export";

// Where the operands of a call are, in the contract's order.
struct Operands {
  const void* const* inputs;
  void* const* outputs;
  void* workspace;
};

class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
 public:
  // The fields have been read as attributes of the contract.
  PluginBase(const Contract& contract, std::string layer,
             const nvinfer1::PluginFieldCollection& fields);

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;

  // -- core
  const char* getPluginName() const noexcept final { return contract_.op; }
  const char* getPluginVersion() const noexcept final { return contract_.version; }
  const char* getPluginNamespace() const noexcept final { return kNamespace; }

  // -- build
  std::int32_t getNbOutputs() const noexcept final;
  std::int32_t getOutputDataTypes(nvinfer1::DataType* types, std::int32_t outputs,
                                  const nvinfer1::DataType* input_types,
                                  std::int32_t inputs) const noexcept final;
  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* input_shapes, std::int32_t inputs,
                               const nvinfer1::DimsExprs* shape_inputs,
                               std::int32_t shape_input_count, nvinfer1::DimsExprs* shapes,
                               std::int32_t outputs,
                               nvinfer1::IExprBuilder& expressions) noexcept final;
  bool supportsFormatCombination(std::int32_t position,
                                 const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 std::int32_t inputs, std::int32_t outputs) noexcept final;
  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc* out,
                               std::int32_t outputs) noexcept final;
  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc* out,
                               std::int32_t outputs) const noexcept final;
  const char* getTimingCacheID() noexcept final { return timing_cache_id_.c_str(); }
  const char* getMetadataString() noexcept final { return fields_->text().c_str(); }

  // -- runtime
  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t inputs,
                             const nvinfer1::PluginTensorDesc* out,
                             std::int32_t outputs) noexcept final;
  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                       const void* const* inputs, void* const* outputs, void* workspace,
                       cudaStream_t stream) noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  PluginBase(const PluginBase&) = default;

  virtual PluginBase* copy() const = 0;

  // Returns what is wrong with a call of these sizes, or an empty string.
  virtual std::string problem(const Sizes& sizes, Types types) const = 0;

  // Returns what suffices for every batch and sequence up to these sizes.
  virtual std::size_t most_workspace(const Sizes& sizes, Types types) const = 0;

  // Puts the op on a stream.
  virtual cudaError_t launch(const Sizes& sizes, Types types, const Operands& operands,
                             cudaStream_t stream) const = 0;

 private:
  // Runs `body`; what it throws is logged with the layer's name.
  template <class Result, class F>
  Result reported(Result failed, const F& body) const noexcept;

  void require_arity(std::int32_t inputs, std::int32_t outputs) const;
  void require_valid(const Sizes& sizes, Types types) const;
  void require_bounded(const nvinfer1::DynamicPluginTensorDesc* in) const;

  Contract contract_;
  std::string layer_;
  std::shared_ptr<const PluginFields> fields_;  // the same in all clones
  std::string timing_cache_id_;
};

}  // namespace mamba_export::trt
