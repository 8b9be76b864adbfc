#include "photograph.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>  // before jpeglib.h, which needs it
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "errors.h"

#ifdef WITH_JPEG
#include <jpeglib.h>

#include <csetjmp>
#endif
#ifdef WITH_PNG
#include <png.h>
#endif

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int64_t kMaxSide = 1 << 15;

Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path)) fail("cannot read the photograph ", path);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

bool starts_with(const Bytes& bytes, const std::string& start) {
  return bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin(),
                                                    [](char a, uint8_t b) { return uint8_t(a) == b; });
}

// Rows of interleaved channels as a tensor of planes, which owns its memory.
at::Tensor to_planes(Bytes& pixels, int64_t height, int64_t width, int64_t channels) {
  return at::from_blob(pixels.data(), {height, width, channels}, at::kByte).permute({2, 0, 1}).contiguous();
}

at::Tensor decode_ppm(const std::string& path, Bytes& bytes) {
  // P6, width, height and the brightest value, between blanks and comments; then one blank and the pixels.
  std::istringstream stream(std::string(bytes.begin(), bytes.end()));
  stream.ignore(2);
  int64_t values[3] = {};
  for (auto& value : values) {
    while ((stream >> std::ws).peek() == '#') stream.ignore(int64_t(bytes.size()), '\n');
    stream >> value;
  }
  const auto [width, height, brightest] = values;
  if (!stream || width < 1 || height < 1 || width > kMaxSide || height > kMaxSide) fail(path, " is a PPM without a valid size");
  if (brightest != 255) fail(path, " has values up to ", brightest, "; a PPM with values up to 255 can be read");
  const size_t start = size_t(stream.tellg()) + 1, count = size_t(width * height * 3);
  if (bytes.size() < start + count) fail(path, " is cut short: ", width, " x ", height, " pixels need ", start + count, " bytes");
  bytes.erase(bytes.begin(), bytes.begin() + int64_t(start));
  return to_planes(bytes, height, width, 3);
}

#ifdef WITH_JPEG
// The orientation that the photograph's EXIF segment names, 1 to 8; 1, upright, where there is none.
int orientation(const uint8_t* exif, size_t size) {
  const bool little = size >= 14 && exif[6] == 'I';  // after "Exif", two zeros
  const auto read = [&](size_t at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes && at + i < size; ++i) value |= uint32_t(exif[at + i]) << 8 * (little ? i : bytes - 1 - i);
    return value;
  };
  if (size < 14 || std::string(exif, exif + 4) != "Exif") return 1;
  const size_t table = 6 + size_t(read(10, 4));
  for (uint32_t entry = 0; entry < read(table, 2); ++entry) {
    const size_t at = table + 2 + 12 * size_t(entry);
    if (at + 12 > size) break;
    if (read(at, 2) == 0x0112) return int(read(at + 8, 2));
  }
  return 1;
}

at::Tensor upright(at::Tensor image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  if (orientation >= 5) image = image.transpose(1, 2);
  if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) image = image.flip(2);
  if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) image = image.flip(1);
  return image.contiguous();
}

// libjpeg reports an error by a function that must not return.
struct JpegErrors {
  jpeg_error_mgr manager;
  std::jmp_buf resume;
  char message[JMSG_LENGTH_MAX];

  static void leave(j_common_ptr decoder) {
    auto* self = reinterpret_cast<JpegErrors*>(decoder->err);
    decoder->err->format_message(decoder, self->message);
    std::longjmp(self->resume, 1);
  }
  static void warn(j_common_ptr decoder, int level) {
    if (level < 0) leave(decoder);  // a warning is of damaged data
  }
};

at::Tensor decode_jpeg(const std::string& path, const Bytes& bytes) {
  jpeg_decompress_struct decoder;
  JpegErrors errors;
  Bytes pixels;
  decoder.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = JpegErrors::leave;
  errors.manager.emit_message = JpegErrors::warn;
  jpeg_create_decompress(&decoder);
  if (setjmp(errors.resume)) {
    jpeg_destroy_decompress(&decoder);
    fail(path, " is damaged or no JPEG of colours or greys: ", errors.message);
  }
  jpeg_mem_src(&decoder, bytes.data(), bytes.size());
  jpeg_save_markers(&decoder, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&decoder, TRUE);
  decoder.out_color_space = JCS_RGB;
  jpeg_start_decompress(&decoder);
  const int64_t height = decoder.output_height, width = decoder.output_width;
  pixels.resize(size_t(height * width * 3));
  while (decoder.output_scanline < decoder.output_height) {
    uint8_t* row = pixels.data() + size_t(decoder.output_scanline) * width * 3;
    jpeg_read_scanlines(&decoder, &row, 1);
  }
  const int turn = !decoder.marker_list ? 1 : orientation(decoder.marker_list->data, decoder.marker_list->data_length);
  jpeg_finish_decompress(&decoder);
  jpeg_destroy_decompress(&decoder);
  return upright(to_planes(pixels, height, width, 3), turn);
}
#endif

#ifdef WITH_PNG
at::Tensor decode_png(const std::string& path, const Bytes& bytes) {
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  Bytes pixels;
  if (png_image_begin_read_from_memory(&image, bytes.data(), bytes.size())) {
    image.format = PNG_FORMAT_RGBA;
    image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
    pixels.resize(PNG_IMAGE_SIZE(image));
    png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr);
  }
  if (PNG_IMAGE_FAILED(image)) fail(path, " is a damaged PNG: ", image.message);
  const at::Tensor planes = to_planes(pixels, image.height, image.width, 4);
  // Laid over white, as viewers show it: the colours hidden under transparency are arbitrary.
  const at::Tensor alpha = planes.narrow(0, 3, 1).to(at::kFloat).div(255);
  return planes.narrow(0, 0, 3).to(at::kFloat).sub(255).mul(alpha).add(255).round().to(at::kByte);
}
#endif

}  // namespace

at::Tensor read_photograph(const std::string& path) {
  Bytes bytes = read_file(path);
  if (starts_with(bytes, "P6")) return decode_ppm(path, bytes);
#ifdef WITH_JPEG
  if (starts_with(bytes, "\xFF\xD8")) return decode_jpeg(path, bytes);
#endif
#ifdef WITH_PNG
  if (starts_with(bytes, "\x89PNG")) return decode_png(path, bytes);
#endif
  fail(path, " is in no format that this program was built for; convert it to PPM: convert ", path, " photograph.ppm");
}
