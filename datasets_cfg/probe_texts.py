"""Texts that tell tokenizers apart: what is tokenized differently by mistake, if anything is.

Among them are all that is known to have gone wrong: runs of spaces (the order of merges), spaces at the borders of a
text (the prefix), line ends and tabs (normalizers), characters that no vocabulary has (byte fallback), texts that spell
control tokens, and SentencePiece's own sign for a space.
"""

SPACE_SIGN = "\u2581"
"""What SentencePiece writes for a space: "▁"."""

_LANGUAGES = (
    "The quick repair took less than an hour, but nobody believed it until the engine ran again.",
    "I'd say we're done; they've said it's theirs, don't you think? (She'll know.)",
    "Am Übergang zur Brücke stand früher ein großes, gelbes Häuschen.",
    "Dès l'été, où qu'il aille, le garçon à la voix grave préfère ça.",
    "¿Dónde está la cigüeña que vivía en aquel campanario? ¡Qué lástima!",
    "Łódź i Kraków dzieli ponad dwieście kilometrów, a żółw idzie powoli.",
    "Вечером мы собрались на кухне и долго говорили о погоде.",
    "Το πρωί η θάλασσα ήταν ήσυχη και ο ουρανός καθαρός.",
    "בבוקר שתינו קפה ודיברנו על הספר החדש.",
    "جلسنا في الحديقة وتحدثنا عن السفر، ثم عدنا إلى البيت.",
    "सुबह हम बाज़ार गए और ताज़े फल खरीदे।",
    "เมื่อเช้านี้ฝนตกหนักมาก รถจึงติดยาว",
    "今天早上我们在公园里散步，看到了许多不认识的鸟。",
    "昨日は友だちと一緒に、駅前の小さな店でラーメンを食べました。",
    "우리는 어제 도서관에서 새로운 책을 두 권 빌렸습니다.",
    "Tối qua trời mưa to nên chúng tôi ở nhà đọc sách.",
    "Bugün hava çok güzel, İstanbul'da ılık bir rüzgâr esiyor.",
)

_CODE = (
    "def area(width, height):\n    if width < 0:\n        raise ValueError('negative')\n    return width * height\n",
    "class Tree:\n    def walk(self):\n        for child in self.children:\n            if child:\n"
    "                yield from child.walk()\n\n\n    # end\n",
    "for (int i = 0; i < n; ++i) {\n\tif (a[i] != b[i]) {\n\t\treturn -1;\n\t}\n}\n",
    "SELECT name,\n       COUNT(*) AS total\n  FROM visits\n WHERE day >= '2021-03-04'\n GROUP BY name;",
    '{"id": 17, "tags": ["a", "b"], "nested": {"empty": {}, "none": null}}',
    "| a  | bb |\n|----|----|\n| 1  | 22 |\n",
    "- one\n  - two\n    - three\n      1. four\n\n> quoted  \n> text",
    "```python\nx = [1,\n     2,\n     3]\n```",
    '<div class="x">\n  <p>It&rsquo;s</p>\n</div><!-- end -->',
    "$ grep -rn 'x y' ./src | awk '{print $2}'  # tabs\there",
    "\\frac{a}{b} = \\sum_{i=0}^{n} x_i^2",
    "\r\nWindows\r\nline ends\r\n",
)

_NUMBERS_AND_SIGNS = (
    "1 12 123 1234 12345 123456 1,234,567.89 -0.5 3e-10 0x1F 50% $7.20 №5",
    "10:45, 2021-03-04, 192.168.0.1, v2.0.1-rc3, (555) 010-9999",
    "!!! ??? ... ,,, ;;; ::: --- === *** ### @@@ ((())) [[]] {{}} <<>> // \\\\ || && ~~ ^^ ``",
    "“curly” ‘quotes’ — dash – dash … dots • dot « » ‹ › † ‡ § ¶ © ® ™ ° ± × ÷ ≤ ≥ ≠ ∞ √ ∑ ∫ ∂",
    "https://example.org/a_b/c-d?x=1&y=%20z#top someone@example.org",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case aaaaaaaaaaaaaaaaaaaaaa",
)

_RARE = (
    "🙂 🙃🙂 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇳🇴 ☃️ ❤️",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 ａｂｃ１２３ ﬁﬂ ① ½ ²",
    "e\u0301 é n\u0303 ñ A\u030a Å \u1100\u1161\u11a8 각",
    "𐎀𐎁𐎂 𓀀𓁐 ᚠᚢᚦ ⠓⠑⠇⠇⠕ ꧋ 㐀 𠀀 𪚥",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u200bzero\u200dwidth\ufeffmark\u00adsoft",
    "left\u200eto\u200fright\u202eand\u202cback",
    "\x00",
    "nul\x00in\x00side \x01\x02\x1b[31m\x7f\x80\x9f",
    "\ufffd\ufffe\uffff\U0010ffff\ue000",
    "\u2028line\u2029paragraph\x0bvertical\x0cfeed\x85next",
)

_SPACES = (
    " ",
    "\n",
    "\t",
    " a",
    "  a",
    "a ",
    "a  ",
    "\na",
    "a\n",
    "\n\n\n",
    "\t\ta\t b \tc\t\t\t",
    "a\n b\n  c\n   d\n    e\n     f\n",
    " \n \n  \n\t\n ",
    "a b  c   d    e     f      g       h        i",
    *(" " * count for count in (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100)),
    *(f"x{' ' * count}y" for count in (2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 17, 20, 24, 31, 32, 33, 48, 100)),
    *(f"\n{' ' * count}return" for count in (1, 2, 3, 4, 6, 8, 12, 16, 20, 40)),
    *("\n" * count + "x" for count in (2, 3, 4, 5, 8)),
    *("\t" * count + "x" for count in (1, 2, 3, 4, 8)),
)

_SIGNS_OF_TOKENIZERS = (
    "<s>",
    "</s>",
    "a</s>b <s> c<unk>d",
    "<0x0A> <0xFF> <0x41>",
    "<|im_start|>user<|im_end|> <|endoftext|><|eot_id|> [INST] x [/INST] <pad>",
    SPACE_SIGN,
    f"{SPACE_SIGN}a {SPACE_SIGN}{SPACE_SIGN} b{SPACE_SIGN}",
    "Ġa Ċb ĉ",
    "##ing @@ ing</w>",
)

_FORMAT = (
    "BEGINNING OF CONVERSATION: USER: Hello GPT: Hi.",
    "USER: Write a loop.\n\n    x\n GPT: Sure:\n```\nwhile True:\n    pass\n```",
    "USER: 你好 GPT:",
    " Hello",
    "An Unhelpful Answer: No.",
)

PROBE_TEXTS: tuple[str, ...] = (
    *_LANGUAGES,
    *_CODE,
    *_NUMBERS_AND_SIGNS,
    *_RARE,
    *_SPACES,
    *_SIGNS_OF_TOKENIZERS,
    *_FORMAT,
)
"""The texts, shortest way to every known difference; none is empty."""
