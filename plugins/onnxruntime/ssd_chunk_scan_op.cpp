#include "custom_op.h"
#include "ssd_chunk_scan.h"

namespace mamba_export::ort {
namespace {

struct SSDChunkScan {
  using Params = SSDChunkScanParams;
  static constexpr const char* kName = "SSDChunkScan";

  static void read(Attributes& node, Params& params) {
    node.integer("chunk_size");  // only for kernels that cannot choose their own
    params.dt_softplus = node.boolean("dt_softplus");
    params.dt_min = node.real("dt_min");
    params.dt_max = node.real("dt_max");
  }

  static void resize(const Sizes& size, Params& params) {
    params.batch = size['B'];
    params.seqlen = size['T'];
    params.nheads = size['H'];
    params.headdim = size['P'];
    params.dstate = size['N'];
    params.ngroups = size['G'];
  }
};

}  // namespace

const OrtCustomOp* make_ssd_chunk_scan(const OrtApi* api, Types types, Provider provider) {
  return make_op<SSDChunkScan>(api, types, provider);
}

}  // namespace mamba_export::ort
