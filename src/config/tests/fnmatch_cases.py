"""Writes fnmatch.json: what CPython's fnmatch answers, pair by pair.

python3.11 src/config/tests/fnmatch_cases.py > src/config/tests/fnmatch.json
"""

import fnmatch
import json
import random
import sys

LAYER = "model.layers.0.self_attn.q_proj.weight_quantizer"
NAMES = [
    "",
    "a",
    "lm_head.weight_quantizer",
    LAYER,
    LAYER.replace("weight", "input"),
    LAYER.upper(),
    "model.layers.0.mlp.gate.input_quantizer",
    "model.layers.0.mlp.gate_proj.input_quantizer",
    "model.layers.11.self_attn.k_bmm_quantizer",
    "model.layers.11.self_attn.v_bmm_quantizer",
    "model.layers.11.self_attn.softmax_quantizer",
    "output.weight_quantizer",
    "model.output.weight_quantizer",
    "mödel.größe.weight_quantizer",
]
PATTERNS = [
    "",
    "*",
    "**",
    "?",
    "*weight_quantizer",
    "*weight_quantizer*",
    "weight_quantizer",
    "*[kv]_bmm_quantizer",
    "*[!kv]_bmm_quantizer",
    "*layers.[0-9].*",
    "*layers.[0-9][0-9].*",
    "*layers.?.*",
    "*mlp.gate.*",
    "output.*",
    "*lm_head*",
    "*.self_attn.*_quantizer",
    "m?del.*",
    "m??del.*",
    "*gr[öo][!a-z]e*",
    "*.q_proj.[iw]*",
    "model.layers.0.self_attn.q_proj.weight_quantizer",
    "model*layers*q_proj*quantizer",
    "(model|output).*",
    "model.layers.+",
    "{output,model}.*",
]
# fmt: off
CORNERS = [  # sets, closed and not, and what the regular expression could misread
    ("[", "["), ("[", "a"), ("a[", "a["), ("[]", "[]"), ("[]", "]"), ("[]]", "]"), ("[]]", "["),
    ("[!]", "[!]"), ("[!]", "a"), ("[!]]", "]"), ("[!]]", "a"), ("[]a]", "a"), ("[!]a]", "a"),
    ("[!]a]", "b"), ("[a", "[a"), ("x[!", "x[!"), ("[*]", "*"), ("[*]", "a"), ("[?]", "?"),
    ("[?]", "a"), ("[[]", "["), ("[[]a", "[a"), ("[a-c]", "b"), ("[a-c]", "d"), ("[!a-c]", "b"),
    ("[!a-c]", "d"), ("[c-a]", "b"), ("[c-a]", "c"), ("[c-a]", "-"), ("[!c-a]", "b"),
    ("[!c-a]", ""), ("[c-ax]", "x"), ("[c-ax]", "b"), ("[xc-a]", "x"), ("[c-a-z]", "z"),
    ("[c-a-z]", "-"), ("[c-a-z]", "b"), ("[!c-ax]", "x"), ("[!c-ax]", "b"), ("[a-]", "-"),
    ("[a-]", "a"), ("[a-]", "b"), ("[-a]", "-"), ("[-a]", "a"), ("[!-a]", "-"), ("[!-a]", "b"),
    ("[-]", "-"), ("[!-]", "-"), ("[!-]", "a"), ("[--a]", "."), ("[--a]", "-"), ("[--a]", ","),
    ("[a-b-c]", "-"), ("[a-b-c]", "c"), ("[a-b-c]", "b"), ("[b-a!]", "!"), ("[b-a!]", "q"),
    ("[b-a!x]", "x"), ("[b-a!x]", "y"), ("[b-a!-z]", "-"), ("[b-a!-z]", "z"), ("[b-a!-z]", "b"),
    ("[b-a^x]", "^"), ("[b-a^x]", "q"), ("[^a]", "^"), ("[^a]", "a"), ("[^a]", "b"),
    ("[!^a]", "b"), ("[a^]", "^"), ("[\\]", "\\"), ("[\\]]", "\\]"), ("[\\d]", "5"),
    ("[\\d]", "d"), ("[a&&b]", "&"), ("[a&&b]", "a"), ("[a~~b]", "~"), ("[a||b]", "|"),
    ("[a--b]", "-"), ("[a--b]", "a"), ("[ä-ü]", "ö"), ("[ä-ü]", "a"), ("[!ä]", "ö"), ("?", "ö"),
    ("??", "ö"), ("?", "\n"), ("a*b", "a\nb"), ("a\\*", "a*"), ("a\\*", "a\\x"), (".*", "a"),
    ("a.b", "axb"), ("a$", "a"), ("^a", "a"), ("a", "a\n"), ("*a*a*a*a*b", "a" * 40), ("#", "#"),
    (" ", " "), ("(?i)A", "a"), ("[a-a]", "a"),
]
# fmt: on


def main():
    pairs = [(pattern, name) for pattern in PATTERNS for name in NAMES] + CORNERS
    chance = random.Random(20240521)
    for _ in range(
        80
    ):  # sets of random content against every letter that could be in one
        pattern = (
            "["
            + "".join(chance.choice("!--abc^]\\") for _ in range(chance.randint(1, 6)))
            + "]"
        )
        pairs += [(pattern, name) for name in "abc-!]^\\"]
    for _ in range(200):  # short texts of the letters that mean something
        pattern = "".join(
            chance.choice("[[]]!-abc^\\*?") for _ in range(chance.randint(2, 8))
        )
        name = "".join(chance.choice("abc-!]^[\\") for _ in range(chance.randint(0, 4)))
        pairs.append((pattern, name))
    cases = [
        [pattern, name, fnmatch.fnmatchcase(name, pattern)]
        for pattern, name in dict.fromkeys(pairs)
    ]
    print('{"_comment": "[pattern, name, whether it matches]",')
    print(f' "producer": "fnmatch_cases.py, CPython {sys.version.split()[0]}",')
    print(' "cases": [')
    print(",\n".join("  " + json.dumps(case) for case in cases))
    print(" ]}")


if __name__ == "__main__":
    main()
