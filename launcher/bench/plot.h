// The speed-up as a picture, drawn by the program gnuplot.
#pragma once

#include <filesystem>

#include "launcher/bench/report.h"

namespace frameshard {

/// 69, with what to install, where there is no gnuplot.
std::filesystem::path find_gnuplot();

/// Writes the PNG file, whole or not at all. 69 where gnuplot fails, 74 where the file cannot be written.
void draw_plot(const BenchReport& report, const std::filesystem::path& png);

}  // namespace frameshard
