#include "launcher/gather_json.h"

#include "parallel/comm/text.h"

namespace frameshard {

std::vector<Json> gather_json(Communicator& world, const Json& mine) {
  std::vector<Json> all;
  for (const std::string& text :
       gather_texts(world, mine.dump(-1, ' ', false, Json::error_handler_t::replace))) {
    all.push_back(Json::parse(text));
  }
  return all;
}

}  // namespace frameshard
