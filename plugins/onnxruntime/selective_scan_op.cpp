#include "custom_op.h"
#include "selective_scan.h"

namespace mamba_export::ort {
namespace {

struct SelectiveScan {
  using Params = SelectiveScanParams;
  static constexpr const char* kName = "SelectiveScan";

  static void read(Attributes& node, Params& params) {
    params.dt_softplus = node.boolean("dt_softplus");
    params.gated = node.boolean("gated");
    params.reverse = node.boolean("reverse");
  }

  static void resize(const Sizes& size, Params& params) {
    params.batch = size['B'];
    params.seqlen = size['T'];
    params.dim = size['D'];
    params.dstate = size['N'];
    params.ngroups = size['G'];
  }
};

}  // namespace

const OrtCustomOp* make_selective_scan(const OrtApi* api, Types types, Provider provider) {
  return make_op<SelectiveScan>(api, types, provider);
}

}  // namespace mamba_export::ort
