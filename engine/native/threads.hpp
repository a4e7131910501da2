// A pool of threads that computes one operation after the other. Knows nothing of arrays.
#pragma once

#include <type_traits>

namespace bramley {

// Sets how many threads compute, the calling one included; at least 1. Waits for a running operation.
void set_threads(int number);
int threads();

// Calls body(context, part) once for each part in [0, parts), on all threads; returns when all are done.
// Parts are handed out in order, one at a time, so that a thread that is held up delays its own part only.
void run_parts(int parts, void (*body)(void*, int), void* context);

// The same with a callable: parallel(parts, [&](int part) { ... }). The callable must not throw.
template <class Body>
void parallel(int parts, Body&& body) {
  using Callable = std::remove_reference_t<Body>;
  run_parts(parts, [](void* context, int part) { (*static_cast<Callable*>(context))(part); }, &body);
}

}  // namespace bramley
