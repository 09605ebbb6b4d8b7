#include "refusals.h"

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "driven_plugin.h"
#include "expressions.h"
#include "log.h"

namespace mamba_export::testing {
namespace {

using nvinfer1::DataType;

class Recorder final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity, const char* message) noexcept override { line = message; }
  nvinfer1::ILogger* findLogger() override { return this; }

  std::string line;
};

// The base case of the op: all sizes differ.
Case base(const std::string& op) {
  Case c;
  c.op = &op_named(op);
  const std::pair<char, std::int64_t> sizes[] = {{'B', 5},  {'T', 13}, {'C', 10}, {'K', 4},
                                                 {'D', 12}, {'N', 6},  {'G', 3},  {'H', 9},
                                                 {'P', 11}, {'R', 7}};
  for (const auto& [letter, size] : sizes) c.size[letter] = size;
  c.fit_channels();
  return c;
}

using Change = std::function<void(Case& c, Tensors& tensors)>;
// What a plugin is asked with the changed tensors.
enum class Step { kTypes, kShapes, kConfigure, kShapeChange, kEnqueue };

struct Mistake {
  const char* name;
  const char* op;
  Step step;
  Change change;
};

nvinfer1::PluginTensorDesc& input(const Case& c, Tensors& tensors, const char* name) {
  return tensors.all[c.op->input(name)];
}

const Mistake kMistakes[] = {
    {"rank", "CausalConv1d", Step::kShapes,
     [](Case& c, Tensors& t) { input(c, t, "x").dims.nbDims = 2; }},
    {"size", "SelectiveScan", Step::kShapes,
     [](Case& c, Tensors& t) { input(c, t, "A").dims.d[0] = 13; }},
    {"inputs", "SSDStateUpdate", Step::kShapes, [](Case&, Tensors& t) { t.inputs -= 1; }},
    {"activations of two types", "CausalConv1dUpdate", Step::kTypes,
     [](Case& c, Tensors& t) { input(c, t, "bias").type = DataType::kHALF; }},
    {"state of 16 bits", "SSDChunkScan", Step::kTypes,
     [](Case& c, Tensors& t) { input(c, t, "ssm_state").type = DataType::kHALF; }},
    {"lengths of 64 bits", "SelectiveScan", Step::kTypes,
     [](Case& c, Tensors& t) { input(c, t, "seqlens").type = DataType::kINT64; }},
    {"activations of 8 bits", "GatedRMSNorm", Step::kTypes,
     [](Case& c, Tensors& t) { input(c, t, "x").type = DataType::kINT8; }},
    {"residual stream of another type", "AddRMSNorm", Step::kTypes,
     [](Case& c, Tensors& t) { input(c, t, "hidden").type = DataType::kHALF; }},
    {"rank in a profile", "GatedRMSNorm", Step::kConfigure,
     [](Case& c, Tensors& t) { input(c, t, "weight").dims.nbDims = 0; }},
    {"width", "CausalConv1d", Step::kConfigure,
     [](Case& c, Tensors& t) {
       c.size['K'] = 9;
       t = Tensors(c, false);
     }},
    {"groups", "SSDChunkScan", Step::kShapeChange,
     [](Case& c, Tensors& t) {
       c.size['G'] = 2;
       t = Tensors(c, false);
     }},
    {"channels", "ConvSSDStateUpdate", Step::kConfigure,
     [](Case& c, Tensors& t) {
       c.size['C'] += 1;
       t = Tensors(c, false);
     }},
    {"size in a call", "SSDStateUpdate", Step::kEnqueue,
     [](Case& c, Tensors& t) { input(c, t, "ssm_state").dims.d[0] = 1; }},
};

std::int32_t ask(const DrivenPlugin& plugin, Step step, const Tensors& t) {
  switch (step) {
    case Step::kTypes: {
      std::vector<DataType> in, out(t.all.size());
      for (std::int32_t i = 0; i < t.inputs; ++i) in.push_back(t.in()[i].type);
      return plugin.builder().getOutputDataTypes(out.data(), t.outputs(), in.data(), t.inputs);
    }
    case Step::kShapes: {
      std::vector<std::unique_ptr<Dimension>> dimensions;
      std::vector<nvinfer1::DimsExprs> in, out(t.all.size());
      for (const nvinfer1::PluginTensorDesc& tensor : t.all) {
        nvinfer1::DimsExprs shape{};
        shape.nbDims = tensor.dims.nbDims;
        for (std::int32_t axis = 0; axis < shape.nbDims; ++axis) {
          dimensions.push_back(std::make_unique<Dimension>(tensor.dims.d[axis], true));
          shape.d[axis] = dimensions.back().get();
        }
        in.push_back(shape);
      }
      NoExpressions none;
      return plugin.builder().getOutputShapes(in.data(), t.inputs, nullptr, 0, out.data(),
                                              t.outputs(), none);
    }
    case Step::kConfigure: {
      std::vector<nvinfer1::DynamicPluginTensorDesc> fixed;
      for (const nvinfer1::PluginTensorDesc& tensor : t.all) {
        fixed.push_back({tensor, tensor.dims, tensor.dims, tensor.dims});
      }
      return plugin.builder().configurePlugin(fixed.data(), t.inputs, fixed.data() + t.inputs,
                                              t.outputs());
    }
    case Step::kShapeChange:
      return plugin.runtime().onShapeChange(t.in(), t.inputs, t.out(), t.outputs());
    case Step::kEnqueue: {
      const std::vector<void*> nowhere(t.all.size(), nullptr);
      return plugin.runtime().enqueue(t.in(), t.out(), nowhere.data(), nowhere.data() + t.inputs,
                                      nullptr, nullptr);
    }
  }
  return 0;
}

}  // namespace

void print_refusals() {
  Recorder recorder;
  trt::set_logger_finder(&recorder);
  const auto print = [&](const char* name, std::int32_t code) {
    std::printf("%s\t%s\n", name, code == 0 ? "nothing: it was taken" : recorder.line.c_str());
  };
  for (const Mistake& mistake : kMistakes) {
    Case c = base(mistake.op);
    const DrivenPlugin plugin(mistake.op, Fields(c), nvinfer1::TensorRTPhase::kBUILD);
    Tensors tensors(c, false);
    mistake.change(c, tensors);
    recorder.line = "nothing was said";
    print(mistake.name, ask(plugin, mistake.step, tensors));
  }
  // A call that TensorRT made without the workspace of its build.
  Case long_one = base("SSDChunkScan");
  for (const char letter : {'B', 'H', 'G'}) long_one.size[letter] = 1;
  long_one.size['T'] = 8192;
  const DrivenPlugin scan(long_one.op->name, Fields(long_one), nvinfer1::TensorRTPhase::kBUILD);
  print("no workspace", ask(scan, Step::kEnqueue, Tensors(long_one, false)));
  // A profile that does not say how long sequences get.
  auto endless = profile(long_one, false);
  endless[0].max.d[1] = -1;
  const auto operands = static_cast<std::int32_t>(long_one.op->inputs.size());
  print("no limit", scan.builder().getWorkspaceSize(endless.data(), operands,
                                                    endless.data() + operands, 2) == 0);
  // An engine of another library.
  const auto& written = *scan.runtime().getFieldsToSerialize();
  std::vector<nvinfer1::PluginField> fields(written.fields, written.fields + written.nbFields);
  fields.back().data = "0123456789ab";
  const nvinfer1::PluginFieldCollection other{written.nbFields, fields.data()};
  print("other kernels",
        creator_of(long_one.op->name)
                .createPlugin("the_layer", &other, nvinfer1::TensorRTPhase::kRUNTIME) == nullptr);
  // A profile in which a size varies that the weights fix.
  const Case c = base("SelectiveStateUpdate");
  const DrivenPlugin plugin(c.op->name, Fields(c), nvinfer1::TensorRTPhase::kBUILD);
  auto ranges = profile(c, false);
  ranges[0].min.d[1] = 3;
  const auto inputs = static_cast<std::int32_t>(c.op->inputs.size());
  print("profile",
        plugin.builder().configurePlugin(ranges.data(), inputs, ranges.data() + inputs, 2));
  trt::set_logger_finder(nullptr);
}

}  // namespace mamba_export::testing
