// Activation functions by the names that configurations use; see activations.cpp.
#pragma once

#include <cstdint>
#include <string>

namespace bramley {

// Elements [begin, end): out = function(gate), times up where that is not null. Any of them may be the same memory.
using Activate = void (*)(const float* gate, const float* up, float* out, int64_t begin, int64_t end);

// Throws std::invalid_argument for a name that is not known.
Activate find_activation(const std::string& name);

}  // namespace bramley
