#include "causal_conv1d.h"
#include "custom_op.h"

namespace mamba_export::ort {
namespace {

struct CausalConv1dUpdate {
  using Params = CausalConv1dUpdateParams;
  static constexpr const char* kName = "CausalConv1dUpdate";

  static void read(Attributes& node, Params& params) {
    params.silu = node.one_of("activation", {"none", "silu"}) == "silu";
  }

  static void resize(const Sizes& size, Params& params) {
    params.batch = size['B'];
    params.channels = size['C'];
    params.width = size['K'];
  }
};

}  // namespace

const OrtCustomOp* make_causal_conv1d_update(const OrtApi* api, Types types, Provider provider) {
  return make_op<CausalConv1dUpdate>(api, types, provider);
}

}  // namespace mamba_export::ort
