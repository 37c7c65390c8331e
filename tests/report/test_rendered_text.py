"""Chat texts as trees for the page: what is rendered, what stays text, and what a hostile text cannot do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ng_rollouts.report import rendered_text
from ng_rollouts.report.rendered_text import (
    LANGUAGES,
    MATHML_ATTRIBUTES,
    MATHML_TAGS,
    MAX_CHARACTERS,
    MAX_CODE_CHARACTERS,
    MAX_DEPTH,
    MAX_FORMULA_CHARACTERS,
    TAGS,
    Node,
    render,
)
from tests.conftest import SHARED_DATA, read_rows
from tests.report.test_page import ATTACKS

# What Markdown, formulas and HTML are made of, so that random texts are full of half-open markup.
MARKUP = [
    *"[]()*_`~$\\<>|#-+=!&{}^%\"'\t ",
    *["\n", "\n\n", "\n    ", "**", "~~", "```", "\n```python\n", "$$", r"\(", r"\)", r"\[", r"\]", r"\boxed{", "]("],
    *["![", "\n> ", "\n- ", "\n1. ", "\n3) ", "\n# ", "\n---\n", "\n|a|b|\n|-|:-:|\n", "|c|d|e|\n", "https://x.y/z"],
    *[r"\begin{align}", r"\end{align}", r"\frac", r"\text{", r"\href{javascript:x}{y}", r"\style{color:red}{x}"],
    *[
        r"\class{card}{x}",
        r"\unicode{x3c}",
        "&lt;",
        "&#60;",
        "\ud800",
        "\0",
        "\r\n",
        "<img src=x onerror=y>",
        "é",
        "中",
    ],
    *["word", "x", "12"],
]
# Markup that keeps each letter and digit: no formulas, images, numbers of lists, and escapes of addresses.
LOSSLESS = [part for part in MARKUP if not re.search(r"[$\\!\d\0%]|&l", part)]
ATTRIBUTE_VALUE = re.compile(r"[A-Za-z0-9 .%#+-]*")
CLASS = re.compile(r"[a-z0-9-]+( [a-z0-9-]+)*")


def texts_of(parts: list[str]) -> st.SearchStrategy[str]:
    """Texts that are made of the parts."""
    return st.lists(st.sampled_from(parts), max_size=40).map("".join)


def attributes(node: list[Any]) -> dict[str, Any]:
    """The attributes of a node."""
    return node[1] if len(node) > 1 and isinstance(node[1], dict) else {}


def children(node: list[Any]) -> list[Node]:
    """The nodes inside a node."""
    return node[2:] if attributes(node) else node[1:]


def nodes_of(tree: list[Node] | None) -> Iterator[Node]:
    """All nodes of a tree, in the order of the text."""
    for node in tree or ():
        yield node
        if isinstance(node, list):
            yield from nodes_of(children(node))


def shown(tree: list[Node] | None) -> str:
    """The text that a reader sees."""
    return "".join(node for node in nodes_of(tree) if isinstance(node, str))


def all_of(tree: list[Node] | None, tag: str) -> list[list[Any]]:
    """The nodes with a tag."""
    return [node for node in nodes_of(tree) if isinstance(node, list) and node[0] == tag]


def words(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(character for character in text if character.isalnum())


def written_words(text: str) -> str:
    """The letters and digits of Markdown. An address that is also the text of its link counts once."""
    return words(re.sub(r"\[([^][]+)\]\(\s*<?\1>?\s*\)", r"\1", text))


def is_safe(node: Node) -> bool:
    """Return whether a node has a tag and attributes that the page accepts."""
    if isinstance(node, str):
        return True
    tag, values = node[0], dict(attributes(node))
    if not CLASS.fullmatch(str(values.pop("class", "x"))):
        return False
    if tag == "ol":
        return isinstance(values.pop("start", 1), int) and not values
    if tag in MATHML_TAGS:
        return all(name in MATHML_ATTRIBUTES and ATTRIBUTE_VALUE.fullmatch(value) for name, value in values.items())
    return tag in TAGS and not values


def depth(tree: list[Node]) -> int:
    """Levels of nodes."""
    return max((1 + depth(children(node)) for node in tree if isinstance(node, list)), default=0)


def strings(value: Any) -> Iterator[str]:
    """The strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


# Safety


@given(texts_of(MARKUP))
@example(" ".join(ATTACKS))
@example(r"$\style{background:url(x)}{\class{card}{\href{javascript:x}{\colorbox{red}{\hspace{1em;x}y}}}}$")
def test_every_node_has_a_tag_and_attributes_of_the_whitelist(text: str) -> None:
    """No text makes another element or attribute, and no tree is deeper than the limit."""
    tree = render(text)
    assert [node for node in nodes_of(tree) if not is_safe(node)] == []
    assert depth(tree or []) <= MAX_DEPTH


@pytest.mark.parametrize(
    "around", ["{}", "*x* {}", "- {}\n- x", "> {}", "|a|\n|-|\n|{}|", "$$\n{}\n$$", "```html\n{}\n```"]
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_becomes_text(attack: str, around: str) -> None:
    """The texts of the tree contain what the model wrote, also as code or a formula; there is no node of its tags."""
    tree = render(around.replace("{}", attack))
    assert all(map(is_safe, nodes_of(tree)))
    if tree and not all_of(tree, "math") and "[image: " not in shown(tree):
        assert words(attack) in words(shown(tree))


@pytest.mark.parametrize(
    "html", ["<b>bold</b>", "<!-- note -->", "<div>\n*x*\n</div>", "&lt;b&gt; &copy;", "<think>x</think>"]
)
def test_html_stays_visible(html: str) -> None:
    """Tags, comments and entities are shown as they were written."""
    assert shown(render(f"{html} **end**")).replace("*", "") == f"{html} end".replace("\n", "").replace("*", "")


@given(texts_of(LOSSLESS))
@example("|a|b|\n|-|-|\n|c|d|e|\n")
@example('[word](https://x.y/z "word") [x]: word\n\n[x] <https://x.y/z>')
@example("```word word\nword\n")
@example("*x* [word](word)")
@example(">" * 30 + "word")
@example("- " * 30 + "word\n" + "  " * 31 + "word")
def test_words_are_kept_in_their_order(text: str) -> None:
    """Rendering never hides a letter: not in titles of links, not in rows that are too long, not in deep lists."""
    tree = render(text)
    assert tree is None or words(shown(tree)) == written_words(text)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared data")
def test_real_texts_are_rendered_safely() -> None:
    """Prompts and answers of real models make safe trees, and those without formulas, numbered lists and images keep their words."""
    rows = [row for path in SHARED_DATA.glob("*/*.jsonl") for row in read_rows(path)]
    trees = [(text, render(text)) for text in {text for row in rows for text in strings(row)}]
    assert any(tree for _, tree in trees)
    for text, tree in trees:
        assert all(map(is_safe, nodes_of(tree)))
        if tree and not all_of(tree, "math") and not all_of(tree, "ol") and "![" not in text:
            assert words(shown(tree)) == written_words(text)


# Plain texts


@pytest.mark.parametrize(
    "text", ["", "Paris", "Two\nlines.\n\nTwo paragraphs: a, b; c!", "snake_case", "2 < 3", "a [1]"]
)
def test_text_without_markup_is_not_rendered(text: str) -> None:
    """The page shows plain text as it is, so it needs no tree."""
    assert render(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $10",
        "It costs $3, $4.50 or $5.",
        "($20/$30)",
        "$5-$10",
        "$5M–$10M",
        "US$5 or US$6 (in $)",
        "from 5$ to 6$",
        "$5 a month, or 3$ a week",
        "$1,000 to 900 (in US$)",
        "export PATH=$HOME/bin:$PATH and $HOME",
        "${a}/${b}",
        r"see \[1\] and \(as shown below\)",
        r"Put your final answer in \boxed{}.",
    ],
)
def test_prices_and_escaped_brackets_stay_text(text: str) -> None:
    """Dollars and brackets that do not enclose a formula are no delimiters."""
    assert all_of(render(f"**{text}**"), "math") == []
    assert render(text) is None


# Formulas


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("$x = 2$", "inline"),
        ("the $x = 2$nd", "inline"),
        (r"\(x = 2\)", "inline"),
        (r"\[x = 2\]", "block"),
        ("$$x = 2$$", "block"),
        ("$$\nx\n=\n2\n$$", "block"),
        ("So:\n\\[\nx\n= 2\n\\]\nDone.", "block"),
        ("- a\n\n  \\[\n  x\n  = 2\n  \\]", "block"),
        ("> $$\n> x =\n> 2\n> $$", "block"),
        ("\\begin{equation}\nx = 2\n\\end{equation}", "block"),
        (r"\boxed{x = 2}", "inline"),
    ],
)
def test_formula_becomes_mathml(text: str, display: str) -> None:
    """Each usual pair of delimiters works, in paragraphs, lists and quotes. Lines of a formula are not Markdown."""
    (math,) = all_of(render(text), "math")
    assert math[1] == {"display": display}
    assert shown([math]) == "x=2"


@pytest.mark.parametrize("formula", ["$12$", "$2x + 3$", r"$3\text{ to }x$", r"$20\%$", "$20% x$", "$n$"])
def test_formula_may_start_with_a_digit(formula: str) -> None:
    """An amount is not followed by words of prose; a formula with digits is a formula."""
    assert len(all_of(render(f"the {formula} of it"), "math")) == 1


@pytest.mark.parametrize(
    "rows",
    [
        r"\begin{aligned} a &= 1 \\[4pt] b &= 2 \end{aligned}",
        r"\begin{align} a &= 1 \\ b &= 2 \end{align}",
        r"a=1 \\ b=2",
    ],
)
def test_lines_of_a_formula_are_rows_of_a_table(rows: str) -> None:
    """Line breaks and alignment are not shown as characters, and equations get no numbers."""
    tree = render(rf"\[{rows}\]")
    assert [shown([row]) for row in all_of(tree, "mtr")] == ["a=1", "b=2"]


def test_words_in_a_box_are_upright() -> None:
    """An answer in words keeps its spaces."""
    (box,) = all_of(render(r"So \boxed{Zoey is a sage}"), "menclose")
    assert box == ["menclose", {"class": "box"}, ["mrow", ["mtext", "Zoey\xa0is\xa0a\xa0sage"]]]


@pytest.mark.parametrize(
    "source",
    [
        r"$\frac{1}$",
        r"$\left( x$",
        r"$\unknown{a}$",
        r"$a^{b \\ c}$",
        r"$\text{a {b} c}$",
        r"$x_1_2$",
        "$" + "{" * 500 + "}" * 500 + "$",
        f"${'x' * (MAX_FORMULA_CHARACTERS + 1)}$",
        r"$\newcommand{\a}{xx}\newcommand{\b}{\a\a}\b$",
        r"$\def\a{\a\a}\a$",
        f"\\[\n{'- x' * MAX_FORMULA_CHARACTERS}\n\\]"[: MAX_FORMULA_CHARACTERS + 100] + "\\]",
    ],
)
def test_formula_that_cannot_be_converted_is_shown_as_source(source: str) -> None:
    """Formulas that are wrong, unknown, too long, or that define macros stay readable."""
    assert render(f"{source} *x*") == [["p", ["code", {"class": "math"}, source], " ", ["em", "x"]]]


def test_text_of_many_formulas_shows_the_last_as_source() -> None:
    """Conversion has a limit for each text."""
    tree = render(" ".join(f"$x_{{{index}}}$" for index in range(9_000)))
    assert 0 < len(all_of(tree, "math")) < 9_000
    assert len(all_of(tree, "math")) + len(all_of(tree, "code")) == 9_000


# Code


def test_code_in_a_known_language_is_highlighted() -> None:
    """Tokens are spans with Pygments' short names."""
    assert render("```python\nreturn 1 # x\n```") == [
        ["div", {"class": "code-info"}, "python"],
        [
            "pre",
            [
                "code",
                ["span", {"class": "hl-k"}, "return"],
                " ",
                ["span", {"class": "hl-mi"}, "1"],
                " ",
                ["span", {"class": "hl-c1"}, "# x"],
                "\n",
            ],
        ],
    ]


@pytest.mark.parametrize(
    "fence", ["```\n", "```unknown\n", "```python\n" + "#" * MAX_CODE_CHARACTERS + "\n", "~~~c++x\n"]
)
def test_other_code_is_not_highlighted(fence: str) -> None:
    """No guesses for code without a language, and none for long code."""
    (code,) = all_of(render(f"{fence}return 1\n"), "code")
    assert code == ["code", fence.partition("\n")[2] + "return 1\n"]


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_highlighting_keeps_the_code(language: str) -> None:
    """Each language has a lexer, and each character stays, also in code that is not of the language."""
    code = '\n\n  def f(x): /* <b>é</b> */ "x\\n" \'y ${z} #1\t;\n--\n{% a %} @b $c 0x1F && <?php >>> 1\n \n'
    (node,) = all_of(render(f"```{language.upper()}\n{code}```"), "code")
    assert shown([node]) == code


def test_code_that_a_lexer_reads_slowly_is_not_highlighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for highlighting has a limit."""
    monkeypatch.setattr(rendered_text, "MAX_HIGHLIGHTING_SECONDS", 0)
    assert all_of(render("```python\nslow = 1\n```"), "code") == [["code", "slow = 1\n"]]


# Markdown


def test_markdown_becomes_elements() -> None:
    """Headings, emphasis, rules and line breaks are what Markdown says. Models mean their line breaks."""
    assert render("# T\n**a** *b* ~~c~~ `d`\ne\n\n---\n> q") == [
        ["h1", "T"],
        ["p", ["strong", "a"], " ", ["em", "b"], " ", ["s", "c"], " ", ["code", "d"], ["br"], "e"],
        ["hr"],
        ["blockquote", ["p", "q"]],
    ]


def test_lists_nest_and_keep_their_first_number() -> None:
    """Lists are inside the items that they belong to."""
    assert render("3. a\n   - b\n     1. c\n4. d") == [
        ["ol", {"start": 3}, ["li", "a", ["ul", ["li", "b", ["ol", ["li", "c"]]]]], ["li", "d"]]
    ]


def test_table_keeps_its_alignment() -> None:
    """Alignment is a class of the cells."""
    assert render("|a|b|\n|-|-:|\n|`1`|2|") == [
        [
            "table",
            ["thead", ["tr", ["th", "a"], ["th", {"class": "right"}, "b"]]],
            ["tbody", ["tr", ["td", ["code", "1"]], ["td", {"class": "right"}, "2"]]],
        ]
    ]


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ("[text](https://x.y)", "text (https://x.y)"),
        ("[*te*xt](https://x.y 'title')", 'text (https://x.y "title")'),
        ("[https://x.y](https://x.y)", "https://x.y"),
        ("<https://x.y>", "https://x.y"),
        ("<me@x.y>", "me@x.y"),
    ],
)
def test_address_of_a_link_is_text(link: str, text: str) -> None:
    """A link shows where it leads, once, and cannot be followed."""
    (span,) = all_of(render(link), "span")
    assert attributes(span) == {"class": "link"}
    assert shown([span]) == text


def test_image_is_its_description() -> None:
    """Nothing is loaded."""
    assert render("*x* ![a cat](https://x.y/z.png)!") == [["p", ["em", "x"], " [image: a cat]!"]]


# Limits


def test_long_text_is_not_rendered() -> None:
    """The page shows texts beyond the limit as they are."""
    assert render("*x*" + " " * (MAX_CHARACTERS - 3)) is not None
    assert render("*x*" + " " * (MAX_CHARACTERS - 2)) is None


def test_text_that_breaks_the_parser_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a library leaves the plain text."""

    def fail(_: str) -> None:
        raise RecursionError

    monkeypatch.setattr(rendered_text._MARKDOWN, "parse", fail)
    assert render("*a text that breaks the parser*") is None


def test_tree_deeper_than_the_limit_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that builds the nodes with recursion cannot fail."""
    monkeypatch.setattr(rendered_text, "MAX_DEPTH", 3)
    assert render("- *three*") is not None
    assert render("> - *four*") is None


HOSTILE = [
    *[
        "[",
        "![",
        "[[[[",
        "[a](",
        "![a](b",
        "](",
        "*",
        "**a ",
        "*a_ ",
        "****",
        "~~a ",
        "`",
        "`a ",
        "``a` ",
        "```\n",
        "~~~a\n",
    ],
    *[
        "$",
        "$$",
        "$a ",
        "$$a\n",
        r"\(",
        "\\[\n",
        r"\[a ",
        r"\boxed{",
        r"\boxed{{}",
        "\\begin{align}\n",
        "\\",
        "{",
        "<",
        "<a ",
    ],
    *[
        "<!--",
        "&",
        "> ",
        ">",
        "- ",
        "- a\n",
        "1. ",
        "# ",
        "=\n",
        "a\n-\n",
        "|",
        "|a\n|-\n",
        "a|b\n-|-\n",
        "[a]: <",
        "\n",
        " ",
    ],
    *["    a\n", "*[", "[`", "\\[\n- ", "```c\n\n\n```\n", "> ```\n\n"],
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_work_grows_with_the_length_not_with_its_square(unit: str) -> None:
    """Twice the text takes about twice the calls, so a hostile text of the largest size takes about a second."""
    short, long = (_calls((unit * length)[:length] + "x") for length in (3_000, 6_000))
    assert long < 2.7 * short + 1_000


def test_lines_after_deep_quotes_are_read_a_few_times() -> None:
    """The depth of quotes has a limit, because each line continues all of them."""
    shallow, deep = (_calls(">" * level + "a\n" + "b\n" * 1_000) for level in (10, 1_000))
    assert deep < 2 * shallow


def _calls(text: str) -> int:
    """Calls of functions while a text is rendered, which do not depend on the speed of the machine."""
    count = 0

    def profile(*_: Any) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    rendered_text._rendered.cache_clear()
    rendered_text._mathml.cache_clear()
    sys.setprofile(profile)
    try:
        render(text)
    finally:
        sys.setprofile(before)
    return count
