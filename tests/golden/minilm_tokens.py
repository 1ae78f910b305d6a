"""Makes minilm_tokens.json: token ids by Hugging Face's tokenizers, which the built-in tokenizer must equal.

    pip install tokenizers==0.23.3
    python tests/golden/minilm_tokens.py <tokenizer.json of all-MiniLM-L6-v2> > tests/golden/minilm_tokens.json

The texts are those of the stores in tests/fixtures (by store and order of rowid, as they are there already), texts
that are hard to tokenize, random mixtures, and every Unicode character: of the last, only checksums are kept.
"""

import json
import pathlib
import random
import sqlite3
import struct
import sys
import unicodedata
import zlib

from tokenizers import Tokenizer

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
STORES = ["memory-v0.2.2.db", "memory-main-ace4159.db"]
BLOCK = 4096

HARD = [
    "", " ", "\t\r\n", "\u00a0\u2003\u3000", "\x00", "\ufffd", "a\x00b\ufffdc", "a\u0085b", "a\x0bb\x0cc", "a\u2028b\u2029c",
    "Hello, World!", "don't can't won't", "state-of-the-art", "C++ C# F# .NET", "a_b__c", "$100.00 €50 £20 ¥3",
    "user@example.com https://example.com/a?b=c&d=%20#e", "x=y+z*2^3|~`<>", "[CLS] [SEP] [UNK] [PAD] [MASK]", "a[SEP]b", "[sep] [Cls]",
    "[[MASK]]", "[MASK", "[", "]", "##ing", "# #", "un##able", "[unused0] [unused99]",
    "naïve café résumé ÀÉÎÕÜ", "nai\u0308ve cafe\u0301", "Ǻ ǻ Ṩ ṩ ẛ̣", "İstanbul ıı Iİ", "ŞŠßẞ straße STRASSE", "Ωμέγα ΟΔΟΣ ς", "ﬁ ﬂ ﬀ ﬃ",
    "ǅ ǆ Ǆ", "ＦＵＬＬ ｗｉｄｔｈ ！？", "①②③ ½ ¼ ² ³ ₂", "H₂O E=mc²", "K Å Ω ℃ №",
    "中文字符和English混合", "日本語のテキスト、カタカナ。", "ひらがな が か\u3099", "한국어 텍스트 각 가각",
    unicodedata.normalize("NFD", "한국어 텍스트"), "㐀䶿一鿿", "\U00020000\U0002a6df\U0002a6e0", "\U0002a700\U0002b73f\U0002b740\U0002b81f\U0002b820\U0002b920\U0002ceaf",
    "豈更車\uf900\ufaff", "\U0002f800\U0002fa1f", "〆々〇", "、。〈〉《》「」『』【】〔〕", "！＂＃％＆＇（）＊，－．／：；？＠［＼］＿｛｝",
    "Привет мир ёЁйЙ", "Καλημέρα κόσμε ά έ ή", "مرحبا بالعالم", "مُحَمَّد ﷺ ﻼ", "שלום עולם שָׁלוֹם", "नमस्ते दुनिया कि की", "বাংলা ভাষা", "ਪੰਜਾਬੀ", "ગુજરાતી", "தமிழ் மொழி",
    "తెలుగు", "ಕನ್ನಡ", "മലയാളം", "සිංහල", "ภาษาไทย น้ำ", "ພາສາລາວ", "བོད་ཡིག", "မြန်မာ", "ქართული ᲥᲐᲠᲗᲣᲚᲘ", "հայերեն ԱԲԳ", "አማርኛ", "ភាសាខ្មែរ", "ᠮᠣᠩᠭᠣᠯ", "ᏣᎳᎩ ꭰꭱ", "ᐃᓄᒃᑎᑐᑦ",
    "𐐀𐐨 𝓗𝓮𝓵𝓵𝓸 𝟘𝟙", "𓀀𓂀 𒀀 𐎀", "🙂😀🎉", "👨‍👩‍👧‍👦 👍🏽 🇩🇪 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️ ❤ ☎️", "a🙂b", "1️⃣ #️⃣ *️⃣",
    "zero\u200bwidth\u200cjoin\u200der\u2060word\ufeff", "soft\u00adhyphen", "\u202aleft\u202c \u202eright\u202c \u2066x\u2069", "e\u200d\u0301", "a\u0300\u0301\u0302\u0303\u0304\u0305b",
    "Z̷͓̓a̸̢͗l̴̛̮g̶̱̏o̵̰̍", "\u0301", "\u0301\u0301 \u0301", "a \u0301b", "\u034f\u0488\u0489", "\u1dc0\u20d0\u20dd\ufe20", "\u0903\u093e\u0bbe", "\u1cf7\u1d165\u1d166",
    "\u037e \u0387 \u1fef \u2000 \u2001 \u212a \u212b", "\u0340\u0341\u0343\u0344 \u0374", "\u0f73\u0f75\u0f81",
    "“quoted” ‘single’ «guillemets» ‹x›", "— – ‒ ― … • ‣ ⁃", "§ ¶ † ‡ ‰ ′ ″ ※", "¡Hola! ¿Qué?", "՚՛՜՝՞՟ ։֊ ־׀׃", "،؛؟٪٫٬٭۔ ܀", "।॥ ๏๚๛ ༄༅ ჻ ፡።", "᠀᠊ ᭚ ⳹ ⸀⸮ ꓾ ꘍ ꡴ ꣎ ꤮ ꥟ ꩜ ꯫ ﴾﴿ ︐︙ ︰﹒ ﹔﹫",
    "^ ` ~ < = > | + $", "¢ £ ¤ ¥ ¦ ¨ © ¬ ® ¯ ° ± ´ ¸ × ÷", "\x1b[31mred\x1b[0m", "a\tb\nc\rd", "\ue000private\uf8ff\U000f0000\U0010fffd", "\u0378unassigned\u0379 \U000e0001", "\uffff\ufffe\ufdd0",
    "a" * 99, "a" * 100, "a" * 101, "é" * 100, "é" * 101, "e\u0301" * 100, "각" * 33, "각" * 34, "x" * 5000, "ab " * 600, "!" * 600, "中" * 600, "supercalifragilisticexpialidocious " * 40,
    "\u0301" * 300 + "a", "a" + "\u0301" * 300 + "b", "a\u0301\u0327" * 20, "[SEP]" * 300, "word [MASK] " * 150,
    "pneumonoultramicroscopicsilicovolcanoconiosis", "0123456789 3.14159 1,000,000 0xDEADBEEF", "snake_case camelCase kebab-case SCREAMING_CASE", "fn main() { println!(\"{}\", x); }",
]


def mixtures(count):
    """Random texts of characters that meet seldom."""
    source = random.Random(20260222)
    ranges = [
        (0x20, 0x7F), (0x20, 0x7F), (0x61, 0x7B), (0x61, 0x7B), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x900), (0x900, 0xE00), (0xE00, 0x1200), (0x1E00, 0x2000),
        (0x2000, 0x2070), (0x3000, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0xF900, 0x10000), (0x1D100, 0x1D200), (0x1F300, 0x1F700), (0, 0x110000),
    ]
    for _ in range(count):
        text = ""
        for _ in range(source.randrange(1, 40)):
            code = source.randrange(*source.choice(ranges))
            text += source.choice(["", "", " "]) + ("" if 0xD800 <= code < 0xE000 else chr(code))
        yield text


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    stores = {}
    for store in STORES:
        connection = sqlite3.connect(f"file:{FIXTURES / store}?mode=ro&immutable=1", uri=True)
        stores[store] = [ids(text) for (text,) in connection.execute("select text from memories order by rowid")]
    texts = [{"text": text, "ids": ids(text)} for text in [*HARD, *mixtures(250)]]

    characters = []
    for block in range(0, 0x110000, BLOCK):
        crc = 0
        chars = [chr(code) for code in range(block, block + BLOCK) if not 0xD800 <= code < 0xE000]
        for encoding in tokenizer.encode_batch([f"a{char}b {char}" for char in chars], add_special_tokens=False):
            crc = zlib.crc32(struct.pack(f"<{len(encoding.ids)}H", *encoding.ids), crc)
        characters.append(crc)

    rows = ",\n".join(json.dumps(text, separators=(",", ":")) for text in texts)
    print(f'{{"stores":{json.dumps(stores, separators=(",", ":"))},\n"texts":[\n{rows}\n],')
    print(f'"characters":{json.dumps(characters, separators=(",", ":"))}}}')


main()
