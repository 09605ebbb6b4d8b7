// What libmamba_onnxruntime.so exports. Nothing else of it is visible.
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cpu_isa.h"
#include "custom_op.h"

#define MAMBA_EXPORT_VISIBLE extern "C" __attribute__((visibility("default")))

namespace mamba_export::ort {
namespace {

constexpr const char* kDomain = "mamba_export";
constexpr Types kTypes[] = {
    {ElementType::kFloat32, ElementType::kFloat32},
    {ElementType::kFloat16, ElementType::kFloat32},
    {ElementType::kBFloat16, ElementType::kFloat32},
    {ElementType::kFloat16, ElementType::kFloat16},
    {ElementType::kBFloat16, ElementType::kBFloat16},
};

// Whether an op has a kernel of its own for these types: one without a residual stream knows one
// type only.
constexpr bool differs_by(const Contract& contract, Types types) {
  return types.residual == ElementType::kFloat32 || has_residual(contract);
}

std::vector<const OrtCustomOp*> make_ops(const OrtApi* api) {
  std::vector<const OrtCustomOp*> ops;
#define MAMBA_EXPORT_OP(op, root, version)                     \
  for (const Provider provider : kProviders) {                 \
    for (const Types types : kTypes) {                         \
      if (!differs_by(contract_of(#op), types)) continue;      \
      ops.push_back(make_op<nodes::op>(api, types, provider)); \
    }                                                          \
  }
#define MAMBA_EXPORT_INPUT(op, name, element, axes)
#define MAMBA_EXPORT_OUTPUT(op, name, element, axes)
#define MAMBA_EXPORT_ATTRIBUTE(op, name, type)
#include "op_contract.inc"
#undef MAMBA_EXPORT_OP
#undef MAMBA_EXPORT_INPUT
#undef MAMBA_EXPORT_OUTPUT
#undef MAMBA_EXPORT_ATTRIBUTE
  return ops;
}

// Returns the domain of our ops for one runtime. A process can have two, such as onnxruntime and
// the copy inside onnxruntime-genai. Sessions refer to it, so it lives as long as the process.
OrtCustomOpDomain* domain_for(const OrtApi& api) {
  static std::mutex mutex;
  static auto* const domains = new std::map<const OrtApi*, OrtCustomOpDomain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& domain = (*domains)[&api];
  if (domain == nullptr) {
    OrtCustomOpDomain* made = nullptr;
    require_ok(api, api.CreateCustomOpDomain(kDomain, &made));
    for (const OrtCustomOp* op : make_ops(&api)) require_ok(api, api.CustomOpDomain_Add(made, op));
    domain = made;
  }
  return domain;
}

const char* type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return "bfloat16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    default:
      return "unknown";
  }
}

std::string tensor_text(const TensorSpec& spec, ONNXTensorElementDataType type) {
  return std::string(spec.name) + " " + type_name(type) + "[" + spec.axes.text + "]";
}

// One line for every op and provider that is registered; counts and types are what the runtime is
// told.
std::string describe(const OrtCustomOp& op) {
  const Contract contract = contract_of(op.GetName(&op));
  std::string text = std::string(contract.op) + " v" + contract.version + " " +
                     op.GetExecutionProviderType(&op) + ":";
  for (std::size_t i = 0; i < op.GetInputTypeCount(&op); ++i) {
    text += " " + tensor_text(contract.inputs[i], op.GetInputType(&op, i));
  }
  text += " ->";
  for (std::size_t i = 0; i < op.GetOutputTypeCount(&op); ++i) {
    text += " " + tensor_text(contract.outputs[i], op.GetOutputType(&op, i));
  }
  text += ";";
  for (const AttributeSpec& attribute : contract.attributes) {
    text += std::string(" ") + attribute.name + " " + attribute.type;
  }
  return text + "\n";
}

}  // namespace
}  // namespace mamba_export::ort

MAMBA_EXPORT_VISIBLE OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                               const OrtApiBase* base) {
  using namespace mamba_export::ort;
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    const OrtApi* oldest = base->GetApi(1);
    return guarded(*oldest, [&] {
      throw Ort::Exception(std::string("libmamba_onnxruntime.so needs ONNX Runtime 1.") +
                               std::to_string(ORT_API_VERSION) + " or newer, found " +
                               base->GetVersionString(),
                           ORT_FAIL);
    });
  }
  return guarded(*api,
                 [&] { require_ok(*api, api->AddCustomOpDomain(options, domain_for(*api))); });
}

// Returns what the library registers, one op and choice of types a line.
MAMBA_EXPORT_VISIBLE const char* mamba_export_contract() {
  using namespace mamba_export::ort;
  try {
    static const std::vector<const OrtCustomOp*> ops = make_ops(nullptr);
    static const std::string text = [] {
      std::string lines;
      for (const OrtCustomOp* op : ops) lines += describe(*op);
      return lines;
    }();
    return text.c_str();
  } catch (...) {
    return "";
  }
}

// Returns the instruction set that the CPU kernels use on this machine.
MAMBA_EXPORT_VISIBLE const char* mamba_export_cpu_isa() { return mamba_export::cpu_kernels().isa; }
