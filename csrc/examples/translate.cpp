// Translates an image with an exported generator, without Python:
//
//   translate GENERATOR.pt SOURCE.ppm TRANSLATED.ppm [DOMAIN]
//
// The generator is what `python -m cgcl_fast.export --format torchscript` writes. It calls cgcl_fast's ops, which
// libcgcl_fast.so registers when the program starts. DOMAIN is the index of the domain to translate to, of a generator
// that takes one (1 if not given); the style is the generator's own. Images are binary PPM (P6, 8 bits a channel), so
// the generator is one from three channels to three.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace {

// The next number of a PPM header, after blanks and comments.
int64_t header_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t number = 0;
  if (!(file >> number) || number <= 0) throw std::runtime_error("not a binary PPM image");
  return number;
}

// (1, 3, H, W) in [-1, 1]
at::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic(2, '\0');
  if (!file.read(&magic[0], 2) || magic != "P6") throw std::runtime_error(path + ": not a binary PPM image");
  const int64_t width = header_number(file), height = header_number(file), largest = header_number(file);
  if (largest != 255 || width > 1 << 16 || height > 1 << 16)
    throw std::runtime_error(path + ": expected 8 bits a channel and at most 65536 pixels a side");
  file.get();
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  if (!file.read(static_cast<char*>(pixels.mutable_data_ptr()), pixels.numel()))
    throw std::runtime_error(path + ": truncated");
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(127.5).sub(1);
}

void write_ppm(const std::string& path, const at::Tensor& image) {
  if (image.size(1) != 3)
    throw std::runtime_error(path + ": a PPM image has 3 channels, the translation " + std::to_string(image.size(1)));
  const at::Tensor pixels =
      image.squeeze(0).permute({1, 2, 0}).add(1).mul(127.5).round().clamp(0, 255).to(at::kByte).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << pixels.size(1) << " " << pixels.size(0) << "\n255\n";
  file.write(static_cast<const char*>(pixels.const_data_ptr()), pixels.numel());
  if (!file.flush()) throw std::runtime_error(path + ": could not be written");
}

// The index of a domain, from the command line.
int64_t domain_number(const std::string& text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0)
    throw std::runtime_error("DOMAIN: expected the index of a domain, got " + text);
  return number;
}

// Generators halve the size: pad to the next side that they take by reflection, as cgcl_fast.translate does, and by
// repeating the border where an image is too small to be reflected; crop afterwards.
at::Tensor translate(torch::jit::Module& generator, const at::Tensor& image, std::optional<int64_t> domain) {
  const int64_t multiple = generator.attr("multiple").toTensor().item<int64_t>();
  const auto missing = [multiple](int64_t side) {
    return std::max<int64_t>(8, (side + multiple - 1) / multiple * multiple) - side;
  };
  const int64_t height = image.size(2), width = image.size(3);
  const std::vector<int64_t> border = {0, missing(width), 0, missing(height)};
  const bool reflects = border[1] < width && border[3] < height;
  std::vector<c10::IValue> inputs = {reflects ? at::reflection_pad2d(image, border) : at::replication_pad2d(image, border)};
  if (const auto default_style = generator.find_method("default_style")) {
    const int64_t number = domain.value_or(1), domains = generator.attr("styles").toTensor().size(0);
    if (number >= domains)
      throw std::runtime_error("DOMAIN: expected less than " + std::to_string(domains) + ", got " + std::to_string(number));
    const at::Tensor index = at::scalar_tensor(number, at::kLong);
    inputs.insert(inputs.end(), {index, (*default_style)({index})});
  } else if (domain) {
    throw std::runtime_error("DOMAIN: this generator takes none");
  }
  return generator.forward(inputs).toTensor().narrow(2, 0, height).narrow(3, 0, width);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: translate GENERATOR.pt SOURCE.ppm TRANSLATED.ppm [DOMAIN]\n");
    return 2;
  }
  try {
    const at::NoGradGuard no_grad;
    torch::jit::Module generator = torch::jit::load(argv[1]);
    generator.eval();
    const auto domain = argc == 5 ? std::optional(domain_number(argv[4])) : std::nullopt;
    write_ppm(argv[3], translate(generator, read_ppm(argv[2]), domain));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "translate: %s\n", error.what());
    return 1;
  }
  return 0;
}
