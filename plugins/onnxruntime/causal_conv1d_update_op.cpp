#include "causal_conv1d.h"
#include "custom_op.h"

namespace mamba_export::ort {
namespace {

struct CausalConv1dUpdate {
  using Params = CausalConv1dUpdateParams;
  static constexpr const char* kName = "CausalConv1dUpdate";
  static constexpr auto kRun = causal_conv1d_update_cpu;

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

const OrtCustomOp* make_causal_conv1d_update(const OrtApi* api, Types types) {
  return new CpuOp<CausalConv1dUpdate>(api, types);
}

}  // namespace mamba_export::ort
