// Translates an image with an exported generator, without Python:
//
//   translate GENERATOR.pt SOURCE.ppm TRANSLATED.ppm
//
// The generator is TorchScript and calls cgcl_fast's ops, which libcgcl_fast.so registers when the program starts. Images
// are binary PPM (P6, 8 bits a channel).
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

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
  const at::Tensor pixels =
      image.squeeze(0).permute({1, 2, 0}).add(1).mul(127.5).round().clamp(0, 255).to(at::kByte).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << pixels.size(1) << " " << pixels.size(0) << "\n255\n";
  file.write(static_cast<const char*>(pixels.const_data_ptr()), pixels.numel());
  if (!file.flush()) throw std::runtime_error(path + ": could not be written");
}

// Generators halve the size twice: pad to the next multiple of 4 by repeating the border, crop afterwards.
at::Tensor translate(torch::jit::Module& generator, const at::Tensor& image) {
  const int64_t height = image.size(2), width = image.size(3);
  const at::Tensor padded = at::replication_pad2d(image, {0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4});
  return generator.forward({padded}).toTensor().narrow(2, 0, height).narrow(3, 0, width);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: translate GENERATOR.pt SOURCE.ppm TRANSLATED.ppm\n");
    return 2;
  }
  try {
    const at::NoGradGuard no_grad;
    torch::jit::Module generator = torch::jit::load(argv[1]);
    generator.eval();
    write_ppm(argv[3], translate(generator, read_ppm(argv[2])));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "translate: %s\n", error.what());
    return 1;
  }
  return 0;
}
