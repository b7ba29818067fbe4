#include "models/training/shapes_clips.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <sstream>

#include "core/error.h"
#include "core/text.h"
#include "models/training/sample_order.h"

namespace frameshard {
namespace {

using std::numbers::pi;

struct Colour {
  const char* name;
  double red, green, blue;
};
// The last kUnusual ones are drawn only where they are asked for.
constexpr Colour kColours[] = {
    {"red", .90, .12, .14},    {"green", .10, .70, .22},  {"blue", .13, .30, .93}, {"yellow", .98, .86, .12},
    {"orange", .98, .52, .08}, {"purple", .55, .16, .75}, {"cyan", .10, .80, .86}, {"pink", .98, .48, .70},
    {"white", .97, .97, .97},  {"black", .03, .03, .03},  {"lime", .62, .98, .05}, {"brown", .45, .25, .10},
    {"magenta", .90, .05, .70}};
constexpr Colour kGrounds[] = {{"black", .04, .04, .05}, {"white", .95, .95, .94}, {"gray", .50, .50, .52},
                               {"navy", .05, .08, .28},  {"beige", .90, .83, .69}, {"teal", .03, .36, .38}};
constexpr const char* kShapes[] = {"circle", "square", "triangle", "star",   "ring",
                                   "cross",  "heart",  "diamond",  "hexagon"};
constexpr const char* kMotions[] = {"moving left", "moving right",  "moving up", "moving down",
                                    "bouncing",    "spinning",      "growing",   "shrinking",
                                    "circling",    "standing still"};
constexpr size_t kUnusual = 3;  // colours, and shapes too

// Colours that can hardly be seen on a ground.
constexpr std::array<const char*, 2> kClashes[] = {
    {"black", "black"}, {"white", "white"}, {"cyan", "teal"},  {"blue", "navy"},  {"yellow", "beige"},
    {"white", "beige"}, {"black", "navy"},  {"green", "teal"}, {"purple", "navy"}};

const Colour& named(std::span<const Colour> colours, const std::string& name) {
  for (const Colour& colour : colours) {
    if (colour.name == name) return colour;
  }
  fail(ExitCode::internal, "no colour {}", name);
}

std::vector<std::string> names(std::span<const Colour> colours) {
  std::vector<std::string> names;
  for (const Colour& colour : colours) names.emplace_back(colour.name);
  return names;
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool clashes(const std::string& colour, const std::string& ground) {
  return std::any_of(std::begin(kClashes), std::end(kClashes),
                     [&](const auto& pair) { return pair[0] == colour && pair[1] == ground; });
}

/// Random numbers of one clip. Not the standard library's, whose distributions differ between libraries.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : seed_(seed) {}
  double uniform(double low, double high) {
    constexpr double k2To53 = 9007199254740992.0;
    return low + (high - low) * (double(next() >> 11) / k2To53);
  }
  template <class List>
  const auto& choice(const List& list) {
    return std::data(list)[next() % std::size(list)];
  }

 private:
  uint64_t next() { return sample_seed(seed_, count_++); }
  uint64_t seed_;
  int64_t count_ = 0;
};

ShapePath draw_path(const std::string& motion, Numbers& numbers) {
  ShapePath path;
  path.x = numbers.uniform(-.45, .45);
  path.y = numbers.uniform(-.45, .45);
  path.radius = numbers.uniform(.24, .36);
  path.span = numbers.uniform(.9, 1.3);
  path.angle = numbers.uniform(0, 2 * pi);
  path.phase = numbers.uniform(0, 2 * pi);
  path.direction = numbers.choice(std::array{-1.0, 1.0});
  path.turns =
      motion == "bouncing" ? numbers.choice(std::array{2.0, 3.0}) : numbers.choice(std::array{1.0, 1.5});
  return path;
}

struct Point {
  at::Tensor x, y;
};

/// https://iquilezles.org/articles/distfunctions2d/, scaled to the circle's size; its y points up.
at::Tensor heart(const Point& p, double r) {
  const double scale = 1.7 * r;
  const at::Tensor x = p.x.abs() / scale, y = .55 - p.y / scale;
  const auto squares = [](const at::Tensor& a, const at::Tensor& b) { return a * a + b * b; };
  const at::Tensor lobe = squares(x - .25, y - .75).sqrt() - std::sqrt(2.0) / 4;
  const at::Tensor half = (x + y).clamp_min(0) / 2;
  const at::Tensor tip = at::minimum(squares(x, y - 1), squares(x - half, y - half)).sqrt() * (x - y).sign();
  return scale * at::where(x + y > 1, lobe, tip);
}

/// The distance to the shape's edge, negative inside, of points around its middle.
at::Tensor distance(const std::string& shape, const Point& p, double r) {
  const at::Tensor x = p.x.abs(), y = p.y.abs();
  const double k = std::sqrt(3.0) / 2;
  if (shape == "square") return at::maximum(x, y) - .86 * r;
  if (shape == "triangle") return at::maximum(k * x - .5 * p.y, p.y) - .5 * r;  // its point is up
  if (shape == "cross") {
    return at::minimum(at::maximum(x - .33 * r, y - r), at::maximum(x - r, y - .33 * r));
  }
  if (shape == "heart") return heart(p, r);
  if (shape == "diamond") return (x + .65 * y - .65 * r) / std::sqrt(1 + .65 * .65);
  if (shape == "hexagon") return at::maximum(k * x + .5 * y, y) - .88 * r;
  const at::Tensor length = (p.x * p.x + p.y * p.y + 1e-9).sqrt();
  if (shape == "circle") return length - r;
  if (shape == "ring") return (length - .78 * r).abs() - .22 * r;
  require(shape == "star", "no shape {}", shape);
  return length - r * (.72 + .28 * at::cos(5 * at::atan2(p.x, -p.y))) * 1.05;
}

at::Tensor rgb(const Colour& colour) {
  return at::tensor({colour.red, colour.green, colour.blue}).to(at::kFloat).view({3, 1, 1});
}

/// Draws an object over `picture` [3, height, width]; `grid` [1, width] and [height, 1].
void draw_object(const ShapeObject& object, double time, const Point& grid, double shorter,
                 at::Tensor& picture) {
  const ShapePlace place = object.at(time);
  const at::Tensor dx = grid.x - place.x, dy = grid.y - place.y;
  const double c = std::cos(place.angle), s = std::sin(place.angle);
  const at::Tensor d = distance(object.shape, {c * dx + s * dy, c * dy - s * dx}, place.radius);
  const at::Tensor cover = at::sigmoid(-.9 * shorter * d);  // a soft edge of about a pixel
  const at::Tensor shade = 1 - .22 * ((dx + dy) / (2 * place.radius)).clamp(-1, 1);
  const at::Tensor colour = (rgb(named(kColours, object.colour)) * shade).clamp(0, 1);
  picture = picture * (1 - cover) + colour * cover;
}

std::string article(const std::string& word) {
  return std::string("aeiou").find(word[0]) == std::string::npos ? "a " : "an ";
}

[[noreturn]] void fail_unknown(const std::string& word, std::span<const std::vector<std::string>> kinds) {
  std::vector<std::string> all;
  for (const auto& kind : kinds) all.insert(all.end(), kind.begin(), kind.end());
  const std::string meant = closest_word(word, all);
  fail(ExitCode::config,
       "data.procedural.only: {} is no colour ({}), shape ({}), motion ({}) or ground ({}){}",
       quote_for_message(word), fmt::join(kinds[0], ", "), fmt::join(kinds[1], ", "),
       fmt::join(kinds[2], ", "), fmt::join(kinds[3], ", "),
       meant.empty() ? "" : fmt::format("; did you mean \"{}\"?", meant));
}

}  // namespace

ShapePlace ShapeObject::at(double time) const {
  ShapePlace place{path.x, path.y, path.radius, 0};
  const double way = (time - .5) * path.span;
  if (motion == "moving left") place.x = -way;
  if (motion == "moving right") place.x = way;
  if (motion == "moving up") place.y = -way;
  if (motion == "moving down") place.y = way;
  if (motion == "bouncing") place.y = .55 - std::abs(std::sin(pi * path.turns * time + .3));
  if (motion == "spinning") place.angle = path.angle + 2 * pi * path.turns * time;
  if (motion == "growing") place.radius = .12 + .38 * time;
  if (motion == "shrinking") place.radius = .50 - .38 * time;
  if (motion == "circling") {
    const double angle = path.phase + path.direction * 2 * pi * time;
    place.x = .45 * std::cos(angle);
    place.y = .45 * std::sin(angle);
  }
  return place;
}

std::string ShapesClip::caption() const {
  std::string text;
  for (const ShapeObject& object : objects) {
    text += fmt::format("{}{}{} {} {}", text.empty() ? "" : " and ", article(object.colour), object.colour,
                        object.shape, object.motion);
  }
  return fmt::format("{} on {}{} background", text, article(ground), ground);
}

ShapesChoice::ShapesChoice(std::string_view only) {
  const std::array kinds{names(kColours), std::vector<std::string>(std::begin(kShapes), std::end(kShapes)),
                         std::vector<std::string>(std::begin(kMotions), std::end(kMotions)), names(kGrounds)};
  const std::array chosen{&colours_, &shapes_, &motions_, &grounds_};
  std::istringstream stream{std::string(only)};
  for (std::string word, second; stream >> word;) {
    // "moving left" and "standing still" are two words.
    if ((word == "moving" || word == "standing") && stream >> second) word += " " + second;
    const auto kind =
        std::find_if(kinds.begin(), kinds.end(), [&](auto& known) { return contains(known, word); });
    if (kind == kinds.end()) fail_unknown(word, kinds);
    chosen[size_t(kind - kinds.begin())]->push_back(word);
  }
  one_object_ = !(colours_.empty() && shapes_.empty() && motions_.empty() && grounds_.empty());
  for (size_t i = 0; i < kinds.size(); ++i) {
    const size_t usual = kinds[i].size() - (i < 2 ? kUnusual : 0);
    if (chosen[i]->empty()) chosen[i]->assign(kinds[i].begin(), kinds[i].begin() + std::ptrdiff_t(usual));
  }
  std::erase_if(grounds_, [&](const std::string& ground) {
    return std::all_of(colours_.begin(), colours_.end(),
                       [&](auto& colour) { return clashes(colour, ground); });
  });
  if (grounds_.empty()) {
    fail(ExitCode::config,
         "procedural.only: {} could not be seen: its colour is about its ground's; name another ground, "
         "or none",
         quote_for_message(only));
  }
}

ShapesClip ShapesChoice::draw(uint64_t seed, int64_t index) const {
  Numbers numbers(sample_seed(seed, index));
  constexpr double two_objects = .4;
  ShapesClip clip{.ground = numbers.choice(grounds_), .objects = {}};
  const size_t count = !one_object_ && numbers.uniform(0, 1) < two_objects ? 2 : 1;
  while (clip.objects.size() < count) {
    ShapeObject object{.colour = numbers.choice(colours_), .shape = {}, .motion = {}, .path = {}};
    const bool same = !clip.objects.empty() && clip.objects[0].colour == object.colour;
    if (same || clashes(object.colour, clip.ground)) continue;
    object.shape = numbers.choice(shapes_);
    object.motion = numbers.choice(motions_);
    object.path = draw_path(object.motion, numbers);
    clip.objects.push_back(std::move(object));
  }
  return clip;
}

at::Tensor render(const ShapesClip& clip, const ClipSize& size) {
  const double shorter = double(std::min(size.height, size.width));
  const auto axis = [&](int64_t pixels) {  // of a square from -1 to 1, corner to corner
    return (at::arange(pixels, at::kFloat) - double(pixels - 1) / 2) * (2 / std::max(shorter - 1, 1.0));
  };
  const Point grid{axis(size.width).view({1, -1}), axis(size.height).view({-1, 1})};
  const at::Tensor down = at::linspace(0, 1, size.height, at::kFloat).view({1, -1, 1});
  const at::Tensor ground =
      (rgb(named(kGrounds, clip.ground)) * (1 - .12 * down)).expand({3, size.height, size.width});
  const at::Tensor frames = at::empty({1, 3, size.frames, size.height, size.width});
  // Frame by frame: the intermediate tensors of a whole clip would be many times its size.
  for (int64_t i = 0; i < size.frames; ++i) {
    const double time = size.frames == 1 ? .5 : double(i) / double(size.frames - 1);
    at::Tensor picture = ground;
    for (const ShapeObject& object : clip.objects) draw_object(object, time, grid, shorter, picture);
    frames.select(2, i).squeeze(0).copy_(picture * 2 - 1);
  }
  return frames;
}

}  // namespace frameshard
