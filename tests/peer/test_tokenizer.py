"""Compares prompt cleaning and tokenisation with diffusers' and transformers', prompt by prompt.

The engine's side is the program in the environment variable FRAMESHARD_PROBE (`tokenize` subcommand,
probe_tokenize.cpp).
"""

import html.entities
import importlib
import json
import os
import pathlib
import random
import shutil
import subprocess

import pytest

SHAPES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "shapes" / "tokenizer"
PROBE = os.environ.get("FRAMESHARD_PROBE")
RANDOM_PROMPTS = 4000

pytestmark = pytest.mark.skipif(not PROBE, reason="FRAMESHARD_PROBE is not set")

HAND_PICKED = [
    "",
    " ",
    "\u3000\x1c\x85",
    "a red circle moves left to right",
    "A Red CIRCLE, on a blue ground!",
    "  two\t\tblue \n squares\u2028spin\u00a0slowly  ",
    "x&amp;lt;y&amp;amp;gt; &notit; &notin; &ampersand &lt &#x1F600; &#128512 &#0; &#x80; &#xD800; &#x110000;",
    "&#1;&#xFFFE;&#x9f;&#x0d;&#; &#x; &; & &&lt;&#12345678901234567890; &NotEqualTilde; &fjlig;",
    "&" + "a" * 40 + "; &CounterClockwiseContourIntegral; &CounterClockwiseContourIntegralx",
    "</s>",
    "<pad></s><unk>",
    "a circle</s>red  <unk> square <pad>",
    "&lt;/s&gt; &amp;lt;pad&amp;gt; &lt;unk&gt;",
    "<extra_id_0> and <extra_id_99>",
    "<0x41><0x0A> <0x41>x <0x4>",
    "</S> < /s> </s >",
    "\u2581a\u2581\u2581b \u2581",
    "\ufb01sh \ufb01\u0301 \u2122\u0301 \u2122\u20dd",
    "A\u0300\u0301 e\u0301 A\u0301\u20d7 \u00e9\u0323 \u1112\u1161\u11ab \ud55c \uff76\uff9e \uff21\uff22",
    "\u200bzero\u200b width\u200d joiner\ufeff bom \u00ad soft \u200e marks",
    "\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\u0600A\u0301 \u06dda\u0300 \u0915\u094d\u0937\u093f \u0e33 \u0e01\u0e33",
    "\u00a8x\u2025\u2026 \u00bd \u3392 \u32ff \ufdfa",
    "\x01\x02a\x7fb\x08 \x8f\u0301 nul\x00byte",
    "\u4e00\u53ea\u732b\u5728\u8349\u5730\u4e0a\u5954\u8dd1",
    "red " * 300,
    "circle" * 200,
]

WORDS = """a the red green blue yellow circle square triangle moves left right up down spins grows slowly fast on
    black white background Shape CIRCLE Two three, bouncing. and-or it's 42 3.14""".split()
ODD_SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
)
SPECIALS = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_42>", "<0x41>", "<0xFF>", "\u2581", "<s>"]
MARK_BLOCKS = [(0x300, 0x370), (0x5B0, 0x5C0), (0x64B, 0x660), (0x20D0, 0x20F1), (0x3099, 0x309B)]
MARKS = [chr(c) for block in MARK_BLOCKS for c in range(*block)]
ENTITIES = sorted(html.entities.html5)


def random_char(rng, ranges):
    return chr(rng.randrange(*rng.choice(ranges)))


def random_entity(rng):
    kind = rng.randrange(4)
    end = rng.choice([";", ";", ""])
    if kind == 0:
        return "&" + rng.choice(ENTITIES)
    if kind == 1:
        return "&" + rng.choice(ENTITIES).rstrip(";")[: rng.randrange(1, 9)] + end
    number = rng.randrange(rng.choice([256, 0x3000, 0x120000, 10**12]))
    text = f"&#{number}{end}" if kind == 2 else f"&#{rng.choice('xX')}{number:x}{end}"
    return text.replace("&", "&amp;") if rng.randrange(4) == 0 else text


def random_part(rng):
    kind = rng.randrange(12)
    if kind < 3:
        return rng.choice(WORDS) + rng.choice(["", " "])
    if kind == 3:
        return "".join(random_char(rng, [(0x20, 0x7F)]) for _ in range(rng.randrange(1, 8)))
    if kind == 4:
        return "".join(random_char(rng, [(0xC0, 0x250), (0x1E00, 0x1F00)]) for _ in range(rng.randrange(1, 5)))
    if kind == 5:
        base = rng.choice(["e", "A", "\u00e9", "\u2122", "\ufb01", "\u304b", "\u0915", "\u0958", "\u1112\u1161"])
        return base + "".join(rng.choice(MARKS) for _ in range(rng.randrange(3)))
    if kind == 6:
        east_asian = [(0x3041, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xFF01, 0xFFEF)]
        return "".join(random_char(rng, east_asian) for _ in range(3))
    if kind == 7:
        return random_char(rng, [(0x1F300, 0x1F650), (0x1F900, 0x1FA00), (0x2600, 0x27C0)]) + rng.choice(
            ["", "\ufe0f", "\u200d", "\U0001f3fd"]
        )
    if kind == 8:
        return random_entity(rng)
    if kind == 9:
        return rng.choice([random_char(rng, [(0, 0x20), (0x7F, 0xA0)]), rng.choice(ODD_SPACES)])
    if kind == 10:
        return rng.choice(SPECIALS)
    return random_char(rng, [(0x80, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0xE0000, 0xE0200)])


def random_prompt(rng):
    return "".join(random_part(rng) for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 40])))


def prompts():
    rng = random.Random(20240917)
    return HAND_PICKED + [random_prompt(rng) for _ in range(RANDOM_PROMPTS)]


@pytest.fixture(scope="module")
def prompt_clean():
    """The pipeline's own cleaning, as it runs without ftfy, which the engine does not have."""
    pipeline = importlib.import_module("diffusers.pipelines.wan.pipeline_wan")
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "is_ftfy_available", lambda: False)
    yield pipeline.prompt_clean
    patch.undo()


def probe(folder, max_length, texts, tmp_path):
    given, answer = tmp_path / "in.json", tmp_path / "out.json"
    given.write_text(json.dumps(texts), encoding="utf-8")
    subprocess.run([PROBE, "tokenize", str(folder), str(max_length), str(given), str(answer)], check=True)
    return json.loads(answer.read_text(encoding="utf-8"))


def reference(folder, max_length, cleaned):
    from transformers import AutoTokenizer

    out = AutoTokenizer.from_pretrained(folder)(
        cleaned,
        padding="max_length",
        max_length=max_length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
    )
    return out.input_ids, [sum(mask) for mask in out.attention_mask]


def compare(folder, max_length, prompt_clean, tmp_path):
    texts = prompts()
    ours = probe(folder, max_length, texts, tmp_path)
    cleaned = [prompt_clean(text) for text in texts]
    ids, lengths = reference(folder, max_length, cleaned)
    different = [
        (ascii(text), ascii(clean), ascii(got["clean"]), wanted, got["ids"])
        for text, clean, got, wanted, length in zip(texts, cleaned, ours, ids, lengths, strict=True)
        if (got["clean"], got["ids"], got["length"]) != (clean, wanted, length)
    ]
    assert not different, f"{len(different)} of {len(texts)} prompts differ, first: {different[0]}"


@pytest.mark.parametrize("max_length", [64, 16])
def test_same_ids(max_length, prompt_clean, tmp_path):
    compare(SHAPES, max_length, prompt_clean, tmp_path)


def test_length_of_one_leaves_only_the_end(prompt_clean, tmp_path):
    compare(SHAPES, 1, prompt_clean, tmp_path)


def edited(tmp_path, name, edit):
    """A copy of the example's tokeniser with one JSON file changed, or removed where `edit` is None."""
    folder = tmp_path / "tokenizer"
    shutil.copytree(SHAPES, folder)
    path = folder / name
    document = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    if edit:
        edit(document)
        path.write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_without_tokenizer_json(prompt_clean, tmp_path):
    compare(edited(tmp_path, "tokenizer.json", None), 64, prompt_clean, tmp_path)


def test_without_normalizer(prompt_clean, tmp_path):
    folder = edited(tmp_path, "tokenizer.json", lambda document: document.update(normalizer=None))
    compare(folder, 64, prompt_clean, tmp_path)


def test_added_tokens(prompt_clean, tmp_path):
    """Tokens with every flag but single_word, some beginning alike, some changed by normalisation."""
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    added = [
        dict(plain, id=314, content="<extra_id_0>"),
        dict(plain, id=315, content="<extra_id_4", lstrip=True),
        dict(plain, id=316, content="<extra_id_42>", lstrip=True, rstrip=True),
        dict(plain, id=317, content="circle", rstrip=True),
        dict(plain, id=318, content="\ufb01sh", normalized=True, special=False),
        dict(plain, id=319, content="TM", normalized=True, lstrip=True, special=False),
    ]
    folder = edited(tmp_path, "tokenizer.json", lambda document: document["added_tokens"].extend(added))
    compare(folder, 64, prompt_clean, tmp_path)


def test_added_tokens_of_the_config(prompt_clean, tmp_path):
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    decoder = {"0": dict(plain, content="<pad>"), "314": dict(plain, content="<extra_id_0>", lstrip=True)}
    edit = lambda document: document.update(added_tokens_decoder=decoder)  # noqa: E731
    compare(edited(tmp_path, "tokenizer_config.json", edit), 64, prompt_clean, tmp_path)


def test_named_special_tokens(prompt_clean, tmp_path):
    edit = lambda document: document["extra_special_tokens"].extend(["<0x41>", "oun", "\u2581st"])  # noqa: E731
    compare(edited(tmp_path, "tokenizer_config.json", edit), 64, prompt_clean, tmp_path)
