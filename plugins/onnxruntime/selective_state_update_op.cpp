#include "custom_op.h"
#include "selective_scan.h"

namespace mamba_export::ort {
namespace {

struct SelectiveStateUpdate {
  using Params = SelectiveStateUpdateParams;
  static constexpr const char* kName = "SelectiveStateUpdate";

  static void read(Attributes& node, Params& params) {
    params.dt_softplus = node.boolean("dt_softplus");
    params.gated = node.boolean("gated");
  }

  static void resize(const Sizes& size, Params& params) {
    params.batch = size['B'];
    params.dim = size['D'];
    params.dstate = size['N'];
    params.ngroups = size['G'];
  }
};

}  // namespace

const OrtCustomOp* make_selective_state_update(const OrtApi* api, Types types, Provider provider) {
  return make_op<SelectiveStateUpdate>(api, types, provider);
}

}  // namespace mamba_export::ort
