#include "launcher/bench/plot.h"

#include "core/error.h"
#include "core/io/atomic_file.h"
#include "core/process.h"

namespace frameshard {

std::filesystem::path find_gnuplot() {
  if (const auto program = find_on_path("gnuplot")) return *program;
  fail(ExitCode::unavailable,
       "--plot needs the program gnuplot, which is not on PATH; install it (Debian, Ubuntu: apt install "
       "gnuplot-nox), "
       "or use --json");
}

void draw_plot(const BenchReport& report, const std::filesystem::path& png) {
  constexpr double seconds = 60;
  const auto gnuplot = find_gnuplot();
  AtomicFile file(png);
  const ProgramOutput output =
      output_of({gnuplot.string()}, seconds, plot_script(report, file.temporary().string()));
  if (!output.ended || output.code != 0) {
    fail(ExitCode::unavailable, "{} could not draw {}: {}", gnuplot.string(), png.string(),
         output.ended ? output.text : fmt::format("not done after {:g} s", seconds));
  }
  file.commit();
}

}  // namespace frameshard
