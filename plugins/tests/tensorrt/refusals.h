// What the plugins say of mistakes in a network.
#pragma once

namespace mamba_export::testing {

// Makes each mistake and prints a line for it: its name, a tab, and what was logged.
void print_refusals();

}  // namespace mamba_export::testing
