// Runs CUDA kernels on a CPU, so that their logic is tested where there is no GPU.
//
// The kernels' sources are compiled as C++ with this directory in front of CUDA's own headers. A
// block runs at a time; its threads are fibres that run until they meet a barrier or exchange
// values inside their warp. Nothing is modelled that needs hardware: no timing, no caches, no weak
// memory order. The order of the blocks and of their threads may be reversed: a kernel that lacks a
// barrier, or whose blocks depend on each other, then gives other numbers.
//
// A kernel whose threads wait at different barriers, or that ends while others wait, ends the
// process with a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace mamba_export::simt {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// Where the running thread is.
struct Place {
  Dim thread, block;
};

Place& here();

constexpr unsigned kWarp = 32;
constexpr std::size_t kSharedBytes = 227 * 1024;  // what a block of an H200 may have

// What the device says of itself, and the order in which it runs what is independent.
struct Device {
  int processors = 4;  // few, so that small shapes reach the routes of large ones
  int capability = 9;
  int shared_bytes = 163 * 1024;  // of a block; an A100's are too few for some shapes
  // Whether threads and blocks run from the last to the first, a warp as far as it can before the
  // next one; else all warps go from barrier to barrier together.
  bool reversed = false;
};

// The device of all calls that follow; its attributes may be changed between launches.
Device& device();

struct Launched {
  const void* kernel;
  unsigned blocks, threads;
  std::size_t shared_bytes;
};

// From now on writes down every launch in `log`; null: nowhere.
void log_launches(std::vector<Launched>* log);

// From now on runs no blocks of a grid but the first and the last `count`.
void run_outer_blocks(unsigned count);

// The block's dynamic shared memory; like the static one full of NaN when a block starts.
void* shared_memory();

// Waits for all threads of the block, or of the warp.
void block_barrier();
void warp_barrier();

// Gives `bytes` of every thread of the warp to all of them: returns them in the order of lanes.
// What is returned stays until the thread's next exchange.
const void* exchange(const void* value, std::size_t bytes);
constexpr std::size_t kExchangeBytes = 64;

// Runs `thread`, which calls `kernel`, for every thread of every block of the grid.
void run_grid(const void* kernel, Dim grid, Dim block, std::size_t shared_bytes,
              const std::function<void()>& thread);

}  // namespace mamba_export::simt
