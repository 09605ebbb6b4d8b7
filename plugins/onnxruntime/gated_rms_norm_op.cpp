#include "custom_op.h"
#include "gated_rms_norm.h"

namespace mamba_export::ort {
namespace {

struct GatedRMSNorm {
  using Params = GatedRMSNormParams;
  static constexpr const char* kName = "GatedRMSNorm";

  static void read(Attributes& node, Params& params) {
    params.ngroups = node.integer("ngroups");
    params.eps = node.real("eps");
    params.norm_before_gate = node.boolean("norm_before_gate");
  }

  static void resize(const Sizes& size, Params& params) {
    params.rows = size.rows();
    params.dim = size['D'];
  }
};

}  // namespace

const OrtCustomOp* make_gated_rms_norm(const OrtApi* api, Types types, Provider provider) {
  return make_op<GatedRMSNorm>(api, types, provider);
}

}  // namespace mamba_export::ort
