#include "add_rms_norm.h"
#include "custom_op.h"

namespace mamba_export::ort {
namespace {

struct AddRMSNorm {
  using Params = AddRMSNormParams;
  static constexpr const char* kName = "AddRMSNorm";

  static void read(Attributes& node, Params& params) { params.eps = node.real("eps"); }

  static void resize(const Sizes& size, Params& params) {
    params.rows = size.rows();
    params.dim = size['D'];
  }
};

}  // namespace

const OrtCustomOp* make_add_rms_norm(const OrtApi* api, Types types, Provider provider) {
  return make_op<AddRMSNorm>(api, types, provider);
}

}  // namespace mamba_export::ort
