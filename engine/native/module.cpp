// The extension module: one bind function per file.
#include <nanobind/nanobind.h>

#include "lanes.hpp"

namespace bramley {
void bind_activations(nanobind::module_& module);
void bind_attend(nanobind::module_& module);
void bind_choose(nanobind::module_& module);
void bind_convolution(nanobind::module_& module);
void bind_delta(nanobind::module_& module);
void bind_draw(nanobind::module_& module);
void bind_matmul(nanobind::module_& module);
void bind_norm(nanobind::module_& module);
void bind_panels(nanobind::module_& module);
void bind_state_space(nanobind::module_& module);
void bind_threads(nanobind::module_& module);
void bind_tokens(nanobind::module_& module);
}  // namespace bramley

NB_MODULE(kernels, module) {
  module.attr("path") = bramley::kPath;
  bramley::bind_activations(module);
  bramley::bind_attend(module);
  bramley::bind_choose(module);
  bramley::bind_convolution(module);
  bramley::bind_delta(module);
  bramley::bind_draw(module);
  bramley::bind_matmul(module);
  bramley::bind_norm(module);
  bramley::bind_panels(module);
  bramley::bind_state_space(module);
  bramley::bind_threads(module);
  bramley::bind_tokens(module);
}
