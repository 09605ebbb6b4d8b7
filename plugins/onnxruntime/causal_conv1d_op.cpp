#include "causal_conv1d.h"
#include "custom_op.h"

namespace mamba_export::ort {
namespace {

struct CausalConv1d {
  using Params = CausalConv1dParams;
  static constexpr const char* kName = "CausalConv1d";

  static void read(Attributes& node, Params& params) {
    params.silu = node.one_of("activation", {"none", "silu"}) == "silu";
  }

  static void resize(const Sizes& size, Params& params) {
    params.batch = size['B'];
    params.seqlen = size['T'];
    params.channels = size['C'];
    params.width = size['K'];
  }
};

}  // namespace

const OrtCustomOp* make_causal_conv1d(const OrtApi* api, Types types, Provider provider) {
  return make_op<CausalConv1d>(api, types, provider);
}

}  // namespace mamba_export::ort
