"""Mutants of the contracts, all in one build: each hides behind a switch that a test run sets from outside.

Every operator, guard, effect and literal of our own Solidity is found in the compiler's syntax tree. Where it stands,
the copy reads `(Mutant.on(17) ? a >= b : a < b)`: mutant 17 lives when the block's coinbase is its number, which no
contract reads and forge takes from an environment variable. So all mutants cost one compilation, and each one test run.
Assembly and the values of constants are not mutated; the uses of constants are.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOLC = ROOT / ".venv" / "solcx" / "solc-v0.8.37"
FIRST = 0xC0DE0000
SWITCH = """// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

library Mutant {
    function on(uint256 id) internal pure returns (bool) {
        function(uint256) internal view returns (bool) look = _on;
        function(uint256) internal pure returns (bool) blind;
        assembly {
            blind := look
        }
        return blind(id);
    }

    function _on(uint256 id) private view returns (bool) {
        return block.coinbase == address(uint160(id));
    }
}
"""
OPERATORS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "%": ("*",),
    "&&": ("||",),
    "||": ("&&",),
    "&": ("|",),
    "|": ("&",),
    "<<": (">>",),
    ">>": ("<<",),
}
ASSIGNMENTS = {"+=": "-=", "-=": "+=", "|=": "&="}
Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`before` at bytes `start`..`end` of a file becomes `after`; `key` names it whatever the line is."""

    key: str
    file: str
    line: int
    start: int
    end: int
    before: str
    after: str
    statement: bool


def sources() -> list[Path]:
    """The contracts whose mutants have to die."""
    found = sorted((ROOT / "contracts").rglob("*.sol"))
    return [p for p in found if p.name != "TestToken.sol" and p.parent.name != "interfaces"]


def parsed(paths: list[Path]) -> dict[str, Node]:
    """Syntax tree of each file, by its path in the project."""
    names = {str(p.relative_to(ROOT)): {"content": p.read_text()} for p in paths}
    settings = {"stopAfter": "parsing", "outputSelection": {"*": {"": ["ast"]}}}
    asked = json.dumps({"language": "Solidity", "sources": names, "settings": settings})
    done = subprocess.run([SOLC, "--standard-json"], input=asked, check=True, capture_output=True, text=True)
    return {name: found["ast"] for name, found in json.loads(done.stdout)["sources"].items()}


class Finder:
    """Walks one file's tree and lists its mutants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_bytes()
        self.found: list[Mutant] = []
        self.function = ""
        self.places: set[str] = set()
        self.seen: dict[str, int] = {}

    def span(self, node: Node) -> tuple[int, int]:
        """First byte of the node and the one behind its last."""
        start, length, _ = (int(x) for x in node["src"].split(":"))
        return start, start + length

    def code(self, node: Node) -> str:
        """The node as it is written."""
        start, end = self.span(node)
        return self.text[start:end].decode()

    def add(self, node: Node, after: str, statement: bool = False) -> None:
        """A mutant in the place of this node."""
        start, end = self.span(node)
        before = self.code(node)
        key = f"{self.name} {self.function}: {' '.join(before.split())} -> {' '.join(after.split())}"
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] > 1:
            key += f" #{self.seen[key]}"
        line = self.text.count(b"\n", 0, start) + 1
        self.found.append(Mutant(key, self.name, line, start, end, before, after, statement))

    def swap(self, node: Node, part: Node, after: str) -> None:
        """A mutant in the place of the node, in which one part is other."""
        (start, end), (low, high) = self.span(node), self.span(part)
        self.add(node, (self.text[start:low] + after.encode() + self.text[high:end]).decode())

    def walk(self, node: Any) -> None:
        """Mutants of this node and of what is in it."""
        if isinstance(node, list):
            for item in node:
                self.walk(item)
        elif isinstance(node, dict) and "nodeType" in node:
            kind = node["nodeType"]
            if kind in ("InlineAssembly", "EventDefinition", "ErrorDefinition", "ImportDirective"):
                return
            if kind == "VariableDeclaration" and node.get("constant"):
                return
            if kind == "FunctionDefinition":
                self.function = node["name"] or node["kind"]
                given = node["returnParameters"]["parameters"]
                self.places = {p["name"] for p in given if p["storageLocation"] == "storage"}
            getattr(self, f"_{kind}", lambda _: None)(node)
            for key, child in node.items():
                if key != "loopExpression":  # a loop that never ends is no mutant worth its time
                    self.walk(child)

    def _ExpressionStatement(self, node: Node) -> None:
        # Without it a place in storage would be returned that was never chosen: that does not compile.
        left = node.get("expression", {}).get("leftHandSide", {})
        names = {part.get("name") for part in left.get("components") or [left] if part}
        if not names & self.places:
            self.add(node, "", statement=True)

    _EmitStatement = _ExpressionStatement

    def _IfStatement(self, node: Node) -> None:
        self.add(node["condition"], "false")
        body = node["trueBody"]
        only = body["statements"][0] if body["nodeType"] == "Block" and body["statements"] else body
        if only["nodeType"] != "RevertStatement":
            self.add(node["condition"], "true")

    def _Conditional(self, node: Node) -> None:
        self.add(node, self.code(node["trueExpression"]))
        self.add(node, self.code(node["falseExpression"]))

    def _Assignment(self, node: Node) -> None:
        if node["operator"] in ASSIGNMENTS:
            other, left = ASSIGNMENTS[node["operator"]], node["leftHandSide"]
            self.add(node, f"{self.code(left)} {other} {self.code(node['rightHandSide'])}")

    def _BinaryOperation(self, node: Node) -> None:
        left, right = node["leftExpression"], node["rightExpression"]
        if {left["nodeType"], right["nodeType"]} == {"Literal"}:
            return
        for other in OPERATORS.get(node["operator"], ()):
            self.add(node, f"{self.code(left)} {other} {self.code(right)}")
        if node["operator"] in ("&&", "||"):
            self.add(node, self.code(left))
            self.add(node, self.code(right))
        for part in (left, right):
            self._number(node, part)

    def _FunctionCall(self, node: Node) -> None:
        if node["expression"]["nodeType"] == "ElementaryTypeNameExpression":
            return
        for part in node["arguments"]:
            self._number(part, part)

    def _number(self, whole: Node, part: Node) -> None:
        """One more than a number or a constant."""
        name = part.get("name") or part.get("memberName") or ""
        if part["nodeType"] == "Literal" and part["kind"] == "number" and not part.get("subdenomination"):
            self.swap(whole, part, str(int(part["value"].replace("_", ""), 0) + 1))
        elif re.fullmatch(r"[A-Z][A-Z_]+", name):
            self.swap(whole, part, f"({self.code(part)} + 1)")

    def _Literal(self, node: Node) -> None:
        if node["kind"] == "bool":
            self.add(node, {"true": "false", "false": "true"}[node["value"]])

    def _UnaryOperation(self, node: Node) -> None:
        if node["operator"] in ("!", "-", "~") and node["subExpression"]["nodeType"] != "Literal":
            self.add(node, self.code(node["subExpression"]))


def mutants() -> list[Mutant]:
    """All of them, in the order of the sources."""
    found = []
    for name, tree in parsed(sources()).items():
        finder = Finder(name)
        finder.walk(tree)
        found += finder.found
    return found


def written(name: str, alive: dict[int, Mutant]) -> bytes:
    """The file with a switch for each of these mutants, by number."""
    text = (ROOT / name).read_bytes()
    groups: dict[tuple[int, int], list[tuple[int, Mutant]]] = {}
    for number, mutant in alive.items():
        groups.setdefault((mutant.start, mutant.end), []).append((number, mutant))
    sites = sorted(groups, key=lambda site: (site[0], -site[1]))
    body = _render(text, 0, len(text), sites, groups)
    up = "../" * (len(Path(name).parts) - 2)
    line = f'import {{Mutant}} from "./{up}Mutant.sol";'
    return re.sub(rb"(pragma [^\n]*\n)", rb"\1" + line.encode() + b"\n", body, count=1)


def _render(
    text: bytes,
    start: int,
    end: int,
    sites: list[tuple[int, int]],
    groups: dict[tuple[int, int], list[tuple[int, Mutant]]],
) -> bytes:
    """Bytes start..end with what the sites inside become; a mutant's own text stays as it was."""
    out, at = b"", start
    for place, (low, high) in enumerate(sites):
        if low < at:
            continue  # inside of one that is written already
        inner = _render(text, low, high, [s for s in sites[place + 1 :] if s[1] <= high], groups)
        for number, mutant in reversed(groups[low, high]):
            test = f"Mutant.on({FIRST + number})".encode()
            if mutant.statement:
                inner, high = b"{ if (!%b) { %b; } }" % (test, inner), high + 1
            else:
                inner = b"(%b ? %b : %b)" % (test, mutant.after.encode(), inner)
        out, at = out + text[at:low] + inner, high
    return out + text[at:end]


def each(found: list[Mutant]) -> Iterator[tuple[str, dict[int, Mutant]]]:
    """Each file with its mutants by their numbers in the list."""
    for name in dict.fromkeys(m.file for m in found):
        yield name, {n: m for n, m in enumerate(found) if m.file == name}
