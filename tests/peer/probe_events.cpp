// The engine's side of test_event_file.py: an event file with one record of each kind.
#include <fstream>
#include <iterator>

#include "core/io/event_file.h"

/// `argv` after the subcommand: <directory> <picture.png> of 3 x 2 pixels. Returns the program's exit code.
int probe_events(int argc, char** argv) {
  if (argc != 2) return 64;
  std::ifstream picture(argv[1], std::ios::binary);
  const std::string png{std::istreambuf_iterator<char>(picture), {}};
  frameshard::EventFile file(argv[0]);
  file.text(0, "config", "# Training\n\n`learning_rate` 1e-4");
  for (int64_t step = 1; step <= 300; ++step) {
    file.scalars(step, {{"train/loss", 1.0 / double(step)}, {"train/samples", double(2 * step)}});
  }
  file.image(int64_t{1} << 40, "sample/a red circle", png, 3, 2);
  return 0;
}
