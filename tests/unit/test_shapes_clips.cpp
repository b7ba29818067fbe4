// Clips that are drawn: the pixels of the script that drew what the shapes checkpoint was trained on, and
// what may be asked for.
#include <set>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "core/error.h"
#include "models/training/dataset.h"
#include "models/training/shapes_clips.h"
#include "tests/support/catch.h"
#include "tests/support/failure.h"

namespace frameshard {
namespace {

using namespace test;

struct Pixel {
  int64_t frame, y, x;
  std::vector<float> rgb;
};

struct Known {
  ShapesClip clip;
  std::string caption;
  std::vector<Pixel> pixels;
  double mean, mean_square;
};

// Values of the Python script's render(), at 5 frames of 32x32, with these paths in the place of random ones.
const std::vector<Known>& known_clips() {
  static const std::vector<Known> clips{
      {{"gray",
        {{"red", "star", "spinning", {.x = .1, .y = -.2, .radius = .3, .angle = .5, .turns = 1.5}},
         {"blue", "ring", "moving left", {.x = .05, .y = .25, .radius = .26, .span = 1.2}}}},
       "a red star spinning and a blue ring moving left on a gray background",
       {{0, 0, 0, {0.000000, 0.000000, 0.040000}},
        {0, 16, 16, {0.061367, -0.178593, -0.141005}},
        {2, 10, 20, {0.003644, -0.076349, -0.037834}},
        {2, 16, 12, {-0.137262, -0.127821, 0.129371}},
        {4, 20, 9, {-0.597523, -0.364146, 0.509682}},
        {4, 31, 31, {-0.120000, -0.120000, -0.084800}},
        {3, 14, 17, {0.524145, -0.578988, -0.540094}}},
       -0.0570534,
       0.0316470},
      {{"beige",
        {{"green", "triangle", "bouncing", {.x = -.3, .y = .1, .radius = .33, .turns = 3}},
         {"purple", "square", "circling", {.radius = .28, .phase = .7, .direction = -1}}}},
       "a green triangle bouncing and a purple square circling on a beige background",
       {{0, 0, 0, {0.800000, 0.660000, 0.380000}},
        {0, 16, 16, {0.647362, 0.423690, 0.354778}},
        {2, 10, 20, {0.730160, 0.595678, 0.326484}},
        {2, 16, 12, {0.619730, 0.443792, 0.289456}},
        {4, 20, 9, {-0.660782, 0.447469, -0.472350}},
        {4, 31, 31, {0.583999, 0.460798, 0.214400}},
        {3, 14, 17, {0.531769, 0.515193, 0.201164}}},
       0.4577002,
       0.2748397},
      {{"teal",
        {{"orange", "cross", "growing", {.x = .2, .y = .1}},
         {"white", "circle", "standing still", {.x = -.35, .y = -.3, .radius = .25}}}},
       "an orange cross growing and a white circle standing still on a teal background",
       {{0, 0, 0, {-0.940000, -0.280000, -0.240000}},
        {0, 16, 16, {-0.550779, -0.205260, -0.391132}},
        {2, 10, 20, {-0.912788, -0.300530, -0.277766}},
        {2, 16, 12, {-0.810200, -0.265793, -0.265147}},
        {4, 20, 9, {-0.884008, -0.320940, -0.315183}},
        {4, 31, 31, {-0.947200, -0.366400, -0.331200}},
        {3, 14, 17, {0.428840, -0.005204, -0.665379}}},
       -0.4137900,
       0.3418936}};
  return clips;
}

// What `count` clips show: "shape colour ground motion", and the numbers of objects.
struct Seen {
  std::set<std::string> shapes, colours, grounds, motions;
  std::set<size_t> objects;
};

Seen seen_of(const std::string& only, int64_t count = 400) {
  const ShapesChoice choice(only);
  Seen seen;
  for (int64_t i = 0; i < count; ++i) {
    const ShapesClip clip = choice.draw(3, i);
    seen.grounds.insert(clip.ground);
    seen.objects.insert(clip.objects.size());
    for (const auto& object : clip.objects) {
      seen.shapes.insert(object.shape);
      seen.colours.insert(object.colour);
      seen.motions.insert(object.motion);
    }
  }
  return seen;
}

double share_of_object(const std::string& shape) {  // of the pixels, at radius 0.5
  const ShapesClip clip{"black", {{"white", shape, "standing still", {.radius = .5}}}};
  return at::gt(render(clip, {1, 64, 64}).select(1, 0), 0).to(at::kDouble).mean().item<double>();
}

}  // namespace

TEST_CASE("clips are drawn as the script draws them", "[training]") {
  for (const Known& known : known_clips()) {
    INFO(known.caption);
    CHECK(known.clip.caption() == known.caption);
    const at::Tensor frames = render(known.clip, {5, 32, 32});
    REQUIRE(frames.sizes() == at::IntArrayRef{1, 3, 5, 32, 32});
    CHECK(frames.scalar_type() == at::kFloat);
    for (const Pixel& pixel : known.pixels) {
      const at::Tensor got = frames[0].select(1, pixel.frame).select(1, pixel.y).select(1, pixel.x);
      INFO(pixel.frame << " " << pixel.y << " " << pixel.x << ": " << got);
      CHECK(at::allclose(got, at::tensor(pixel.rgb), 0, 1e-5));
    }
    CHECK(std::abs(frames.mean().item<double>() - known.mean) < 1e-6);
    CHECK(std::abs(frames.square().mean().item<double>() - known.mean_square) < 1e-6);
  }
}

TEST_CASE("each shape looks like none of the others", "[training]") {
  const std::vector<std::string> shapes{"circle", "square", "triangle", "star",   "ring",
                                        "cross",  "heart",  "diamond",  "hexagon"};
  std::vector<at::Tensor> pictures;
  for (const auto& shape : shapes) {
    INFO(shape);
    CHECK(share_of_object(shape) > .05);
    CHECK(share_of_object(shape) < .25);
    pictures.push_back(
        render({"black", {{"white", shape, "standing still", {.radius = .5}}}}, {1, 64, 64}).gt(0));
  }
  for (size_t a = 0; a < shapes.size(); ++a) {
    for (size_t b = a + 1; b < shapes.size(); ++b) {
      INFO(shapes[a] << " and " << shapes[b]);
      CHECK(pictures[a].ne(pictures[b]).to(at::kDouble).mean().item<double>() > .015);
    }
  }
}

TEST_CASE("a wide clip has the same object in its middle", "[training]") {
  const ShapesClip clip{"gray", {{"lime", "heart", "spinning", {.x = .1, .radius = .4}}}};
  const at::Tensor square = render(clip, {5, 32, 32}), wide = render(clip, {5, 32, 64}),
                   tall = render(clip, {5, 48, 32});
  CHECK(wide.sizes() == at::IntArrayRef{1, 3, 5, 32, 64});
  CHECK(at::allclose(wide.slice(4, 16, 48), square, 0, 1e-5));
  CHECK(tall.sizes() == at::IntArrayRef{1, 3, 5, 48, 32});
  CHECK(at::allclose(tall[0][1][0][24], square[0][1][0][16], 0, .05));  // but for the ground's shade
}

TEST_CASE("a single frame shows the middle of the motion", "[training]") {
  const ShapesClip clip{"navy", {{"red", "circle", "growing", {}}}};
  CHECK(at::allclose(render(clip, {1, 32, 32}), render(clip, {3, 32, 32}).slice(2, 1, 2), 0, 0));
}

TEST_CASE("what is drawn depends on the seed and the number alone", "[training]") {
  const ShapesChoice choice("");
  CHECK(choice.draw(0, 0).caption() == "a green circle moving down on a navy background");
  CHECK(choice.draw(0, 1).caption() ==
        "a cyan triangle shrinking and a black star bouncing on a gray background");
  const ClipSize size{3, 32, 32};
  CHECK(at::equal(render(choice.draw(5, 9), size), render(ShapesChoice("").draw(5, 9), size)));
  CHECK_FALSE(at::equal(render(choice.draw(5, 9), size), render(choice.draw(6, 9), size)));
}

TEST_CASE("without wishes the usual is drawn, all of it", "[training]") {
  const Seen seen = seen_of("");
  CHECK(seen.shapes == std::set<std::string>{"circle", "square", "triangle", "star", "ring", "cross"});
  CHECK(seen.colours.size() == 10);
  CHECK(seen.colours.count("lime") == 0);
  CHECK(seen.grounds.size() == 6);
  CHECK(seen.motions.size() == 10);
  CHECK(seen.objects == std::set<size_t>{1, 2});
}

TEST_CASE("only what was asked for is drawn, one object a clip", "[training]") {
  using Words = std::set<std::string>;
  const Seen heart = seen_of("heart");
  CHECK(heart.shapes == Words{"heart"});
  CHECK(heart.colours.size() == 10);
  CHECK(heart.objects == std::set<size_t>{1});
  const Seen lime = seen_of(" lime  diamond ring moving left standing still teal ");
  CHECK(lime.colours == Words{"lime"});
  CHECK(lime.shapes == Words{"diamond", "ring"});
  CHECK(lime.motions == Words{"moving left", "standing still"});
  CHECK(lime.grounds == Words{"teal"});
  const Seen white = seen_of("white");  // the object, and no ground on which it could not be seen
  CHECK(white.colours == Words{"white"});
  CHECK(white.grounds == Words{"black", "gray", "navy", "teal"});
}

TEST_CASE("what cannot be drawn is refused", "[training]") {
  const Failure word = failure_of([] { ShapesChoice("lime hart"); });
  CHECK(word.code == ExitCode::config);
  CHECK_THAT(word.message, Contains("data.procedural.only: \"hart\" is no colour (red, green") &&
                               Contains("hexagon") && Contains("moving left") && Contains("navy") &&
                               Contains("did you mean \"heart\"?"));
  CHECK_THAT(failure_of([] { ShapesChoice("moving"); }).message, Contains("\"moving\" is no colour"));
  const Failure unseen = failure_of([] { ShapesChoice("cyan teal"); });
  CHECK(unseen.code == ExitCode::config);
  CHECK_THAT(unseen.message, Contains("\"cyan teal\" could not be seen"));
}

TEST_CASE("a procedural data set", "[training]") {
  DataConfig config;
  config.width = 32;
  config.height = 48;
  config.num_frames = 5;
  config.repeats = 3;
  const auto data = open_procedural({.items = 4, .seed = 2, .only = "lime"}, config);
  REQUIRE(data->items().size() == 4);
  CHECK(data->skipped().empty());
  std::set<uint64_t> identities;
  for (size_t i = 0; i < 4; ++i) {
    const DataItem& item = data->items()[i];
    CHECK(item.name == fmt::format("procedural {}", i));
    CHECK_THAT(item.caption, Contains("a lime "));
    CHECK(item.repeats == 3);
    CHECK_FALSE(item.prior);
    CHECK(item.size == ClipSize{5, 48, 32});
    identities.insert(item.identity);
    CHECK(data->frames(i).sizes() == at::IntArrayRef{1, 3, 5, 48, 32});
    CHECK(data->frames(i).abs().max().item<float>() <= 1);
  }
  CHECK(identities.size() == 4);
  // More items do not change the first ones; another size does.
  CHECK(open_procedural({.items = 9, .seed = 2, .only = "lime"}, config)->items()[3].identity ==
        data->items()[3].identity);
  config.num_frames = 9;
  CHECK(open_procedural({.items = 4, .seed = 2, .only = "lime"}, config)->items()[3].identity !=
        data->items()[3].identity);
}

}  // namespace frameshard
