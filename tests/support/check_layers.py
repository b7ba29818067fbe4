"""Fails on an #include that points upward: launcher -> models -> parallel -> core, and nothing uses tests or examples."""
import pathlib
import re
import sys

LAYERS = ["core", "parallel", "models", "launcher"]
root = pathlib.Path(sys.argv[1])
bad, seen = [], 0
for level, layer in enumerate(LAYERS):
    for source in sorted(root.joinpath(layer).rglob("*")):
        if source.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        seen += 1
        for number, line in enumerate(source.read_text().splitlines(), 1):
            match = re.match(r'\s*#include "(\w+)/', line)
            if match and match[1] in LAYERS[level + 1 :] + ["tests", "examples"]:
                bad.append(f"{source.relative_to(root)}:{number}: {line.strip()}")
print(f"{seen} files looked at, {len(bad)} upward includes", *bad, sep="\n")
sys.exit(1 if bad or seen < 20 else 0)
