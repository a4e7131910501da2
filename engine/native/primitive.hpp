// The base of every primitive of this folder, which runs on the CPU stream only.
#pragma once

#include <mlx/array.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/utils.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace bramley {

namespace mx = mlx::core;

class CpuPrimitive : public mx::Primitive {
 public:
  using mx::Primitive::Primitive;

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("This operation has no GPU form.");
  }

 protected:
  // Gives an output its memory.
  static void allocate(mx::array& out) { out.set_data(mx::allocator::malloc(out.nbytes())); }

  // Gives an output that stays, and is read again and again, its memory in large pages where the system has them.
  static void allocate_to_stay(mx::array& out) {
    allocate(out);
#if defined(__linux__)
    constexpr uintptr_t kPage = 2 << 20;
    const auto address = reinterpret_cast<uintptr_t>(out.data<uint8_t>());
    const uintptr_t begin = (address + kPage - 1) / kPage * kPage, end = (address + out.nbytes()) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
  }

  // Runs a callable in the order of the stream. MLX keeps the inputs' and outputs' memory until it has run, so raw
  // pointers may be captured.
  template <class Task>
  void dispatch(Task&& task) {
    mx::cpu::get_command_encoder(stream()).dispatch(std::forward<Task>(task));
  }
};

// The stream operations go to: the default one of the CPU in this thread.
inline mx::Stream cpu_stream() { return mx::default_stream(mx::Device(mx::Device::cpu)); }

}  // namespace bramley
