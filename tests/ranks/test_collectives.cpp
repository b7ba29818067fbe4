#include "parallel/collectives.h"
#include "tests/support/rank_test.h"
