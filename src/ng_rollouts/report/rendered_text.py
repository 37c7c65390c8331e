"""Chat text as a safe tree for the page: Markdown, highlighted code and formulas, never the HTML that a model wrote.

A node is a text or `[tag, child, …]` or `[tag, {attribute: value}, child, …]`. The page makes elements and text nodes
of them one by one. Nothing in the tree is parsed as HTML, and no attribute can hold an address, a style or a script.

Texts come from models, so the module keeps these rules:

- Tags and attributes are those of `TAGS`, `MATHML_TAGS` and `MATHML_ATTRIBUTES`, and `class`, and `start` of `ol`.
- Words are not lost. What the renderer cannot show stays visible as its source: HTML, entities, link definitions,
  formulas that the converter rejects, tables with cells that have no column.
- Time is about linear in the length of a text. Nesting, formulas and highlighted code have limits.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from time import thread_time
from typing import Any, TypeAlias
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, blockquote, list_block, table
from markdown_it.rules_block.table import escapedSplit
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

Node: TypeAlias = "str | list[Any]"

TAGS = frozenset(
    "p h1 h2 h3 h4 h5 h6 em strong s code pre ul ol li blockquote table thead tbody tr th td hr br span div".split()
)
MATHML_TAGS = frozenset(
    "math mrow mi mo mn ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd"
    " mstyle mpadded mphantom menclose".split()
)
MATHML_ATTRIBUTES = frozenset(
    "display mathvariant stretchy fence form columnalign rowspan columnspan linethickness accent lspace rspace width"
    " height depth".split()
)

MAX_CHARACTERS = 100_000
MAX_DEPTH = 50
_MAX_NESTING = 20
MAX_FORMULA_CHARACTERS = 2_000
MAX_FORMULA_DEPTH = 40
# A formula takes about 0.1 ms, so a text of nothing but formulas would take seconds.
MAX_FORMULAS_CHARACTERS = 50_000
MAX_CODE_CHARACTERS = 20_000
# Some lexers take quadratic time for odd code. Ordinary code of 20_000 characters takes about 0.03 s.
MAX_HIGHLIGHTING_SECONDS = 0.5
# How far to look for the end of a formula. Longer than a formula may be, so that its source is not read as Markdown.
_FORMULA_WINDOW = 2 * MAX_FORMULA_CHARACTERS

# Aliases of Pygments. Its other lexers are not tested with hostile code here, and some have slow regular expressions.
LANGUAGES = frozenset(
    "bash sh shell zsh console c c++ cpp csharp c# css diff docker dockerfile go golang graphql haskell hs html ini"
    " java javascript js json json5 julia kotlin latex tex lua make makefile nginx objective-c perl php"
    " powershell proto protobuf py pycon python python3 r rb ruby rs rust scala scss sql sqlite3 swift toml ts"
    " typescript xml yaml yml zig".split()
)
# Token types that the page shows like plain text. Snippets are often incomplete, so errors are not marked.
_PLAIN_TYPES = frozenset(["", "n", "p", "w", "x", "err"])

_MARKUP = re.compile(r"[*_`~$\\|<\[#>]|^ *(?:[-+]|\d+[.)])\s|^ *[-=]+[ \t]*$|^(?: {4}|\t)", re.MULTILINE)
_LANGUAGE = re.compile(r"[\w+#.-]+")
_SAFE_VALUE = re.compile(r"[A-Za-z0-9 .%#+-]*")

_CLOSING = {"$$": "$$", r"\[": r"\]", r"\(": r"\)"}
# Pandoc's rule for dollars: no space inside, no digit after. It keeps "$5 and $10" as text; so is "$HOME:$PATH" here.
_DOLLARS = re.compile(r"(?<![\w$\\])\$(?![\s$])((?:[^$\\`]|\\.)++)(?<!\s)\$(?![\d{$]|[A-Z_]{2})", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\begin\{((?:align|alignat|eqnarray|equation|gather|multline)\*?)\}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?")
_WORD = re.compile(r"\s[a-z]{2,}\s|^[a-z]{4,}\s|\s[a-z]{4,}$")
_SIGN = re.compile(r"[\\^_=+*/<>|-]")

# Macros can grow a formula without bound, and latex2mathml ends \text at the first brace.
_UNSUPPORTED = re.compile(r"\\(?:(?:re)?newcommand|def|DeclareMathOperator|newenvironment)|\\text\w*\s*\{[^{}]*\{")
_ESCAPED = re.compile(r"\\([_%#$&{} ])")
_ARGUMENTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\\)%", r"\\%"),  # models write percent signs, not comments
        (r"\\label\s*\{[^{}]*\}", ""),
        (r"(\\\\)\s*\[\s*-?[\d.]+\s*[a-z]+\s*\]", r"\1"),  # the height after a line break
        (r"\\(begin|end)\{(?:aligned|align|alignat\*?|alignedat|eqnarray\*?)\}(?:\{\d+\})?", r"\\\1{align*}"),
        (r"\\(begin|end)\{(?:gather|gathered|multline)\*?\}", r"\\\1{matrix}"),
        (r"\\(begin|end)\{dcases\}", r"\\\1{cases}"),
        # words, not a product of letters
        (r"\\boxed\{([^{}\\^_$&=+<>]*[A-Za-z]{2}[^{}\\^_$&=+<>]*)\}", r"\\boxed{\\text{\1}}"),
        (r"\\text\{([^{}]*\$[^{}]*)\}", r"\\mbox{\1}"),  # of the two, \mbox reads the formulas inside
    ]
]


def render(text: str) -> list[Node] | None:
    """Render Markdown, code and formulas as a list of nodes.

    None if the plain text is as good: without markup, longer than `MAX_CHARACTERS`, or nested deeper than `MAX_DEPTH`.
    Texts repeat within a group, so the last few trees are cached: do not change them.
    """
    if len(text) > MAX_CHARACTERS or not _MARKUP.search(text):
        return None
    return _rendered(text)


@lru_cache(maxsize=32)
def _rendered(text: str) -> list[Node] | None:
    try:
        nodes = _Tree().build(_MARKDOWN.parse(text))
    except Exception:  # a text that the parser cannot read is shown as it is
        return None
    return nodes if _has_markup(nodes) and not _is_deeper(nodes, MAX_DEPTH) else None


def _has_markup(nodes: list[Node]) -> bool:
    """Return whether the nodes are more than paragraphs with line breaks."""
    return any(
        node[0] != "p" or any(isinstance(child, list) and child[0] != "br" for child in node[1:]) for node in nodes
    )


def _is_deeper(nodes: Sequence[Node], depth: int) -> bool:
    level: Sequence[Any] = nodes
    for _ in range(depth):
        level = [child for node in level if isinstance(node, list) for child in node[1:]]
    return any(isinstance(node, list) for node in level)


class _Tree:
    """Nodes of the tokens of one text."""

    def __init__(self) -> None:
        self._open: list[list[Any]] = [[]]
        self._urls: list[str] = []
        self._formula_characters = 0
        self._highlighting_seconds = MAX_HIGHLIGHTING_SECONDS

    def build(self, tokens: Iterable[Token]) -> list[Node]:
        for token in _flat(tokens):
            if token.nesting > 0:
                self._start(token)
            elif token.nesting < 0:
                self._end(token)
            else:
                for node in self._leaf(token):
                    _append(self._open[-1], node)
        return self._open[0]

    def _start(self, token: Token) -> None:
        tag = "span" if token.tag == "a" else token.tag
        if tag not in TAGS:
            raise ValueError(f"unexpected tag {tag}")
        node: list[Any] = [tag]
        if token.type == "link_open":
            node.append({"class": "link"})
            # The text of an autolink is its address.
            self._urls.append("" if token.markup == "autolink" else _address(token))
        elif token.type == "ordered_list_open" and "start" in token.attrs:
            node.append({"start": token.attrs["start"]})
        elif token.tag in ("th", "td") and "style" in token.attrs:
            node.append({"class": str(token.attrs["style"]).removeprefix("text-align:")})
        self._open[-1].append(node)
        self._open.append(node)

    def _end(self, token: Token) -> None:
        node = self._open.pop()
        if token.type == "link_close" and (url := self._urls.pop()) and node[2:] != [url]:
            _append(node, f" ({url})")

    def _leaf(self, token: Token) -> Iterator[Node]:
        match token.type:
            case "text":
                yield token.content
            case "softbreak" | "hardbreak":
                yield ["br"]
            case "code_inline":
                yield ["code", token.content]
            case "formula":
                yield self._formula(token)
            case "fence" | "code_block":
                yield from self._code(token)
            case "hr":
                yield ["hr"]
            case "image":
                yield f"[image: {token.content}]"
            case _:
                raise ValueError(f"unexpected token {token.type}")

    def _formula(self, token: Token) -> Node:
        source = ["code", {"class": "math"}, token.content]
        self._formula_characters += len(token.info)
        if self._formula_characters > MAX_FORMULAS_CHARACTERS:
            return source
        return _mathml(token.info, token.markup) or source

    def _code(self, token: Token) -> Iterator[Node]:
        info = token.info.strip()
        if info:
            yield ["div", {"class": "code-info"}, info]
        yield ["pre", ["code", *(self._highlighted(token.content, info) or [token.content])]]

    def _highlighted(self, code: str, info: str) -> list[Node] | None:
        language = _LANGUAGE.match(info)
        if language is None or len(code) > MAX_CODE_CHARACTERS:
            return None
        start = thread_time()
        nodes = _highlighted(code, language[0].lower(), start + self._highlighting_seconds)
        self._highlighting_seconds -= thread_time() - start
        return nodes


def _flat(tokens: Iterable[Token]) -> Iterator[Token]:
    """Yield block tokens and, in their places, the inline tokens. Paragraphs of tight lists are hidden."""
    for token in tokens:
        if token.type == "inline":
            yield from token.children or ()
        elif not token.hidden:
            yield token


def _append(parent: list[Any], node: Node) -> None:
    """Append a node, and join neighbouring texts."""
    if node == "":
        return
    if isinstance(node, str) and len(parent) > 1 and isinstance(parent[-1], str):
        parent[-1] += node
    else:
        parent.append(node)


def _address(link: Token) -> str:
    title = link.attrs.get("title")
    url = _MARKDOWN.normalizeLinkText(str(link.attrs["href"]))
    return f'{url} "{title}"' if title else url


# Code


def _highlighted(code: str, language: str, deadline: float) -> list[Node] | None:
    """Return the code as texts and spans with Pygments' short class names after "hl-".

    None for unknown languages, and if the CPU time of the thread passes the deadline.
    """
    if language not in LANGUAGES:
        return None
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:  # an older Pygments
        return None
    nodes: list[Any] = ["code"]
    last = ""
    for _, kind, value in lexer.get_tokens_unprocessed(code):
        if thread_time() > deadline:
            return None
        name = _short_name(kind)
        if name in _PLAIN_TYPES:
            _append(nodes, value)
        elif name == last:
            nodes[-1][2] += value
        else:
            nodes.append(["span", {"class": f"hl-{name}"}, value])
        last = name
    return nodes[1:]


def _short_name(kind: Any) -> str:
    while kind not in STANDARD_TYPES:
        kind = kind.parent
    return str(STANDARD_TYPES[kind])


# Formulas


@lru_cache(maxsize=1024)
def _mathml(formula: str, display: str) -> Node | None:
    """Return the formula as a MathML node, or None if it cannot be converted without loss. Formulas repeat in texts."""
    if len(formula) > MAX_FORMULA_CHARACTERS or _UNSUPPORTED.search(formula):
        return None
    for pattern, replacement in _REWRITES:
        formula = pattern.sub(replacement, formula)
    # Line breaks count only in a table. A formula may have them outside of one.
    for latex in (formula, rf"\begin{{matrix}}{formula}\end{{matrix}}"):
        try:
            return _filtered(convert_to_element(latex, display=display), 0)
        except Exception:  # noqa: S112 - the converter's errors have no common base
            continue
    return None


def _filtered(element: Element, depth: int) -> list[Any]:
    """Return an element with the tags and attributes of the page. Raise ValueError if it is not the whole formula."""
    text = _ESCAPED.sub(r"\1", element.text or "")
    # latex2mathml passes on what it does not know: commands, and separators outside of the tables that it knows.
    if "\\" in text or text == "&" or "linebreak" in element.attrib or depth > MAX_FORMULA_DEPTH:
        raise ValueError("no complete conversion")
    if len(element) != _ARGUMENTS.get(element.tag, len(element)):
        raise ValueError(f"{element.tag} lacks an argument")
    tag = element.tag if element.tag in MATHML_TAGS and not (text and len(element)) else "mrow"
    attributes = {
        name: value
        for name, value in element.attrib.items()
        if name in MATHML_ATTRIBUTES and _SAFE_VALUE.fullmatch(value)
    }
    if tag == "menclose":
        attributes["class"] = element.attrib.get("notation", "box")
    node: list[Any] = [tag, attributes] if attributes else [tag]
    if text:
        node.append(html.unescape(text))
    node.extend(_filtered(child, depth + 1) for child in element)
    return node


def _formula_at(text: str, start: int, limit: int) -> tuple[int, str, str] | None:
    """Return the end of the formula that starts at a position, its LaTeX without delimiters, and its display.

    None if the characters there do not delimit a formula.
    """
    opening = text[start : start + 2]
    if closing := _CLOSING.get(opening):
        end = text.find(closing, start + 2, min(limit, start + _FORMULA_WINDOW))
        formula = text[start + 2 : end]
        if end < 0 or not formula.strip() or _is_escaped_bracket(opening, formula):
            return None
        return end + 2, formula, "inline" if opening == r"\(" else "block"
    if opening.startswith("$"):
        dollars = _DOLLARS.match(text, start, limit)
        if dollars is None or _is_prose(dollars[1]):
            return None
        return dollars.end(), dollars[1], "inline"
    if text.startswith(r"\boxed{", start):
        end = _end_of_braces(text, start + len(r"\boxed"), limit)
        formula = text[start:end]
        return (end, formula, "inline") if formula[len(r"\boxed{") : -1].strip() else None
    if begin := _ENVIRONMENT.match(text, start, limit):
        closing = rf"\end{{{begin[1]}}}"
        end = text.find(closing, begin.end(), min(limit, start + _FORMULA_WINDOW))
        return (end + len(closing), text[start : end + len(closing)], "block") if end > 0 else None
    return None


def _is_prose(formula: str) -> bool:
    r"""Return whether words, not a formula, stand between two dollars: "$5 to 6 (US$)", but not "$3\text{ to }x$"."""
    outside_commands = _COMMAND.sub("", formula)
    amount = formula[0].isdigit() and re.search("[A-Za-z]{3}", outside_commands)
    return bool(amount or _WORD.search(outside_commands))


def _is_escaped_bracket(opening: str, formula: str) -> bool:
    r"""Return whether brackets are escaped text, as in "see \[1\]" and "\(as below\)"."""
    if opening == "$$" or _SIGN.search(formula):
        return False
    tight = opening == r"\[" and not formula[0].isspace()
    return tight or bool(_WORD.search(formula))


def _end_of_braces(text: str, start: int, limit: int) -> int:
    """Return the position after the group in braces that starts at a position; `start` if it does not end."""
    depth = 0
    for brace in _BRACE.finditer(text, start, min(limit, start + MAX_FORMULA_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 or depth > MAX_FORMULA_DEPTH:
            return brace.end() if depth == 0 else start
    return start


# Rules of markdown-it
# The formula plugins of mdit-py-plugins know dollars (dollarmath) or brackets (texmath, in quadratic time), not both.


def _inline_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - markdown-it's interface
    if state.src[state.pos] not in "$\\":
        return False
    found = _formula_at(state.src, state.pos, state.posMax)
    if found is None:
        return False
    end, formula, display = found
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.info, token.markup = state.src[state.pos : end], formula, display
    state.pos = end
    return True


def _block_formula(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:  # noqa: FBT001
    """Keep the lines of a display formula in one paragraph: lines such as "=" and "- x" stay text."""
    start = state.bMarks[start_line] + state.tShift[start_line]
    if not state.src.startswith(("$$", r"\[", r"\begin{"), start) or state.is_code_block(start_line):
        return False
    found = _formula_at(state.src, start, state.eMarks[end_line - 1])
    if found is None:
        return False
    line = start_line
    while state.eMarks[line] < found[0]:
        line += 1
        if line >= end_line or (state.sCount[line] < state.blkIndent and not state.isEmpty(line)):
            return False
    if not silent:
        state.line = line + 1
        state.push("paragraph_open", "p", 1)
        token = state.push("inline", "", 0)
        token.content = state.getLines(start_line, state.line, state.blkIndent, False).strip()  # noqa: FBT003
        token.children = []
        state.push("paragraph_close", "p", -1)
    return True


def _whole_table(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:  # noqa: FBT001
    """Read a table unless a row has more cells than the header: markdown-it would drop them."""
    if state.env.get("lossy_table"):
        return False
    first_token = len(state.tokens)
    found = table(state, start_line, end_line, silent)
    if silent or not found:
        return found
    columns, *rows = (_cell_count(state, line) for line in range(start_line, state.line) if line != start_line + 1)
    if all(count <= columns for count in rows):
        return True
    del state.tokens[first_token:]
    state.line = start_line
    state.env["lossy_table"] = True  # once per text, because each try reads all lines that follow
    return False


def _cell_count(state: StateBlock, line: int) -> int:
    cells = escapedSplit(state.src[state.bMarks[line] : state.eMarks[line]].strip())
    return len(cells) - (cells[0] == "") - (len(cells) > 1 and cells[-1] == "")


def _up_to(level: int, rule: Callable[..., bool]) -> Callable[..., bool]:
    """Return a block rule that does not match below a level of nesting: its markup stays text there.

    markdown-it would drop the blocks below `maxNesting`, and reads each line again for each quote around it.
    """
    return lambda state, *arguments: state.level < level and rule(state, *arguments)


def _markdown() -> MarkdownIt:
    options = {"html": False, "linkify": False, "breaks": True, "maxNesting": _MAX_NESTING}
    markdown = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    # Definitions of links would vanish from the text, and entities would change it.
    markdown.disable(["reference", "entity", "html_block", "html_inline"])
    markdown.block.ruler.at("table", _whole_table, {"alt": ["paragraph"]})
    markdown.block.ruler.at(
        "blockquote", _up_to(_MAX_NESTING // 2, blockquote), {"alt": ["paragraph", "blockquote", "list"]}
    )
    # A list and its item are two levels.
    markdown.block.ruler.at("list", _up_to(_MAX_NESTING - 2, list_block), {"alt": ["paragraph", "blockquote"]})
    markdown.block.ruler.before("fence", "formula", _block_formula, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.inline.ruler.before("escape", "formula", _inline_formula)
    return markdown


_MARKDOWN = _markdown()
