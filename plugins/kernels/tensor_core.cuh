// Products of 16-bit matrices on tensor cores, and how their operands get there: copies to shared
// memory that a thread does not wait for, and loads of 8x8 matrices. Compute capability 8.0.
//
// A matrix in shared memory has rows of whole lines of 128 bytes. Its pieces of 16 bytes trade
// places inside a line by the row's number: eight rows of one column lie in different banks.
#pragma once

#include "cuda_device.cuh"

#ifndef __CUDACC__
#include "simt_tensor_core.h"
#endif

namespace mamba_export::cuda {
namespace {

using SharedAddress = std::uint32_t;

constexpr int kPiece = 8;  // elements of 16 bits
constexpr std::uint32_t kPieceBytes = 16;
constexpr std::uint32_t kLineBytes = 128;  // pieces trade places inside

// Where a piece of a matrix lies.
__device__ __forceinline__ std::uint32_t place_in(std::uint32_t row_bytes, int row, int piece) {
  return static_cast<std::uint32_t>(row) * row_bytes +
         static_cast<std::uint32_t>(piece ^ (row & 7)) * kPieceBytes;
}

#ifdef __CUDACC__

// What needs a newer device than the code is compiled for; no such launch is made.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define MAMBA_EXPORT_PTX(...) asm volatile(__VA_ARGS__)
#else
#define MAMBA_EXPORT_PTX(...) __trap()
#endif

__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char mamba_export_shared[];
  return mamba_export_shared;
}

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes, or writes zeros if they are not there.
__device__ __forceinline__ void copy_async(SharedAddress to, const void* from, bool there) {
  MAMBA_EXPORT_PTX("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                   "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void wait_for_copies() {
  MAMBA_EXPORT_PTX("cp.async.wait_all;" :: : "memory");
}

// Four matrices: lane l gives the address of row l % 8 of matrix l / 8, and receives of row l / 4
// of each the elements 2 (l % 4) and the next.
__device__ __forceinline__ void load_matrices(std::uint32_t (&m)[4], SharedAddress row) {
  MAMBA_EXPORT_PTX("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]),
                   "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(row) : "memory");
}

// The same, transposed: of column l / 4 the elements of the rows 2 (l % 4) and the next.
__device__ __forceinline__ void load_transposed(std::uint32_t (&m)[4], SharedAddress row) {
  MAMBA_EXPORT_PTX(
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]),
      "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(row) : "memory");
}

// d += a b for a [16,16], b [16,8] and d [16,8] of float32. With g = lane / 4 and i = 2 (lane % 4),
// a lane has of a the elements i and i+1 of rows g and g+8, then 8 columns further; of b those of
// rows i and i+1 of column g, then 8 rows further; of d those of columns i and i+1 of rows g, g+8.
template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4],
                                             std::uint32_t b0, std::uint32_t b1);
template <>
__device__ __forceinline__ void multiply_add<Float16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                      std::uint32_t b0, std::uint32_t b1) {
  MAMBA_EXPORT_PTX(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
      "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_add<BFloat16>(float (&d)[4], const std::uint32_t (&a)[4],
                                                       std::uint32_t b0, std::uint32_t b1) {
  MAMBA_EXPORT_PTX(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
      "r"(b1));
}

// Two numbers rounded to 16 bits, the first in the low half.
template <class T>
__device__ __forceinline__ std::uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ std::uint32_t pack<Float16>(float low, float high) {
  std::uint32_t both = 0;
  MAMBA_EXPORT_PTX("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ __forceinline__ std::uint32_t pack<BFloat16>(float low, float high) {
  std::uint32_t both = 0;
  MAMBA_EXPORT_PTX("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// 2^x to within 2 ulp, and 0 where that is no normal number: for what is rounded to 16 bits.
__device__ __forceinline__ float exp2_of_product(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#undef MAMBA_EXPORT_PTX

#else

using namespace simt::tensor_core;

#endif

template <class T>
__device__ __forceinline__ void unpack(float& low, float& high, std::uint32_t both) {
  low = to_float(T{static_cast<std::uint16_t>(both)});
  high = to_float(T{static_cast<std::uint16_t>(both >> 16)});
}

}  // namespace
}  // namespace mamba_export::cuda
