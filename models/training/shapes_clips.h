// Clips that are drawn: coloured shapes that move on a plain background, and a caption of what they show.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/training/dataset.h"

namespace frameshard {

/// Where an object is. Lengths are in half the shorter side of the picture, whose middle is 0; y points down.
struct ShapePlace {
  double x, y, radius, angle;
};

/// What a motion leaves open; each uses some of it.
struct ShapePath {
  double x = 0, y = 0;   ///< where it is, unless the motion says so
  double radius = 0.3;   ///< unless it grows or shrinks
  double angle = 0;      ///< at which spinning begins
  double span = 1.1;     ///< that moving covers
  double turns = 1;      ///< of spinning; jumps of bouncing
  double phase = 0;      ///< where circling begins
  double direction = 1;  ///< of circling, 1 or -1
};

struct ShapeObject {
  std::string colour, shape, motion;
  ShapePath path;

  ShapePlace at(double time) const;  ///< from 0, the first frame, to 1, the last
};

struct ShapesClip {
  std::string ground;
  std::vector<ShapeObject> objects;  ///< the later ones in front

  /// "a red circle moving left and a blue star spinning on a gray background"
  std::string caption() const;
};

/// What is drawn: one or two objects of the usual colours and shapes or, where `only` names something, one
/// object that has what it names. Of several colours (shapes, motions, grounds) it has one. "black" and
/// "white" are colours of the object. 78 with the list where a word is neither, and where the colours
/// cannot be told from the grounds.
class ShapesChoice {
 public:
  explicit ShapesChoice(std::string_view only);
  /// The same for the same seed and index, on every machine.
  ShapesClip draw(uint64_t seed, int64_t index) const;

 private:
  std::vector<std::string> colours_, shapes_, motions_, grounds_;
  bool one_object_;
};

/// [1, 3, frames, height, width] float32 in [-1, 1] on the CPU. A single frame shows the middle of the
/// motion.
at::Tensor render(const ShapesClip& clip, const ClipSize& size);

}  // namespace frameshard
