// What must hold of every case: the reference's bounds, and bits that different ways to the same
// result share. Each check throws a Failure and counts what it did.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guarded_call.h"
#include "random.h"
#include "reference.h"

namespace mamba_export::testing {

struct Counts {
  std::int64_t cases = 0;
  std::int64_t rejected = 0;     // sizes that no kernel supports: refused
  std::int64_t empty = 0;        // no element of output
  std::int64_t outputs = 0;      // elements of output, padding not counted
  std::int64_t unspecified = 0;  // of them: float32 may overflow on the way there
  std::int64_t nonfinite = 0;    // of them: must be NaN or infinite
  std::int64_t invalid = 0;      // calls that were broken on purpose: refused
  std::int64_t runs = 0;         // calls of kernels
  std::int64_t in_place = 0;     // of them: all or some that is carried on, over what it was
  std::int64_t threaded = 0;     // of them: on several threads
  std::int64_t splits = 0;       // rows run in parts or steps
  std::int64_t rows = 0;         // rows run alone
  std::int64_t chains = 0;       // cases run as several ops, one after the other
  std::int64_t compared = 0;     // elements
  double worst = 0;              // largest error in units of its bound
};

struct Column {
  const char* name;
  std::int64_t Counts::* count;
};

constexpr Column kColumns[] = {
    {"cases", &Counts::cases},
    {"rejected", &Counts::rejected},
    {"empty", &Counts::empty},
    {"outputs", &Counts::outputs},
    {"unspecified", &Counts::unspecified},
    {"nonfinite", &Counts::nonfinite},
    {"invalid", &Counts::invalid},
    {"runs", &Counts::runs},
    {"in_place", &Counts::in_place},
    {"threaded", &Counts::threaded},
    {"splits", &Counts::splits},
    {"rows", &Counts::rows},
    {"chains", &Counts::chains},
    {"compared", &Counts::compared},
};

// The outputs of a case are within their bounds, and NaN or infinite exactly where they must be.
void compare(const Case& c, const Outputs& ours, const Expected& expected, Counts& counts);

// A sequence in two parts, or token by token through the step op, leaves the same state, and a y
// within the bounds of the whole. Each row goes by itself: a step has no lengths.
void check_split(GuardedCall& guarded, const Kernels& kernels, const Case& c,
                 const Expected& expected, const Outputs& whole, Random& random, Counts& counts);

// A row gives the same bits alone and without its padding.
void check_row(GuardedCall& guarded, const Kernels& kernels, const Case& c,
               const Expected& expected, const Outputs& whole, Random& random, Counts& counts);

// Two ops in one give the bits of these two, one after the other.
void check_chain(GuardedCall& guarded, const Kernels& kernels, const Case& c, const Outputs& whole,
                 Counts& counts);

// A kernel gives the same bits in place or not, with threads and in another order of items.
// `layout` is that of the call that gave `whole`.
void check_again(GuardedCall& guarded, const Kernels& kernels, const Case& c, const Call& layout,
                 const Outputs& whole, Random& random, Counts& counts);

// Every way to spoil sizes or lengths is refused with a message.
void check_refusals(const Case& c, const std::vector<void*>& at, Random& random, Counts& counts);

}  // namespace mamba_export::testing
