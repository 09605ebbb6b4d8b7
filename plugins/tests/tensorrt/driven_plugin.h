// One plugin, driven as TensorRT drives it: made for a build, asked what it takes and returns,
// written into an engine, made again from that, and run in contexts.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "op_case.h"

namespace mamba_export::testing {

nvinfer1::IPluginCreatorV3One& creator_of(const std::string& op);

// The attributes of a case as the ONNX parser passes them.
class Fields {
 public:
  explicit Fields(const Case& c);
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  // Values of a collection, as an engine keeps them.
  explicit Fields(const nvinfer1::PluginFieldCollection& fields);

  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  void add(const nvinfer1::PluginField& field, std::string value);

  std::vector<std::unique_ptr<std::string>> values_;
  std::vector<std::unique_ptr<std::string>> names_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// The tensors of a case as a plugin sees them, inputs and then outputs. Any leading axes are two if
// `two_leading`, else one of all rows.
struct Tensors {
  std::vector<nvinfer1::PluginTensorDesc> all;
  std::int32_t inputs = 0;

  Tensors(const Case& c, bool two_leading);
  std::int32_t outputs() const { return static_cast<std::int32_t>(all.size()) - inputs; }
  const nvinfer1::PluginTensorDesc* in() const { return all.data(); }
  const nvinfer1::PluginTensorDesc* out() const { return all.data() + inputs; }
};

// The same as ranges: from one row and one token to `largest`; sizes that vary are not known.
std::vector<nvinfer1::DynamicPluginTensorDesc> profile(const Case& largest, bool two_leading);

// The interfaces of one plugin; each call checks what it can.
class DrivenPlugin {
 public:
  // Throws if the creator refuses.
  DrivenPlugin(const std::string& op, const Fields& fields, nvinfer1::TensorRTPhase phase);

  // Everything that a build asks. Returns the bytes of workspace for cases up to `largest`.
  std::size_t build(const Case& c, const Case& largest, bool two_leading) const;

  // The same plugin after an engine was written, and read by another process.
  DrivenPlugin from_engine() const;

  // For one of several contexts.
  DrivenPlugin in_context() const;

  // Waits for what it put on the stream. Throws if a call fails.
  void run(const Case& c, bool two_leading, const std::vector<void*>& operands, void* workspace,
           cudaStream_t stream = nullptr) const;

  nvinfer1::IPluginV3OneCore& core() const;
  nvinfer1::IPluginV3OneBuild& builder() const;
  nvinfer1::IPluginV3OneRuntime& runtime() const;

 private:
  explicit DrivenPlugin(nvinfer1::IPluginV3* plugin);

  void check_types(const Tensors& tensors) const;
  void check_shapes(const Case& c, const Tensors& tensors) const;
  void check_formats(const Tensors& tensors) const;

  std::unique_ptr<nvinfer1::IPluginV3> plugin_;
};

}  // namespace mamba_export::testing
