// The file in which measured speeds are kept from run to run: speeds.json, an object of keys that name all
// that a speed depends on.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace frameshard {

/// Operations a second, by key.
using KnownSpeeds = std::map<std::string, double>;

/// speeds.json in $FRAMESHARD_CACHE, else in $XDG_CACHE_HOME/frameshard, else in $HOME/.cache/frameshard;
/// empty where none of them is set.
std::filesystem::path speeds_file();

/// What the file holds. A file that is not there holds nothing; of one that is broken `complaint` says so in
/// a sentence.
KnownSpeeds read_speeds(const std::filesystem::path& file, std::string& complaint);

/// Adds to what the file holds, all or nothing. Returns why that cannot be, or nothing.
std::string add_speeds(const std::filesystem::path& file, const KnownSpeeds& speeds);

}  // namespace frameshard
