#include "nodes.h"

namespace mamba_export::nodes {
namespace {

// What an op has in common with those that it consists of.

template <class Params>
void read_activation(Attributes& node, Params& params) {
  params.silu = node.one_of("activation", {"none", "silu"}) == "silu";
}

template <class Params>
void read_step_size(Attributes& node, Params& params) {
  params.dt_softplus = node.boolean("dt_softplus");
  params.dt_min = node.real("dt_min");
  params.dt_max = node.real("dt_max");
}

}  // namespace

// ---- convolution --------------------------------------------------------------------------------

void CausalConv1dUpdate::read(Attributes& node, Params& params) { read_activation(node, params); }

void CausalConv1dUpdate::resize(const Sizes& size, Params& params) {
  params.batch = size['B'];
  params.channels = size['C'];
  params.width = size['K'];
}

void CausalConv1d::read(Attributes& node, Params& params) {
  CausalConv1dUpdate::read(node, params);
}

void CausalConv1d::resize(const Sizes& size, Params& params) {
  CausalConv1dUpdate::resize(size, params);
  params.seqlen = size['T'];
}

// ---- Mamba --------------------------------------------------------------------------------------

void SelectiveStateUpdate::read(Attributes& node, Params& params) {
  params.dt_softplus = node.boolean("dt_softplus");
  params.gated = node.boolean("gated");
}

void SelectiveStateUpdate::resize(const Sizes& size, Params& params) {
  params.batch = size['B'];
  params.dim = size['D'];
  params.dstate = size['N'];
  params.ngroups = size['G'];
}

void SelectiveScan::read(Attributes& node, Params& params) {
  SelectiveStateUpdate::read(node, params);
  params.reverse = node.boolean("reverse");
}

void SelectiveScan::resize(const Sizes& size, Params& params) {
  SelectiveStateUpdate::resize(size, params);
  params.seqlen = size['T'];
}

// ---- Mamba-2 ------------------------------------------------------------------------------------

void SSDStateUpdate::read(Attributes& node, Params& params) { read_step_size(node, params); }

void SSDStateUpdate::resize(const Sizes& size, Params& params) {
  params.batch = size['B'];
  params.nheads = size['H'];
  params.headdim = size['P'];
  params.dstate = size['N'];
  params.ngroups = size['G'];
}

void SSDChunkScan::read(Attributes& node, Params& params) {
  SSDStateUpdate::read(node, params);
  node.integer("chunk_size");  // only for kernels that cannot choose their own
}

void SSDChunkScan::resize(const Sizes& size, Params& params) {
  SSDStateUpdate::resize(size, params);
  params.seqlen = size['T'];
}

void ConvSSDStateUpdate::read(Attributes& node, Params& params) {
  read_activation(node, params);
  params.ngroups = node.integer("ngroups");
  read_step_size(node, params);
}

void ConvSSDStateUpdate::resize(const Sizes& size, Params& params) {
  params.batch = size['B'];
  params.channels = size['C'];
  params.width = size['K'];
  params.nheads = size['H'];
  params.headdim = size['P'];
  params.dstate = size['N'];
}

// ---- norms --------------------------------------------------------------------------------------

void AddRMSNorm::read(Attributes& node, Params& params) { params.eps = node.real("eps"); }

void AddRMSNorm::resize(const Sizes& size, Params& params) {
  params.rows = size.rows();
  params.dim = size['D'];
}

void GatedRMSNorm::read(Attributes& node, Params& params) {
  params.ngroups = node.integer("ngroups");
  params.eps = node.real("eps");
  params.norm_before_gate = node.boolean("norm_before_gate");
}

void GatedRMSNorm::resize(const Sizes& size, Params& params) {
  params.rows = size.rows();
  params.dim = size['D'];
}

}  // namespace mamba_export::nodes
